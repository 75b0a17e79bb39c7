"""The tables of time zones, made of the host's files."""

from __future__ import annotations

import asyncio
import struct
import zoneinfo
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from mainstay.engines.mysql_family import time_zones
from mainstay.engines.mysql_family.sessions import Error

pytestmark = pytest.mark.skipif(not any(Path(place).is_dir() for place in zoneinfo.TZPATH), reason="no zoneinfo here")


def test_every_zone_has_the_offsets_that_python_finds() -> None:
    zones = time_zones.read()
    assert {"Europe/Berlin", "America/New_York", "UTC", "Asia/Kolkata"} <= set(zones) and len(zones) > 300
    for name, zone in zones.items():
        known = zoneinfo.ZoneInfo(name)
        for at, index in zone.transitions[-60:]:
            moment = datetime.fromtimestamp(at, UTC).astimezone(known)
            offset = zone.offsets[index]
            assert moment.utcoffset() == timedelta(seconds=offset.seconds), (name, at)
            assert moment.tzname() == offset.abbreviation, (name, at)


def test_what_is_no_zone_is_left_out() -> None:
    content = (Path(next(place for place in zoneinfo.TZPATH if Path(place).is_dir())) / "Europe/Berlin").read_bytes()
    assert time_zones.parse(content) is not None
    for length in range(0, len(content), 7):
        cut = time_zones.parse(content[:length])
        assert cut is None or cut == time_zones.parse(content)
    assert time_zones.parse(b"# no zone") is None
    too_many = struct.pack(">4sc15x6I", b"TZif", b"1", 0, 0, 0, 0, time_zones.TYPES_MAX + 1, 4)
    assert time_zones.parse(too_many + b"\0" * 6 * (time_zones.TYPES_MAX + 1) + b"UTC\0") is None


def test_names_come_last_and_zones_of_several_names_once() -> None:
    zone = time_zones.Zone(((0, 1),), (time_zones.Offset(0, False, "UTC"), time_zones.Offset(3600, True, "X'")))
    assert time_zones.statements({"A": zone, "B/C": zone}) == [
        "REPLACE INTO mysql.time_zone (Time_zone_id, Use_leap_seconds) VALUES (1,'N')",
        "REPLACE INTO mysql.time_zone_transition_type (Time_zone_id, Transition_type_id, `Offset`, Is_DST,"
        " Abbreviation) VALUES (1,0,0,0,'UTC'),(1,1,3600,1,'X\\'')",
        "REPLACE INTO mysql.time_zone_transition (Time_zone_id, Transition_time, Transition_type_id) VALUES (1,0,1)",
        "REPLACE INTO mysql.time_zone_name (Name, Time_zone_id) VALUES ('A',1),('B/C',1)",
    ]
    assert time_zones.statements({}) == []


@pytest.mark.parametrize(("tables", "names", "fills"), [(4, 0, True), (4, 3, False), (3, 0, False)])
def test_only_empty_tables_are_filled(tables: int, names: int, fills: bool) -> None:
    done: list[str] = []

    class Session:
        async def execute(self, statement: str) -> list[tuple[int]]:
            if statement.startswith("SELECT"):
                return [(tables if statement == time_zones.TABLES_THERE else names,)]
            done.append(statement)
            return []

    asyncio.run(time_zones.fill(cast(Any, Session())))
    assert (done != []) is fills
    assert all(len(statement) < time_zones.STATEMENT_BYTES + 200 for statement in done)


def test_an_engine_that_refuses_them_serves_without() -> None:
    class Session:
        async def execute(self, statement: str) -> list[tuple[int]]:
            if statement.startswith("SELECT"):
                return [(len(time_zones.TABLES) if statement == time_zones.TABLES_THERE else 0,)]
            raise Error(1153, "Got a packet bigger than 'max_allowed_packet' bytes")

    asyncio.run(time_zones.fill(cast(Any, Session())))
