"""When long work tells how far it is: not if it is short, and seldom if it is long."""

from __future__ import annotations

from itertools import pairwise

import pytest

from mainstay.decide.progress import REST_INTERVALS, Pace, Told, is_due

INTERVAL_S = 60.0
GIB = 1 << 30


def moments(seconds: int, total: int, interval_s: float = INTERVAL_S) -> list[int]:
    """When work of so many seconds tells it, if it is looked at every second; `total` 0: nobody knows how much."""
    told: Told | None = None
    found = []
    for now in range(seconds + 1):
        pace = Pace(begun_at=0.0, bytes_done=now * GIB, bytes_total=total * GIB)
        if is_due(pace, told, now, interval_s):
            told = Told(at=now, tenths=pace.tenths)
            found.append(now)
    return found


def test_what_is_short_tells_nothing() -> None:
    assert moments(59, 59) == [] and moments(59, 0) == []
    assert moments(60, 60) == [60]


def test_the_next_is_not_before_five_intervals_and_another_tenth() -> None:
    assert moments(15 * 60, 15 * 60) == [60, 360, 660]
    hours = moments(10 * 3600, 10 * 3600)
    assert hours == [60, *range(3600, 36001, 3600)], "each tenth, and never more than eleven"
    assert min(later - sooner for sooner, later in pairwise(hours)) >= REST_INTERVALS * INTERVAL_S


def test_without_an_end_it_is_told_when_it_has_gone_on_for_twice_as_long() -> None:
    assert moments(4 * 3600, 0) == [60, 360, 720, 1440, 2880, 5760, 11520]


def test_never_is_never() -> None:
    assert moments(10_000, 10_000, 0.0) == []


def test_nothing_is_told_of_what_has_not_begun() -> None:
    waits = Pace(begun_at=0.0, bytes_done=0, bytes_total=GIB)
    assert not is_due(waits, None, 1000.0, INTERVAL_S)


@pytest.mark.parametrize(("now", "due"), [(1059.0, False), (1060.0, True)])
def test_another_attempt_begins_anew_but_not_sooner(now: float, due: bool) -> None:
    """The one before was at nine tenths; what is told of this one is not compared with that."""
    again = Pace(begun_at=1000.0, bytes_done=1, bytes_total=100)
    assert is_due(again, Told(at=700.0, tenths=9), now, INTERVAL_S) == due
    assert not is_due(again, Told(at=990.0, tenths=9), 1070.0, INTERVAL_S), "five intervals after the last, at least"
