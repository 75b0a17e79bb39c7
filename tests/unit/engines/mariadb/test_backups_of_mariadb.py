"""Backups of MariaDB around the tool that makes them: what it says when it fails, and copies that need it no more."""

from __future__ import annotations

import asyncio
import getpass
import os
from pathlib import Path
from typing import Any

import pytest

from mainstay.backups.streams import StreamBroken
from mainstay.engines.backups import BackupHost
from mainstay.engines.mariadb.backups import MariadbBackups
from mainstay.engines.mysql_family.backups import Begun
from mainstay.engines.mysql_family.replay import Origin, read_origin, write_origin
from mainstay.engines.node_files import NodeFiles
from mainstay.host.processes import User
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import Transient

TOOL = """#!/bin/sh
for last; do :; done
{}
"""
PREPARES = """
directory=${last#--target-dir=}
test "$2" = --prepare && echo prepared > "$directory/ibdata1"
"""


def build(root: Path, script: str) -> EngineBuild:
    """A build whose `mariadb-backup` is this script."""
    tool = root / "bin" / "mariadb-backup"
    tool.parent.mkdir()
    tool.write_text(TOOL.format(script))
    tool.chmod(0o755)
    return EngineBuild(
        engine="mariadb", version="11.8.9", major="11.8", family="mariadb11.8", prefix=root, bin_directory=tool.parent,
        library_directory=root, share_directory=root, origin="installed",
    )  # fmt: skip


def backed_up(root: Path) -> Path:
    """What is restored of a backup that was not prepared."""
    data = root / "data"
    data.mkdir()
    (data / "ibdata1").write_text("pages")
    (data / "mariadb_backup_checkpoints").touch()
    (data / "mariadb_backup_info").touch()
    (data / "backup-my.cnf").touch()
    (data / "mariadb_backup_binlog_info").write_text("mysql-bin-changelog.000002\t330\t0-1-7,1-2-3\n")
    write_origin(data, Origin(position="1/2:330"))
    return data


async def test_what_stands_in_the_way_is_told_in_the_words_of_the_tool(tmp_path: Path) -> None:
    working = tmp_path / "working"
    working.mkdir()
    files = NodeFiles(root=tmp_path, sockets=tmp_path / "sockets")
    files.data.mkdir(parents=True)
    host = BackupHost(
        files=files, build=build(tmp_path, "echo no such table >&2; exit 1"), user=User(getpass.getuser())
    )
    spec: Any = None
    begun = Begun(
        spec=spec, host=host, source=files.sockets, working=working, end=("mysql-bin-changelog.000001", 4),
        standby=None, events=(),
    )  # fmt: skip
    reading, writing = os.pipe()
    with pytest.raises(Transient, match="no such table"):
        async with MariadbBackups().open(begun) as opened:
            await opened.stream(writing)
            os.close(writing)
            assert await asyncio.to_thread(os.read, reading, 1) == b"", "nobody holds its end of the pipe any more"
            raise StreamBroken("the stream of files was cut off")
    os.close(reading)


async def test_a_copy_is_prepared_once_and_then_says_which_transactions_it_has(tmp_path: Path) -> None:
    data, user = backed_up(tmp_path), User(getpass.getuser())
    made = build(tmp_path, PREPARES)
    await MariadbBackups().complete_copy(data, lambda: made, user)
    assert (data / "ibdata1").read_text() == "prepared\n"
    assert read_origin(data) == Origin(position="1/2:330", gtids="0-1-7,1-2-3")
    assert {path.name for path in data.iterdir()} == {"ibdata1", "mainstay.recovery"}

    def never() -> EngineBuild:
        raise AssertionError("a copy that is prepared needs no program")

    await MariadbBackups().complete_copy(data, never, user)
    assert read_origin(data).gtids == "0-1-7,1-2-3"


async def test_a_backup_that_was_prepared_when_it_was_made_stays_as_it_is(tmp_path: Path) -> None:
    """As Mainstay made them before: the position is in the copy's own tables."""
    data = backed_up(tmp_path)
    for path in (*data.glob("mariadb_backup_*"), data / "backup-my.cnf"):
        path.unlink()
    (data / "mainstay.recovery").write_bytes(b'{"position":"1/2:330","events":[],"set_right":false}')

    def never() -> EngineBuild:
        raise AssertionError("a copy that is prepared needs no program")

    await MariadbBackups().complete_copy(data, never, User(getpass.getuser()))
    assert (data / "ibdata1").read_text() == "pages" and read_origin(data) == Origin(position="1/2:330")
