"""Settings: sources in order of strength, types, and errors that name the culprit."""

from __future__ import annotations

from pathlib import Path

import pytest

from mainstay.model.dns_name import is_dns_name
from mainstay.model.errors import Permanent
from mainstay.model.records import Scope
from mainstay.settings import load_settings
from mainstay.workflows.node_specs import endpoint_name


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
        ("OBJECT_STORAGE", "backups", "object_storage"),
        ("OBJECT_STORAGE", "http://127.0.0.1:9000/b", "object_storage"),
        ("DNS_ZONE", "a_b.c", "a_b.c"),
        ("DNS_ZONE", "db.example.com.", "no dot at the end|is not a DNS name"),
        ("DNS_ZONE", ".".join(["z" * 60] * 3), "DNS name of at most"),
        ("PROXY_WORKERS", "16", "proxy_workers"),
        ("PROXY_WORKERS", "-1", "proxy_workers"),
        ("DNS_LISTEN", "127.0.0.1", "dns_listen"),
        ("DNS_LISTEN", "localhost:53", "dns_listen"),
        ("DNS_LISTEN", "127.0.0.1:70000", "dns_listen"),
        ("DNS_LISTEN", "127.0.0.1:", "dns_listen"),
        ("DNS_LISTEN", "0.0.0.0:53", "dns_listen"),
        ("DNS_LISTEN", "[::]:53", "dns_listen"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, name: str, value: str, told: str) -> None:
    with pytest.raises(Permanent, match=told):
        load_settings({"MAINSTAY_HOME": str(tmp_path), f"MAINSTAY_{name}": value})


def test_names_are_served_nowhere_unless_asked_for(tmp_path: Path) -> None:
    home = {"MAINSTAY_HOME": str(tmp_path)}
    assert load_settings(home).dns_place is None
    assert load_settings({**home, "MAINSTAY_DNS_LISTEN": "127.0.0.1:5354"}).dns_place == ("127.0.0.1", 5354)
    assert load_settings({**home, "MAINSTAY_DNS_LISTEN": "[2001:db8::1]:53"}).dns_place == ("2001:db8::1", 53)


def test_the_longest_zone_leaves_room_for_every_name(tmp_path: Path) -> None:
    longest = ".".join(["z" * 60, "z" * 60, "z" * 40])
    settings = load_settings({"MAINSTAY_HOME": str(tmp_path), "MAINSTAY_DNS_ZONE": longest})
    name = endpoint_name(settings, Scope("123456789012", "us-west-2"), "i" * 63)
    assert is_dns_name(name) and len(name) == 253
    with pytest.raises(Permanent, match="dns_zone"):
        load_settings({"MAINSTAY_HOME": str(tmp_path), "MAINSTAY_DNS_ZONE": longest + "z"})


def test_an_unknown_line_and_broken_toml_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mainstay.toml").write_text("prot = 1\n")
    with pytest.raises(Permanent, match="prot"):
        load_settings({"MAINSTAY_HOME": str(tmp_path)})
    (tmp_path / "mainstay.toml").write_text("port = \n")
    with pytest.raises(Permanent, match="TOML"):
        load_settings({"MAINSTAY_HOME": str(tmp_path)})


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 1), (3, 2), (4, 3), (9, 8), (64, 8)])
def test_proxy_workers_by_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cores: int, workers: int) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(cores)))
    assert load_settings({"MAINSTAY_HOME": str(tmp_path)}).proxy_worker_count == workers
    given = load_settings({"MAINSTAY_HOME": str(tmp_path), "MAINSTAY_PROXY_WORKERS": "5"})
    assert given.proxy_worker_count == 5
