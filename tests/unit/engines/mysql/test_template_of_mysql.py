"""A data directory that was kept is unpacked as it was, without what is one node's own."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from mainstay.engines.mysql import template
from mainstay.host.processes import User
from mainstay.model.engine import ORIGIN_SYSTEM, EngineBuild
from mainstay.model.errors import Permanent

US = User("nobody in particular")


@pytest.fixture
def build(tmp_path: Path) -> EngineBuild:
    prefix = tmp_path / "builds" / "mysql-1.2.3"
    return EngineBuild(
        engine="mysql", version="1.2.3", major="1.2", family="mysql1.2", prefix=prefix, bin_directory=prefix,
        library_directory=prefix, share_directory=prefix, origin="installed",
    )  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    (made / "mysql").mkdir(parents=True)
    (made / "mysql.ibd").write_bytes(bytes(range(256)) * 1000)
    (made / "mysql" / "general_log.CSM").write_bytes(b"table")
    for own in ("auto.cnf", "private_key.pem", "public_key.pem"):
        (made / own).write_text("of one server")
    return made


async def test_what_was_kept_is_unpacked(build: EngineBuild, data: Path, tmp_path: Path) -> None:
    template.keep(build, data)
    for there in (False, True):
        target = tmp_path / f"target-{there}"
        if there:
            target.mkdir()
        await template.make(build, target, US)
        found = {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}
        assert found == {"mysql.ibd": bytes(range(256)) * 1000, "mysql/general_log.CSM": b"table"}


@pytest.mark.parametrize("damage", [b"", b"not an archive"])
async def test_without_a_template_the_server_is_asked(
    build: EngineBuild, data: Path, tmp_path: Path, damage: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template, "bootstrap_command", lambda _build: ["/nowhere/mysqld"])
    with pytest.raises(Permanent, match="/nowhere/mysqld"):
        await template.make(build, tmp_path / "target", US)
    template.keep(build, data)
    kept = template.kept_at(build)
    assert kept is not None and kept.exists()
    kept.write_bytes(damage)
    with pytest.raises(Permanent, match="/nowhere/mysqld"):
        await template.make(build, tmp_path / "target", US)


def test_the_hosts_own_mysql_has_no_place_for_one(build: EngineBuild, data: Path, tmp_path: Path) -> None:
    system = msgspec.structs.replace(build, origin=ORIGIN_SYSTEM, prefix=Path("/"))
    template.keep(system, data)
    assert template.kept_at(system) is None and not (tmp_path / "builds").exists()
