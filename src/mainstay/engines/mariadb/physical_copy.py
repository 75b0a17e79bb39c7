"""A consistent copy of a running engine's data directory, made by mariadb-backup while everybody goes on writing."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import PIPE
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mainstay.backups.parallel import workers_default
from mainstay.engines.mariadb.binlog import format_position, parse_position
from mainstay.engines.mariadb.bootstrap import bootstrap_command, place_of_data
from mainstay.engines.mysql_family.lineages import as_owner
from mainstay.engines.mysql_family.local_sessions import SOCKET
from mainstay.host.processes import User, run
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import Permanent

COPY_TIMEOUT_S = 24 * 3600.0
POSITION_TIMEOUT_S = 600.0
LOG_COPY_INTERVAL_MS = 20
POSITIONS = "mysql.gtid_slave_pos"
POSITION_FILES = ("mariadb_backup_binlog_info", "xtrabackup_binlog_info")
CHECKPOINT_FILES = ("mariadb_backup_checkpoints", "xtrabackup_checkpoints")
LEFT_BY_BACKUP = ("backup-my.cnf", "mariadb_backup_*", "xtrabackup_*")


async def copy_running(sockets: Path, destination: Path, build: EngineBuild, user: User) -> None:
    """Into the empty directory `destination`, as a server can be started on it that goes on from where the copy is.

    Not forced to the disk. Raises `Permanent` with the tool's words.
    """
    await _run(_taking(sockets, build, user), destination, build, user)
    await _set_position(destination, await prepare(destination, build, user), build, user)


async def stream_running(sockets: Path, working: Path, build: EngineBuild, user: User, pipe: int) -> None:
    """Into a pipe, which is to be read by `mainstay.backups.streams`; what is restored of it is to be prepared.

    `working` is an empty directory of the user's: nothing of an encrypted volume may come to be anywhere else. Raises
    `Permanent` with the tool's words.
    """
    command = [*_taking(sockets, build, user), "--stream=mbstream", f"--tmpdir={working}"]
    await _run(command, working, build, user, stdout=pipe)


def is_prepared(data: Path) -> bool:
    """Whether a server can be started on this copy: `prepare` has come to its end."""
    with as_owner(data):
        return not any((data / name).exists() for name in CHECKPOINT_FILES)


async def prepare(data: Path, build: EngineBuild, user: User) -> str:
    """Makes a copy one that a server can be started on; up to which GTIDs it has its source's log ("": none).

    Not forced to the disk. Raises `Permanent` with the tool's words.
    """
    tool = str(build.bin_directory / "mariadb-backup")
    await _run([tool, "--no-defaults", "--prepare"], data, build, user)
    return await asyncio.to_thread(_finish_preparing, data)


def _taking(sockets: Path, build: EngineBuild, user: User) -> list[str]:
    # While it waits for its own thread to look at the redo log for the last time, nobody can commit.
    return [
        str(build.bin_directory / "mariadb-backup"),
        "--no-defaults",
        "--backup",
        f"--parallel={workers_default()}",
        f"--log-copy-interval={LOG_COPY_INTERVAL_MS}",
        f"--socket={sockets / SOCKET}",
        f"--user={user.name}",
    ]


async def _run(command: Sequence[str], directory: Path, build: EngineBuild, user: User, *, stdout: int = PIPE) -> None:
    await run(
        [*command, f"--target-dir={directory}"],
        user=user,
        timeout_s=COPY_TIMEOUT_S,
        env={"TZ": "UTC", **build.environment},
        cwd=directory,
        stdout=stdout,
    )


def _finish_preparing(data: Path) -> str:
    """Removes what the tool has left, last that by which a copy counts as one to be prepared."""
    with as_owner(data):
        gtids = _position(data)
        left = [path for pattern in LEFT_BY_BACKUP for path in data.glob(pattern)]
        for path in sorted(left, key=lambda path: path.name in CHECKPOINT_FILES):
            path.unlink()
    return gtids


async def _set_position(data: Path, gtids: str, build: EngineBuild, user: User) -> None:
    """Writes into the copy up to where it has its source's binary log, so that it goes on from there.

    A source that has logged nothing itself (a follower just made) has its position in the copied table already.
    """
    statements = position_statements(gtids)
    if not statements:
        return
    await run(
        [*bootstrap_command(build), *place_of_data(data)],
        user=user,
        timeout_s=POSITION_TIMEOUT_S,
        env={"TZ": "UTC", **build.environment},
        stdin="".join(f"{statement};\n" for statement in statements).encode(),
    )


def position_statements(gtids: str) -> list[str]:
    """SQL that makes mysql.gtid_slave_pos of a copy say what `position_of_copy` says, with `gtids` as told."""
    position = parse_position(gtids).values()
    if not position:
        return []
    further = " OR ".join(
        f"(domain_id = {one.domain} AND server_id = {one.server} AND seq_no > {one.sequence})" for one in position
    )
    return [
        f"DELETE FROM {POSITIONS} WHERE NOT ({further})",  # noqa: S608 - numbers
        *(
            f"INSERT INTO {POSITIONS} (domain_id, sub_id, server_id, seq_no)"  # noqa: S608 - numbers
            f" SELECT {one.domain}, 1, {one.server}, {one.sequence} FROM DUAL"
            f" WHERE NOT EXISTS (SELECT * FROM {POSITIONS} WHERE domain_id = {one.domain})"
            for one in position
        ),
    ]


def _position(data: Path) -> str:
    """GTIDs of what its source had logged when the copy was made ("": nothing)."""
    for name in POSITION_FILES:
        with suppress(FileNotFoundError):
            _file, _offset, gtids, *_ = [*(data / name).read_text().strip().split("\t"), "", "", ""]
            return format_position(parse_position(gtids))
    raise Permanent("mariadb-backup did not tell the position of its copy")
