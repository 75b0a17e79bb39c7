"""Taking the files of a base backup from a standby that nobody can connect to (hot_standby off).

pg_basebackup can copy from a standby because a restartpoint comes before the first read (xlog.c, do_pg_backup_start):
what was changed before the position from which the copy will be recovered is in the files by then. Its end is the
standby's minRecoveryPoint, in the control file that it reads last. Here everything but the files is the primary's,
which asks less of the standby and promises more:

- Begin: pg_backup_start on the primary makes a checkpoint; the copy is recovered from its redo position R. The files of
  the standby are read only after its control file names a restartpoint at R or later: every change before R is in them
  (CreateRestartPoint writes the control file after all buffers, SLRUs and two-phase files).
- In between: a page that the standby writes later, and that may be read torn, was changed by a record after R. The
  first such record of each page carries the whole page (full_page_writes is on, and not a user's to change).
- End: pg_backup_stop on the primary, after the last read. A standby has only what its primary had flushed, so all that
  it may have written is before the end-of-backup record, which recovery must reach before it is consistent.

That holds for one process of the standby as it follows this primary (`Standby.unchanged`): a failover ends the session
in which the backup was begun, and the data directory of a standby is replaced only while it does not run.

A restartpoint cannot be asked for without a session. For a moment the standby is given the shortest checkpoint_timeout
that there is, half a minute, and writes without pausing, so it makes one as soon as the last is that old.
"""

from __future__ import annotations

import asyncio

import structlog

from mainstay.engines.backups import Standby
from mainstay.engines.postgresql.configuration import PASSING_FILE
from mainstay.engines.postgresql.sessions import Session
from mainstay.engines.postgresql.wal import parse_lsn
from mainstay.host.processes import run
from mainstay.model.errors import MainstayError

PATIENCE_S = 300.0
"""A large cache is written out at full speed in this time. Otherwise the primary's files are read."""
LOOK_AGAIN_S = 0.25
TOOL_TIMEOUT_S = 60.0
SETTLING = "checkpoint_timeout = 30s\ncheckpoint_completion_target = 0\n"
REDO_LOCATION = "Latest checkpoint's REDO location:"
REPLAYED = b"""SELECT replay_lsn >= %s::pg_lsn FROM pg_stat_replication
 WHERE application_name = %s AND state = 'streaming'"""

log = structlog.get_logger()


async def settle(primary: Session, standby: Standby, start_position: str) -> bool:
    """Whether everything before the position is in the standby's files now; False if it does not get there.

    `primary` is the session in which the backup was begun. Raises `psycopg.Error` if that ends.
    """
    try:
        async with asyncio.timeout(PATIENCE_S):
            if await _replayed(primary, standby):
                return await _restarts_from(standby, parse_lsn(start_position))
    except TimeoutError:
        log.warning("backup.standby_not_settled", node_id=standby.node_id, seconds=PATIENCE_S)
    except (MainstayError, OSError) as error:
        log.warning("backup.standby_not_settled", node_id=standby.node_id, error=str(error))
    return False


async def _replayed(primary: Session, standby: Standby) -> bool:
    """Waits until the standby has replayed the checkpoint of the backup's begin: there is nothing to ask for before."""
    cursor = await primary.execute(b"SELECT pg_current_wal_flush_lsn()::text")
    row = await cursor.fetchone()
    while standby.unchanged():
        found = await (await primary.execute(REPLAYED, (row and row[0], standby.node_id))).fetchone()
        if found is None:
            return False
        if found[0]:
            return True
        await asyncio.sleep(LOOK_AGAIN_S)
    return False


async def _restarts_from(standby: Standby, position: int) -> bool:
    """Waits until the standby, started anew, would begin at the position or later."""
    standby.configure(PASSING_FILE, SETTLING)
    try:
        while standby.unchanged():
            # Twice: the file is written in place, and what one look found may be half of two.
            if await _redo_position(standby) >= position and await _redo_position(standby) >= position:
                return True
            await asyncio.sleep(LOOK_AGAIN_S)
    finally:
        standby.configure(PASSING_FILE, "")
    return False


async def _redo_position(standby: Standby) -> int:
    """From the control file; 0 if it does not say."""
    output = await run(
        [str(standby.build.bin_directory / "pg_controldata"), f"--pgdata={standby.files.data}"],
        timeout_s=TOOL_TIMEOUT_S,
        env=standby.build.environment,
    )
    for line in output.decode(errors="replace").splitlines():
        if line.startswith(REDO_LOCATION):
            return parse_lsn(line.removeprefix(REDO_LOCATION).strip())
    return 0
