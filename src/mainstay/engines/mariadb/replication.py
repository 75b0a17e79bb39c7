"""Copying MariaDB followers: mariadb-backup, whose copy goes on from where it has its source's binary log."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from mainstay.engines.mariadb.bootstrap import bootstrap_command
from mainstay.engines.mysql_family.followers import copied, empty_directory, put_in_place
from mainstay.engines.mysql_family.local_sessions import SOCKET
from mainstay.engines.node_files import NodeFiles
from mainstay.host.processes import User, run
from mainstay.model.assignment import Upstream
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import Permanent

COPY_TIMEOUT_S = 24 * 3600.0
POSITION_TIMEOUT_S = 600.0
LOG_COPY_INTERVAL_MS = 20
GTID = re.compile(r"(?P<domain>\d+)-(?P<server>\d+)-(?P<sequence>\d+)")
POSITION_FILES = ("mariadb_backup_binlog_info", "xtrabackup_binlog_info")
LEFT_BY_BACKUP = ("backup-my.cnf", "mariadb_backup_*", "xtrabackup_*")


async def clone(files: NodeFiles, build: EngineBuild, user: User, upstream: Upstream) -> None:
    """mariadb-backup into a directory beside, put in place when it is complete and on disk. Raises `Transient`."""
    await copied(lambda: _clone(files, build, user, upstream))


async def _clone(files: NodeFiles, build: EngineBuild, user: User, upstream: Upstream) -> None:
    unfinished = files.volume / "data.cloning"
    await empty_directory(unfinished, user)
    tool = str(build.bin_directory / "mariadb-backup")
    # While it waits for its own thread to look at the redo log for the last time, nobody can commit.
    take = [
        "--backup",
        f"--log-copy-interval={LOG_COPY_INTERVAL_MS}",
        f"--socket={Path(upstream.host) / SOCKET}",
        f"--user={user.name}",
    ]
    for what in (take, ["--prepare"]):
        await run(
            [tool, "--no-defaults", *what, f"--target-dir={unfinished}"],
            user=user,
            timeout_s=COPY_TIMEOUT_S,
            env={"TZ": "UTC", **build.environment},
            cwd=files.volume,
        )
    await _set_position(unfinished, build, user)
    for pattern in LEFT_BY_BACKUP:
        for left in unfinished.glob(pattern):
            left.unlink()
    await put_in_place(unfinished, files, user)


async def _set_position(data: Path, build: EngineBuild, user: User) -> None:
    """Writes into the copy up to where it has its source's binary log, so that it goes on from there.

    A source that has logged nothing itself (a follower just made) has its position in the copied table already.
    """
    rows = position_rows(_position(data))
    if not rows:
        return
    script = f"DELETE FROM mysql.gtid_slave_pos;\nINSERT INTO mysql.gtid_slave_pos VALUES {', '.join(rows)};\n"  # noqa: S608 - numbers
    await run(
        [*bootstrap_command(build), f"--datadir={data}"],
        user=user,
        timeout_s=POSITION_TIMEOUT_S,
        env={"TZ": "UTC", **build.environment},
        stdin=script.encode(),
    )


def position_rows(gtids: str) -> list[str]:
    """Rows of mysql.gtid_slave_pos (domain, sub-id, server, sequence number) for a GTID position."""
    found = [GTID.fullmatch(one.strip()) for one in gtids.split(",") if one.strip()]
    if None in found:
        raise Permanent(f"{gtids[:100]!r} is no GTID position")
    return [
        f"({one['domain']}, {number}, {one['server']}, {one['sequence']})"
        for number, one in enumerate(found, start=1)
        if one is not None
    ]


def _position(data: Path) -> str:
    for name in POSITION_FILES:
        with suppress(FileNotFoundError):
            columns = (data / name).read_text().strip().split("\t")
            return columns[2] if len(columns) > 2 else ""
    raise Permanent("mariadb-backup did not tell the position of its copy")
