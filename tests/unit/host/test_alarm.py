"""A timer as a descriptor, on the real kernel."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator

import pytest

from mainstay.host.alarm import NEVER_S, Alarm


@pytest.fixture
def alarm() -> Iterator[Alarm]:
    made = Alarm()
    yield made
    made.close()


def readable(alarm: Alarm, within_s: float) -> bool:
    return bool(select.select([alarm.fd], [], [], within_s)[0])


def test_it_is_never_early_and_stays_until_it_is_heard(alarm: Alarm) -> None:
    at_s = time.monotonic() + 0.05
    alarm.no_later_than(at_s)
    assert readable(alarm, 10)
    assert time.monotonic() >= at_s
    assert readable(alarm, 0)
    alarm.heard()
    assert alarm.at_s == NEVER_S
    assert not readable(alarm, 0)


def test_the_earlier_moment_counts(alarm: Alarm) -> None:
    now_s = time.monotonic()
    alarm.no_later_than(now_s + 3600)
    alarm.no_later_than(now_s + 0.01)
    alarm.no_later_than(now_s + 7200)
    assert alarm.at_s == now_s + 0.01
    assert readable(alarm, 10)


def test_a_moment_that_is_past_is_now(alarm: Alarm) -> None:
    alarm.no_later_than(time.monotonic() - 5)
    assert readable(alarm, 10)


def test_to_hear_what_has_not_been_changes_nothing(alarm: Alarm) -> None:
    alarm.heard()
    alarm.no_later_than(time.monotonic() + 0.01)
    assert readable(alarm, 10)


def test_what_the_kernel_refuses_is_an_error(alarm: Alarm) -> None:
    other = Alarm()
    os.close(other.fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        other.no_later_than(time.monotonic() + 1)
