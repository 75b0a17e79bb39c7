"""Events (CREATE EVENT): they run on the node that leads, and on no other.

A follower's scheduler is off. What it is sent about events it stores as disabled on this side, and forgets whether
they were enabled. So a standby notes what its primary says of them, every time it is looked at, and restores that when
it takes over. An event made in the moment before, of which nothing is noted, is enabled, as CREATE EVENT makes them.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import structlog

from mainstay.engines.mysql_family.layout import EVENTS_FILE, UPSTREAM_FILE
from mainstay.engines.mysql_family.local_sessions import session
from mainstay.engines.mysql_family.quoting import account, identifier
from mainstay.engines.mysql_family.sessions import Error, Session, message_of, silent
from mainstay.engines.node_files import NodeFiles
from mainstay.host.files import write_atomically

EVENTS = "SELECT EVENT_SCHEMA, EVENT_NAME, DEFINER, STATUS FROM information_schema.EVENTS ORDER BY 1, 2"
ENABLED, DISABLED = "ENABLED", "DISABLED"
ON_THIS_SIDE = "SIDE_DISABLED"
"""How the third status ends, which has another name in MySQL 8.2 and later."""

TIMEOUT_S = 1.0
log = structlog.get_logger()


class Noted(msgspec.Struct, frozen=True):
    """One event, as the primary has it."""

    schema: str
    name: str
    status: str


async def note(files: NodeFiles) -> None:
    """Of a standby: what its primary says of its events now. One that does not answer changes nothing."""
    place = files.configuration / UPSTREAM_FILE
    if not place.exists():
        return
    try:
        async with session(Path(place.read_text()), timeout_s=TIMEOUT_S) as primary:
            rows = await primary.execute(EVENTS)
    except Error:
        return
    noted = [Noted(str(schema), str(name), str(status)) for schema, name, _definer, status in rows]
    if noted != _noted(files):
        write_atomically(files.configuration / EVENTS_FILE, msgspec.json.encode(noted))


async def restore(connection: Session, files: NodeFiles) -> None:
    """Of a standby that takes over: its events are enabled, or not, as they were. May be repeated. Raises `Error`."""
    if not (files.configuration / UPSTREAM_FILE).exists():
        return
    before = {(one.schema, one.name): one.status for one in _noted(files)}
    for schema, name, definer, status in await connection.execute(EVENTS):
        wanted = before.get((str(schema), str(name)), ENABLED)
        if not str(status).endswith(ON_THIS_SIDE) or wanted not in (ENABLED, DISABLED):
            continue
        user, _, host = str(definer).rpartition("@")
        words = "ENABLE" if wanted == ENABLED else "DISABLE"
        event = f"{identifier(str(schema))}.{identifier(str(name))}"
        try:
            # Without its definer it would become ours.
            await connection.execute(f"ALTER DEFINER = {account(user, host)} EVENT {event} {words}")
        except Error as error:
            if silent(error):
                raise
            log.warning("events.not_restored", schema=schema, name=name, wanted=wanted, error=message_of(error))


def forget(files: NodeFiles) -> None:
    """It leads now: what was noted is of no use any more."""
    for name in (UPSTREAM_FILE, EVENTS_FILE):
        (files.configuration / name).unlink(missing_ok=True)


def _noted(files: NodeFiles) -> list[Noted]:
    try:
        return msgspec.json.decode((files.configuration / EVENTS_FILE).read_bytes(), type=list[Noted])
    except (OSError, msgspec.DecodeError):
        return []
