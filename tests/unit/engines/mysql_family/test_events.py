"""Which events are enabled again where a log was replayed: those of which the log says exactly what they were."""

from __future__ import annotations

import re
from typing import Any

import pymysql
import pytest
from pymysql.constants import CR, ER

from mainstay.engines.mysql_family.events import EVENTS, LOGGED, EventState, LoggedEvents, restore_from_log

ON_THIS_SIDE = "SLAVESIDE_DISABLED"
NO_SUCH_EVENT = 1539


class Engine:
    """A server's events and its note. What is altered keeps the second that its session says it is."""

    def __init__(self, *events: EventState, noted: str | None = None) -> None:
        self.events = {(one.schema, one.name): one for one in events}
        self.noted = noted
        self.ran: list[str] = []
        self.refuses: dict[str, int] = {}

    def tell(self, number: int) -> None:
        raise pymysql.err.OperationalError(number, "said the engine")

    async def execute(self, statement: str) -> list[tuple[Any, ...]]:
        if statement == EVENTS:
            return [(one.schema, one.name, one.definer, one.status, one.altered) for one in self.events.values()]
        self.ran.append(statement)
        for words, number in self.refuses.items():
            if words in statement:
                self.tell(number)
        if written := re.fullmatch(r"REPLACE INTO mysql\.rds_events VALUES \(1, '(.*)'\)", statement, re.DOTALL):
            self.noted = written[1].replace("\\'", "'").replace("\\\\", "\\")
        return []

    async def value(self, statement: str) -> str | None:
        assert statement == LOGGED
        if self.noted is None:
            self.tell(ER.NO_SUCH_TABLE)
        return self.noted

    @property
    def writes(self) -> int:
        return sum(one.startswith("REPLACE") for one in self.ran)

    @property
    def altered(self) -> list[str]:
        return [one for one in self.ran if one.startswith("ALTER")]


def event(name: str, status: str = "ENABLED", altered: int = 100) -> EventState:
    return EventState(schema="shop", name=name, definer="o'brien@%", status=status, altered=altered)


async def replayed(engine: Engine, *changed: EventState) -> Engine:
    """What became of the engine's events where its log was replayed, and perhaps more of it than its note knows."""
    found = {one.name: event(one.name, ON_THIS_SIDE, one.altered) for one in (*engine.events.values(), *changed)}
    restored = Engine(*found.values(), noted=engine.noted)
    session: Any = restored
    await restore_from_log(session)
    return restored


async def note(engine: Engine, now: float, notes: LoggedEvents | None = None) -> LoggedEvents:
    session: Any = engine
    notes = notes or LoggedEvents()
    await notes.note(session, now)
    return notes


async def test_what_the_log_says_of_events_is_so_again() -> None:
    leader = Engine(event("on"), event("it's off", "DISABLED"))
    await note(leader, 101.0)
    back = await replayed(leader)
    assert back.ran == [
        "SET SESSION timestamp = 100", "ALTER DEFINER = 'o\\'brien'@'%' EVENT `shop`.`on` ENABLE",
        "SET SESSION timestamp = DEFAULT", "SET SESSION timestamp = 100",
        "ALTER DEFINER = 'o\\'brien'@'%' EVENT `shop`.`it's off` DISABLE", "SET SESSION timestamp = DEFAULT",
    ]  # fmt: skip


async def test_one_that_was_altered_after_the_last_note_stays_as_it_is() -> None:
    leader = Engine(event("on"), event("altered"))
    await note(leader, 101.9)
    assert (await replayed(leader, event("altered", altered=101), event("made", altered=102))).altered == [
        "ALTER DEFINER = 'o\\'brien'@'%' EVENT `shop`.`on` ENABLE"
    ]


async def test_what_may_be_altered_in_the_same_second_once_more_is_not_noted_yet() -> None:
    leader = Engine(event("new", altered=101))
    notes = await note(leader, 101.9)
    assert not (await replayed(leader)).altered
    await note(leader, 102.0, notes)
    assert len((await replayed(leader)).altered) == 1


async def test_what_was_disabled_on_this_side_by_a_user_stays_so() -> None:
    leader = Engine(event("elsewhere", ON_THIS_SIDE))
    await note(leader, 101.0)
    assert leader.noted is None and not (await replayed(leader)).altered


async def test_nothing_is_written_when_nothing_has_changed() -> None:
    leader = Engine()
    notes = await note(leader, 101.0)
    assert leader.ran == [], "without events there is no table"
    leader.events = {("shop", "on"): event("on")}
    for now in (102.0, 103.0):
        await note(leader, now, notes)
    await note(leader, 104.0)  # another process
    assert leader.writes == 1
    leader.events = {}
    await note(leader, 105.0, notes)
    assert leader.writes == 2 and leader.noted == "[]"


async def test_a_note_that_cannot_be_written_does_not_keep_the_log_from_being_shipped() -> None:
    leader = Engine(event("on"))
    leader.refuses = {"REPLACE": ER.NO_SUCH_TABLE}
    notes = await note(leader, 101.0)
    leader.refuses = {}
    await note(leader, 102.0, notes)
    assert len((await replayed(leader)).altered) == 1
    leader.events, leader.refuses = {}, {"REPLACE": CR.CR_SERVER_LOST}
    with pytest.raises(pymysql.err.OperationalError):
        await note(leader, 103.0, notes)


@pytest.mark.parametrize("noted", [None, "[]", "no JSON", '[{"schema": 1}]'])
async def test_without_a_note_nothing_is_touched(noted: str | None) -> None:
    back: Any = Engine(event("on", ON_THIS_SIDE), noted=noted)
    await restore_from_log(back)
    assert back.ran == []


async def test_one_event_that_cannot_be_altered_does_not_stop_the_others() -> None:
    leader = Engine(event("one"), event("two"))
    await note(leader, 101.0)
    back: Any = Engine(event("one", ON_THIS_SIDE), event("two", ON_THIS_SIDE), noted=leader.noted)
    back.refuses = {"`one`": NO_SUCH_EVENT}
    await restore_from_log(back)
    assert [one.rpartition(" EVENT ")[2] for one in back.altered] == ["`shop`.`one` ENABLE", "`shop`.`two` ENABLE"]
