"""Events (CREATE EVENT): they run on the node that leads, and on no other.

A follower's scheduler is off. What it is sent about events it stores as disabled on this side, and forgets whether
they were enabled; so does a restore that replays the log. So it is noted elsewhere, in two ways:

A standby notes what its primary says of its events, every time it is looked at, and restores that when it takes over.
An event made in the moment before, of which nothing is noted, is enabled, as CREATE EVENT makes them.

The leader notes in its log, with its marks, which of its events are enabled, and when each was altered last. Whoever
has replayed the log finds in it what was true at the last note. It holds for an event that was not altered since: of
one that was altered later nothing is known, and it stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog
from pymysql.constants import ER

from mainstay.engines.mysql_family.layout import EVENTS_FILE, UPSTREAM_FILE
from mainstay.engines.mysql_family.local_sessions import session
from mainstay.engines.mysql_family.quoting import account, identifier, literal
from mainstay.engines.mysql_family.sessions import Error, Session, message_of, number_of, silent
from mainstay.engines.node_files import NodeFiles
from mainstay.host.files import write_atomically

EVENTS = (
    "SELECT EVENT_SCHEMA, EVENT_NAME, DEFINER, STATUS, CAST(UNIX_TIMESTAMP(LAST_ALTERED) AS SIGNED)"
    " FROM information_schema.EVENTS ORDER BY 1, 2"
)
ENABLED = "ENABLED"
KNOWN = (ENABLED, "DISABLED")
ON_THIS_SIDE = "SIDE_DISABLED"
"""How the third status ends, which has another name in MySQL 8.2 and later."""

EVENTS_TABLE = (
    "CREATE TABLE IF NOT EXISTS mysql.rds_events (id int NOT NULL PRIMARY KEY,"
    " noted longtext CHARACTER SET utf8mb4 NOT NULL) ENGINE=InnoDB"
)
"""One row: the events whose state is known, as JSON. It is in the log, so it is of the moment of what is beside it."""

LOGGED = "SELECT noted FROM mysql.rds_events WHERE id = 1"
TIMEOUT_S = 1.0
log = structlog.get_logger()


class EventState(msgspec.Struct, frozen=True, kw_only=True):
    """Of one event of a schema: who it runs as ("user@host"), whether it is "ENABLED" or "DISABLED", and the second in
    which it was made or altered last (epoch; 0: not known).
    """

    schema: str
    name: str
    definer: str
    status: str
    altered: int = 0


async def present(connection: Session) -> list[EventState]:
    """Every event. Raises `Error`."""
    rows = await connection.execute(EVENTS)
    return [
        EventState(
            schema=str(schema), name=str(name), definer=str(definer), status=str(status), altered=int(altered or 0)
        )
        for schema, name, definer, status, altered in rows
    ]


async def set_status(connection: Session, event: EventState, status: str) -> None:
    """Makes it ENABLED or DISABLED, and changes nothing else: neither its definer nor when it was altered last.

    Raises `Error`.
    """
    user, _, host = event.definer.rpartition("@")
    words = "ENABLE" if status == ENABLED else "DISABLE"
    name = f"{identifier(event.schema)}.{identifier(event.name)}"
    await connection.execute(f"SET SESSION timestamp = {event.altered or 'DEFAULT'}")
    try:
        # Without its definer it would become ours.
        await connection.execute(f"ALTER DEFINER = {account(user, host)} EVENT {name} {words}")
    finally:
        await connection.execute("SET SESSION timestamp = DEFAULT")


async def note(files: NodeFiles) -> None:
    """Of a standby: what its primary says of its events now. One that does not answer changes nothing."""
    place = files.configuration / UPSTREAM_FILE
    if not place.exists():
        return
    try:
        async with session(Path(place.read_text()), timeout_s=TIMEOUT_S) as primary:
            noted = await present(primary)
    except Error:
        return
    if noted != _noted(files):
        write_atomically(files.configuration / EVENTS_FILE, msgspec.json.encode(noted))


async def restore(connection: Session, files: NodeFiles) -> None:
    """Of a standby that takes over: its events are enabled, or not, as they were. May be repeated. Raises `Error`."""
    if not (files.configuration / UPSTREAM_FILE).exists():
        return
    before = {(one.schema, one.name): one.status for one in _noted(files)}
    await _set_right(connection, lambda event: before.get((event.schema, event.name), ENABLED))


def forget(files: NodeFiles) -> None:
    """It leads now: what was noted is of no use any more."""
    for name in (UPSTREAM_FILE, EVENTS_FILE):
        (files.configuration / name).unlink(missing_ok=True)


class LoggedEvents:
    """Of a leader: the note in its log, through a session whose transactions are logged."""

    def __init__(self) -> None:
        self._written: list[EventState] | None = None

    async def note(self, connection: Session, now: float) -> None:
        """Writes down what is known of the events, if that has changed. Raises `Error`.

        What was altered in this second may be altered in it once more: that is left to the next note.
        """
        known = [one for one in await present(connection) if one.altered < int(now) and one.status in KNOWN]
        if self._written is None:
            self._written = await _logged(connection)
        if known == self._written:
            return
        self._written = None
        try:
            await connection.execute(EVENTS_TABLE)
            noted = literal(msgspec.json.encode(known).decode())
            await connection.execute(f"REPLACE INTO mysql.rds_events VALUES (1, {noted})")  # noqa: S608 - quoted
        except Error as error:  # a log without notes is shipped all the same
            if silent(error):
                raise
            log.warning("events.not_noted", error=message_of(error))
            return
        self._written = known


async def restore_from_log(connection: Session) -> None:
    """Of a database that the log was replayed on: what of its events is known to have been is so again.

    May be repeated. Raises `Error`.
    """
    noted = {(one.schema, one.name, one.altered): one.status for one in await _logged(connection)}
    await _set_right(connection, lambda event: noted.get((event.schema, event.name, event.altered), ""))


async def _logged(connection: Session) -> list[EventState]:
    """Nothing where no leader has ever had an event. Raises `Error`."""
    try:
        return msgspec.json.decode(str(await connection.value(LOGGED) or "[]"), type=list[EventState])
    except msgspec.DecodeError:  # a user may write in schema mysql, as far as MariaDB is concerned
        return []
    except Error as error:
        if number_of(error) == ER.NO_SUCH_TABLE:
            return []
        raise


async def _set_right(connection: Session, status_of: Callable[[EventState], str]) -> None:
    """Enables and disables what is disabled on this side, where `status_of` tells which. Raises `Error`."""
    for event in await present(connection):
        if not event.status.endswith(ON_THIS_SIDE):
            continue
        wanted = status_of(event)
        if wanted not in KNOWN:
            log.info("events.not_known", schema=event.schema, name=event.name)
            continue
        try:
            await set_status(connection, event, wanted)
        except Error as error:
            if silent(error):
                raise
            log.warning(
                "events.not_restored", schema=event.schema, name=event.name, wanted=wanted, error=message_of(error)
            )


def _noted(files: NodeFiles) -> list[EventState]:
    try:
        return msgspec.json.decode((files.configuration / EVENTS_FILE).read_bytes(), type=list[EventState])
    except (OSError, msgspec.DecodeError):
        return []
