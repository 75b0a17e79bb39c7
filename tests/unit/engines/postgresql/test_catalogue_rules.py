"""From rows of pg_settings to AWS's parameter definitions."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from mainstay.decide.parameters import check_value
from mainstay.engines.builds import Builds
from mainstay.engines.postgresql import catalogue
from mainstay.engines.postgresql.catalogue import FORBIDDEN, Catalogue, Row, define, own_parameters, preloadable
from mainstay.model.engine import DYNAMIC, SOURCE_ENGINE_DEFAULT, SOURCE_SYSTEM, STATIC, EngineBuild
from mainstay.model.errors import ApiError
from mainstay.settings import Settings


def row(name: str = "work_mem", **changes: object) -> Row:
    """A row like work_mem's, changed."""
    base = Row(name, "integer", "user", "kB", "64", "2147483647", None, "4096", "Sets memory.", "Resource Usage")
    return msgspec.structs.replace(base, **changes)


def test_a_number_has_its_range_unit_and_default() -> None:
    found = define(row())
    assert (found.data_type, found.allowed_values, found.unit) == ("integer", "64-2147483647", "kB")
    assert (found.default, found.source, found.apply_type) == ("4096", SOURCE_ENGINE_DEFAULT, DYNAMIC)
    assert found.is_modifiable


@pytest.mark.parametrize(
    ("context", "apply_type", "is_modifiable"),
    [
        ("internal", STATIC, False),
        ("postmaster", STATIC, True),
        ("sighup", DYNAMIC, True),
        ("backend", DYNAMIC, True),
        ("superuser", DYNAMIC, True),
        ("user", DYNAMIC, True),
    ],
)
def test_the_context_decides_when_a_change_applies(context: str, apply_type: str, is_modifiable: bool) -> None:
    found = define(row(context=context))
    assert (found.apply_type, found.is_modifiable) == (apply_type, is_modifiable)


def test_booleans_are_0_and_1_as_on_rds() -> None:
    found = define(row("jit", vartype="bool", boot_val="on", min_val=None, max_val=None))
    assert (found.data_type, found.allowed_values, found.default) == ("boolean", "0,1", "1")


def test_an_enum_lists_its_values() -> None:
    found = define(row("x", vartype="enum", enumvals=["md5", "scram-sha-256"], boot_val="md5"))
    assert (found.data_type, found.allowed_values) == ("string", "md5,scram-sha-256")


def test_names_are_lower_case_as_on_rds_and_the_time_zone_is_utc() -> None:
    found = define(row("TimeZone", vartype="string", boot_val="GMT", min_val=None, max_val=None))
    assert (found.name, found.default, found.source) == ("timezone", "UTC", SOURCE_SYSTEM)
    check_value(found, "Europe/Berlin")
    with pytest.raises(ApiError):
        check_value(found, "Mars/Olympus")


def test_memory_follows_the_instance_class() -> None:
    found = define(row("shared_buffers", context="postmaster"))
    assert (found.default, found.source) == ("{DBInstanceClassMemory/32768}", SOURCE_SYSTEM)


def test_only_vetted_libraries_of_the_build_can_be_preloaded() -> None:
    found = define(row("shared_preload_libraries", vartype="string", boot_val=""), ("pg_stat_statements", "pgaudit"))
    assert found.data_type == "list"
    check_value(found, "pgaudit,pg_stat_statements")
    for value in ("auto_explain", "/tmp/evil.so", "pgaudit,../evil"):
        with pytest.raises(ApiError):
            check_value(found, value)


@pytest.mark.parametrize(
    "name",
    [
        "archive_command", "data_directory", "dynamic_library_path", "extension_control_path", "extension_destdir",
        "fsync", "full_page_writes", "hba_file", "jit_provider", "listen_addresses", "local_preload_libraries",
        "log_directory", "port", "primary_conninfo", "restore_command", "session_preload_libraries", "ssl_key_file",
        "ssl_passphrase_command", "superuser_reserved_connections", "synchronous_standby_names",
        "unix_socket_directories",
    ],
)  # fmt: skip
def test_what_reaches_outside_the_instance_cannot_be_modified(name: str) -> None:
    assert name in FORBIDDEN
    assert not define(row(name)).is_modifiable


def test_developer_options_cannot_be_modified() -> None:
    assert not define(row("debug_anything", category="Developer Options")).is_modifiable


def test_rds_parameters() -> None:
    own = {definition.name: definition for definition in own_parameters(17)}
    assert set(own) == {
        "rds.accepted_password_auth_method",
        "rds.force_ssl",
        "rds.log_retention_period",
        "rds.logical_replication",
    }
    assert (own["rds.force_ssl"].default, own["rds.force_ssl"].apply_type) == ("1", DYNAMIC)
    assert own["rds.logical_replication"].apply_type == STATIC
    before = {definition.name: definition for definition in own_parameters(14)}
    assert before["rds.force_ssl"].default == "0"


def _build(tmp_path: Path) -> EngineBuild:
    return EngineBuild(
        engine="postgres", version="17.5", major="17", family="postgres17", prefix=tmp_path, origin="installed",
        bin_directory=tmp_path / "bin", library_directory=tmp_path / "lib", share_directory=tmp_path / "share",
    )  # fmt: skip


def test_preloadable_libraries_are_those_the_build_has(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    for name in ("auto_explain", "pgaudit", "evil"):
        (tmp_path / "lib" / f"{name}.so").touch()
    assert preloadable(_build(tmp_path)) == ("auto_explain", "pgaudit")


def test_the_engine_is_asked_once_and_a_damaged_memory_of_it_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def ask(build: EngineBuild, _user: str) -> list[Row]:
        asked.append(build.name)
        return [row(), row("DateStyle", vartype="string", boot_val="ISO, MDY")]

    monkeypatch.setattr(catalogue, "ask_engine", ask)
    home = Settings(home=tmp_path / "home")
    first = Catalogue(Builds(home)).definitions(_build(tmp_path))
    assert list(first) == sorted(first)
    assert {"work_mem", "datestyle", "rds.force_ssl"} <= set(first)
    assert Catalogue(Builds(home)).definitions(_build(tmp_path)) == first
    assert len(asked) == 1
    [memory] = (home.builds / "catalogue").iterdir()
    memory.write_text('[{"name": "from an older version"}]')
    assert Catalogue(Builds(home)).definitions(_build(tmp_path)) == first
    assert len(asked) == 2
