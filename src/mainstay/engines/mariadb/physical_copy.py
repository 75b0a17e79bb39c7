"""A consistent copy of a running engine's data directory, made by mariadb-backup while everybody goes on writing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mainstay.backups.parallel import workers_default
from mainstay.engines.mariadb.binlog import format_position, parse_position
from mainstay.engines.mariadb.bootstrap import bootstrap_command
from mainstay.engines.mysql_family.local_sessions import SOCKET
from mainstay.host.processes import User, run
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import Permanent

COPY_TIMEOUT_S = 24 * 3600.0
POSITION_TIMEOUT_S = 600.0
LOG_COPY_INTERVAL_MS = 20
POSITION_FILES = ("mariadb_backup_binlog_info", "xtrabackup_binlog_info")
LEFT_BY_BACKUP = ("backup-my.cnf", "mariadb_backup_*", "xtrabackup_*")


async def copy_running(
    sockets: Path, destination: Path, build: EngineBuild, user: User, *, changes: Sequence[str] = ()
) -> None:
    """Into the empty directory `destination`, as a server can be started on it; up to where it was, it knows.

    `changes` are made in the copy. Not forced to the disk. Raises `Permanent` with the tool's words.
    """
    tool = str(build.bin_directory / "mariadb-backup")
    # While it waits for its own thread to look at the redo log for the last time, nobody can commit.
    take = [
        "--backup",
        f"--parallel={workers_default()}",
        f"--log-copy-interval={LOG_COPY_INTERVAL_MS}",
        f"--socket={sockets / SOCKET}",
        f"--user={user.name}",
    ]
    for what in (take, ["--prepare"]):
        await run(
            [tool, "--no-defaults", *what, f"--target-dir={destination}"],
            user=user,
            timeout_s=COPY_TIMEOUT_S,
            env={"TZ": "UTC", **build.environment},
            cwd=destination,
        )
    await _change(destination, [*_set_position(_position(destination)), *changes], build, user)
    await asyncio.to_thread(_remove_left, destination)


def _remove_left(destination: Path) -> None:
    for pattern in LEFT_BY_BACKUP:
        for left in destination.glob(pattern):
            left.unlink()


def _set_position(gtids: str) -> list[str]:
    """Writes into the copy up to where it has its source's binary log, so that it goes on from there.

    A source that has logged nothing itself (a follower just made) has its position in the copied table already.
    """
    rows = position_rows(gtids)
    if not rows:
        return []
    return ["DELETE FROM mysql.gtid_slave_pos", f"INSERT INTO mysql.gtid_slave_pos VALUES {', '.join(rows)}"]  # noqa: S608 - numbers


async def _change(data: Path, statements: Sequence[str], build: EngineBuild, user: User) -> None:
    if not statements:
        return
    script = "".join(f"{statement};\n" for statement in statements)
    await run(
        [*bootstrap_command(build), f"--datadir={data}"],
        user=user,
        timeout_s=POSITION_TIMEOUT_S,
        env={"TZ": "UTC", **build.environment},
        stdin=script.encode(),
    )


def position_rows(gtids: str) -> list[str]:
    """Rows of mysql.gtid_slave_pos (domain, sub-id, server, sequence number) for a GTID position."""
    position = parse_position(gtids)
    return [
        f"({one.domain}, {number}, {one.server}, {one.sequence})"
        for number, (_domain, one) in enumerate(sorted(position.items()), start=1)
    ]


def _position(data: Path) -> str:
    """GTIDs of what its source had logged when the copy was made ("": nothing)."""
    for name in POSITION_FILES:
        with suppress(FileNotFoundError):
            _file, _offset, gtids, *_ = [*(data / name).read_text().strip().split("\t"), "", "", ""]
            return format_position(parse_position(gtids))
    raise Permanent("mariadb-backup did not tell the position of its copy")
