"""What is read of a copy while it is brought to its final state, and what of it must be read once more."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from mainstay.backups.sources import walk
from mainstay.engines.mysql_family.backups import PhysicalBackup, changes
from mainstay.engines.mysql_family.log_places import Place
from mainstay.model.errors import Permanent, Transient


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A few files of a data directory."""
    (tmp_path / "shop").mkdir()
    for name in ("ibdata1", "ib_logfile0", "xtrabackup_info", "shop/kept.ibd", "shop/other.ibd", "shop/kept.frm"):
        (tmp_path / name).write_bytes(b"x" * 100)
    return tmp_path


def backup_of(copy: Path) -> PhysicalBackup:
    """One that was just taken."""
    return PhysicalBackup(copy, Place(1, 1, 4), 1.0, from_standby=False)


def test_tablespaces_that_nobody_wrote_to_are_not_read_again_and_everything_else_is(copy: Path) -> None:
    before = list(walk(copy))
    time.sleep(0.02)
    with (copy / "shop" / "kept.ibd").open("r+b") as file:
        file.write(b"y")
    with (copy / "shop" / "other.ibd").open("rb") as file:
        file.read()
    (copy / "xtrabackup_info").unlink()
    (copy / "aria_log").mkdir()
    (copy / "aria_log" / "one").write_bytes(b"z")
    unread, gone = changes(before, list(walk(copy)))
    assert {one.path for one in unread} == {
        "ibdata1", "ib_logfile0", "shop/kept.ibd", "shop/kept.frm", "aria_log", "aria_log/one",
    }  # fmt: skip
    assert gone == ("xtrabackup_info",)


def test_a_tablespace_of_another_size_at_the_same_time_is_read_again(copy: Path) -> None:
    path = copy / "shop" / "kept.ibd"
    before, at = list(walk(copy)), path.stat()
    path.write_bytes(b"y" * 101)
    os.utime(path, ns=(at.st_atime_ns, at.st_mtime_ns))
    assert "shop/kept.ibd" in {one.path for one in changes(before, list(walk(copy)))[0]}


def test_a_file_system_that_notes_whole_seconds_is_not_believed(copy: Path) -> None:
    for path in copy.rglob("*.ibd"):
        os.utime(path, ns=(10**18, 10**18))
    before = list(walk(copy))
    assert {"shop/kept.ibd", "shop/other.ibd"} <= {one.path for one in changes(before, list(walk(copy)))[0]}


async def test_a_backup_ends_when_its_copy_is_complete_and_tells_what_that_has_changed(copy: Path) -> None:
    backup, ended = backup_of(copy), asyncio.Event()

    async def complete() -> None:
        await ended.wait()
        (copy / "shop" / "kept.ibd").write_bytes(b"y" * 100)

    async with backup.completing(complete):
        finishing = asyncio.create_task(backup.finish())
        await asyncio.sleep(0.05)
        assert not finishing.done()
        ended.set()
        end = await finishing
    assert "shop/kept.ibd" in {one.path for one in end.extra_files} and end.gone_files == ()
    assert "shop/other.ibd" not in {one.path for one in end.extra_files}


async def test_a_copy_that_cannot_be_completed_is_no_backup_and_one_that_is_given_up_does_not_go_on(copy: Path) -> None:
    async def fail() -> None:
        raise Permanent("no room")

    backup = backup_of(copy)
    async with backup.completing(fail):
        with pytest.raises(Transient, match="no room"):
            await backup.finish()
    given_up = asyncio.Event()

    async def last_for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()

    async with backup_of(copy).completing(last_for_ever):
        await asyncio.sleep(0.05)
    assert given_up.is_set()


async def test_a_copy_that_needs_nothing_more_is_read_once(copy: Path) -> None:
    backup = backup_of(copy)
    async with backup.completing(None):
        end = await backup.finish()
    assert end.extra_files == () and end.gone_files == ()
