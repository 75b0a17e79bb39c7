"""Which proxy a name on the command line means, from the specs that the proxy process keeps."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest

from mainstay.cli.proxy import id_of, kept_specs, list_proxies
from mainstay.model.errors import Permanent
from mainstay.model.proxy import ProxySpec
from mainstay.settings import Settings


def keep(home: Path, proxy_id: str, name: str, region: str = "us-east-1") -> None:
    (home / "proxy").mkdir(exist_ok=True)
    spec = ProxySpec(
        proxy_id=proxy_id, name=name, account_id="1", region=region, generation=1, engine_family="POSTGRESQL"
    )
    (home / "proxy" / f"{proxy_id}.json").write_bytes(msgspec.json.encode(spec))


def test_a_proxy_is_named_by_its_name_in_any_case_or_its_id(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    keep(tmp_path, "prx-1", "pool")
    keep(tmp_path, "prx-2", "pond")
    assert [spec.name for spec in kept_specs(settings)] == ["pond", "pool"]
    assert id_of(settings, "POOL") == id_of(settings, "prx-1") == "prx-1"
    with pytest.raises(Permanent, match="no DB proxy 'absent'") as refused:
        id_of(settings, "absent")
    assert refused.value.hint == "There are: pond, pool."


def test_a_name_in_two_regions_asks_for_the_id(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    keep(tmp_path, "prx-1", "pool")
    keep(tmp_path, "prx-2", "pool", "eu-west-1")
    with pytest.raises(Permanent) as refused:
        id_of(settings, "pool")
    assert refused.value.hint == "Give an id: prx-2 (eu-west-1), prx-1 (us-east-1)."


def test_without_a_proxy_there_is_nothing_to_ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    list_proxies(home=tmp_path, as_json=True)
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_the_specs_of_another_user_are_said_to_be_so(tmp_path: Path) -> None:
    keep(tmp_path, "prx-1", "pool")
    (tmp_path / "proxy").chmod(0)
    try:
        with pytest.raises(Permanent, match="belongs to another user"):
            kept_specs(Settings(home=tmp_path))
    finally:
        (tmp_path / "proxy").chmod(0o700)
