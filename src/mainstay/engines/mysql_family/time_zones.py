"""The tables of time zones, for which `SET time_zone = 'Europe/Berlin'` and CONVERT_TZ ask, as on RDS.

Made of the host's zoneinfo, as the engines' own `…_tzinfo_to_sql` would, into tables that are empty; what is in them
already, a user's perhaps, stays. On the primary only, and logged: followers and restores get it by the log.
Source: RFC 8536.
"""

from __future__ import annotations

import asyncio
import struct
import zoneinfo
from collections.abc import Iterator
from pathlib import Path

import msgspec
import structlog

from mainstay.engines.mysql_family.local_sessions import run_all
from mainstay.engines.mysql_family.quoting import literal
from mainstay.engines.mysql_family.sessions import Error, Session, message_of, silent

log = structlog.get_logger()

TABLES = ("time_zone", "time_zone_name", "time_zone_transition", "time_zone_transition_type")
TABLES_THERE = (
    "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'mysql' AND TABLE_TYPE = 'BASE TABLE' AND"  # noqa: S608 - constants
    f" TABLE_NAME IN ({', '.join(literal(name) for name in TABLES)})"
)
NAMES_THERE = "SELECT COUNT(*) FROM mysql.time_zone_name"
NO_ZONES = frozenset({"localtime", "posixrules", "Factory"})

STATEMENT_BYTES = 16 << 10
TRANSITIONS_MAX = 370
TYPES_MAX = 20
"""The engines refuse to use a zone with more."""

MAGIC, HEADER = b"TZif", struct.Struct(">4sc15x6I")


class Offset(msgspec.Struct, frozen=True):
    """One kind of local time."""

    seconds: int
    dst: bool
    abbreviation: str


class Zone(msgspec.Struct, frozen=True):
    """When which of the offsets begins: (epoch seconds, index)."""

    transitions: tuple[tuple[int, int], ...]
    offsets: tuple[Offset, ...]


def parse(content: bytes) -> Zone | None:
    """A compiled time zone; None for what is none, is cut off, or is more than the engines take.

    Of the two blocks the first, of 32 bits, which is what the engines' tools read; the second where the first is empty.
    """
    try:
        zone, end = _block(content, 0, 4)
        if not zone.transitions and content[4:5] >= b"2":
            zone, _ = _block(content, end, 8)
    except (struct.error, ValueError, IndexError):
        return None
    fits = len(zone.transitions) <= TRANSITIONS_MAX and 0 < len(zone.offsets) <= TYPES_MAX
    return zone if fits and all(index < len(zone.offsets) for _, index in zone.transitions) else None


def _block(content: bytes, start: int, width: int) -> tuple[Zone, int]:
    magic, _, isut, isstd, leap, times, types, characters = HEADER.unpack_from(content, start)
    if magic != MAGIC:
        raise ValueError("not TZif")
    at = start + HEADER.size
    moments = struct.unpack_from(f">{times}{'i' if width == 4 else 'q'}", content, at)
    at += times * width
    indexes = struct.unpack_from(f">{times}B", content, at)
    at += times
    kinds = [struct.unpack_from(">iBB", content, at + 6 * number) for number in range(types)]
    at += types * 6
    names = content[at : at + characters]
    at += characters + leap * (width + 4) + isstd + isut
    if at > len(content):
        raise ValueError("cut off")
    offsets = tuple(
        Offset(seconds, dst != 0, names[begin : names.index(b"\0", begin)].decode("ascii"))
        for seconds, dst, begin in kinds
    )
    return Zone(tuple(zip(moments, indexes, strict=True)), offsets), at


def read() -> dict[str, Zone]:
    """The host's time zones by name; {} if it has none."""
    found: dict[str, Zone] = {}
    for name in sorted(zoneinfo.available_timezones() - NO_ZONES):
        path = next((path for place in zoneinfo.TZPATH if (path := Path(place) / name).is_file()), None)
        zone = None if path is None else parse(path.read_bytes())
        if zone is not None:
            found[name] = zone
    return found


def statements(zones: dict[str, Zone]) -> list[str]:
    """SQL that fills the tables, each statement on its own; the names last, so that what was begun is begun again."""
    numbers = {zone: number for number, zone in enumerate(dict.fromkeys(zones.values()), start=1)}
    kinds = [
        f"({number},{index},{offset.seconds},{int(offset.dst)},{literal(offset.abbreviation)})"
        for zone, number in numbers.items()
        for index, offset in enumerate(zone.offsets)
    ]
    moments = [f"({number},{at},{index})" for zone, number in numbers.items() for at, index in zone.transitions]
    named = [f"({literal(name)},{numbers[zone]})" for name, zone in zones.items()]
    return [
        *_rows("time_zone (Time_zone_id, Use_leap_seconds)", [f"({number},'N')" for number in numbers.values()]),
        *_rows("time_zone_transition_type (Time_zone_id, Transition_type_id, `Offset`, Is_DST, Abbreviation)", kinds),
        *_rows("time_zone_transition (Time_zone_id, Transition_time, Transition_type_id)", moments),
        *_rows("time_zone_name (Name, Time_zone_id)", named),
    ]


def _rows(table: str, rows: list[str]) -> Iterator[str]:
    statement = ""
    for row in rows:
        if len(statement) + len(row) > STATEMENT_BYTES:
            yield statement
            statement = ""
        statement += f",{row}" if statement else f"REPLACE INTO mysql.{table} VALUES {row}"  # noqa: S608 - numbers, literals
    if statement:
        yield statement


async def missing(session: Session) -> list[str]:
    """SQL for a session of our own that fills the tables, if they are there and empty."""
    ((there,),) = await session.execute(TABLES_THERE)
    if int(str(there)) < len(TABLES):
        return []
    ((names,),) = await session.execute(NAMES_THERE)
    return [] if int(str(names)) else await asyncio.to_thread(lambda: statements(read()))


async def fill(session: Session) -> None:
    """Fills them. Nothing else waits for it: what the engine refuses of it is told in the agent's log."""
    try:
        await run_all(session, await missing(session))
    except Error as error:
        if silent(error):
            raise
        log.warning("time_zones.not_filled", error=message_of(error))
