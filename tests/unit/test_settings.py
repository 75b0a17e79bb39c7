"""Settings: sources in order of strength, types, and errors that name the culprit."""

from __future__ import annotations

from pathlib import Path

import pytest

from mainstay.model.errors import Permanent
from mainstay.settings import load_settings


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    (tmp_path / "mainstay.toml").write_text('port = 5001\naccount_id = "111111111111"\n')
    environ = {"MAINSTAY_HOME": str(tmp_path), "MAINSTAY_PORT": "5002", "MAINSTAY_REGIONS": "eu-west-1,us-west-2"}
    settings = load_settings(environ, port=5003)
    assert (settings.port, settings.account_id, settings.regions) == (5003, "111111111111", ("eu-west-1", "us-west-2"))
    assert load_settings(environ).port == 5002
    assert settings.availability_zones["eu-west-1"] == ("eu-west-1a", "eu-west-1b", "eu-west-1c")


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("PORT", "http", "port"),
        ("PORT", "70000", "70000"),
        ("ACCOUNT_ID", "12", "twelve digits"),
        ("REGION", "mars-1", "mars-1"),
        ("ENDPOINT_PATH", "magic", "magic"),
        ("MEMORY_OVERCOMMIT", "much", "memory_overcommit"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, name: str, value: str, told: str) -> None:
    with pytest.raises(Permanent, match=told):
        load_settings({"MAINSTAY_HOME": str(tmp_path), f"MAINSTAY_{name}": value})


def test_an_unknown_line_and_broken_toml_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mainstay.toml").write_text("prot = 1\n")
    with pytest.raises(Permanent, match="prot"):
        load_settings({"MAINSTAY_HOME": str(tmp_path)})
    (tmp_path / "mainstay.toml").write_text("port = \n")
    with pytest.raises(Permanent, match="TOML"):
        load_settings({"MAINSTAY_HOME": str(tmp_path)})
