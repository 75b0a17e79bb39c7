"""A restored PostgreSQL that waits at its target to be looked at: recovery_target_action = pause (manual 19.5.5).

It takes queries as soon as it is consistent, which is long before its target: it is not ready before recovery waits.
Going on is a restart with other targets, as the manual says, never pg_wal_replay_resume(): what a process is told at
its start is in the spec, so that whoever dies meanwhile, the next process is told the same.
"""

from __future__ import annotations

from mainstay.engines.base import Health, RecoveryPause
from mainstay.engines.postgresql.sessions import Session

LOOK = """SELECT pg_is_in_recovery() AND pg_is_wal_replay_paused(), pg_last_wal_replay_lsn()::text,
 extract(epoch FROM pg_last_xact_replay_timestamp())::float8"""


async def health(connection: Session) -> Health:
    """Ready when recovery waits. Raises `psycopg.Error`."""
    row = await (await connection.execute(LOOK)).fetchone()
    if row is None or not row[0]:
        return Health(ready=False, starting=True, message="the log is being replayed")
    return Health(ready=True, pause=RecoveryPause(position=row[1], moment=row[2]))
