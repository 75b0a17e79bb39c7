"""Backup windows (daily) and maintenance windows (weekly), in UTC.

A window is an interval on a circle of minutes: a day or a week. Reading, writing, overlap and "when next" are
arithmetic on that circle, so midnight and the end of the week need no special case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import floor

import msgspec

from mainstay.model.errors import invalid_value

DAY_MINUTES = 24 * 60
WEEK_MINUTES = 7 * DAY_MINUTES
SHORTEST_MINUTES = 30
DEFAULT_LENGTH_MINUTES = 30
MINUTE_S = 60
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

# Epoch time began on a Thursday; minute 0 of the week is Monday 00:00.
_EPOCH_WEEK_OFFSET_MINUTES = DAYS.index("thu") * DAY_MINUTES

_TIME = r"([01]\d|2[0-3]):([0-5]\d)"
_DAY = f"({'|'.join(DAYS)})"
_BACKUP = re.compile(f"{_TIME}-{_TIME}", re.ASCII)
_MAINTENANCE = re.compile(f"{_DAY}:{_TIME}-{_DAY}:{_TIME}", re.ASCII)
_SHOWN_LENGTH = 64

BLOCK_LENGTH_MINUTES = 8 * 60
_DEFAULT_BLOCK_START = "22:00"
_BLOCK_STARTS = {
    "us-east-1": "03:00",
    "us-east-2": "03:00",
    "us-west-1": "06:00",
    "us-west-2": "06:00",
    "ca-central-1": "03:00",
    "sa-east-1": "00:00",
    "eu-west-1": "22:00",
    "eu-west-2": "22:00",
    "eu-west-3": "23:59",
    "eu-central-1": "21:00",
    "eu-north-1": "23:00",
    "ap-south-1": "06:30",
    "ap-southeast-1": "14:00",
    "ap-southeast-2": "12:00",
    "ap-northeast-1": "13:00",
    "af-south-1": "03:00",
    "ap-east-1": "06:00",
}


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """`length_minutes` from `start_minute` on, once every `period_minutes` (a day or a week)."""

    start_minute: int
    length_minutes: int
    period_minutes: int

    def __str__(self) -> str:
        """As the API shows it: "23:45-00:15" or "sun:23:45-mon:00:15"."""
        return f"{self._moment(self.start_minute)}-{self._moment(self.start_minute + self.length_minutes)}"

    def _moment(self, minute: int) -> str:
        day, in_day = divmod(minute % self.period_minutes, DAY_MINUTES)
        time = f"{in_day // 60:02}:{in_day % 60:02}"
        return time if self.period_minutes == DAY_MINUTES else f"{DAYS[day]}:{time}"


def parse_backup_window(text: str) -> Window:
    """A `hh24:mi-hh24:mi` window of at least 30 minutes; raises `ApiError` InvalidParameterValue otherwise."""
    match = _BACKUP.fullmatch(text)
    if match is None:
        raise invalid_value(
            f"Invalid backup window format: {text[:_SHOWN_LENGTH]}. Should be specified as a range hh24:mi-hh24:mi"
            " (24H Clock UTC). Example: 23:45-00:15"
        )
    start_hour, start_minute, end_hour, end_minute = (int(part) for part in match.groups())
    window = _window(start_hour * 60 + start_minute, end_hour * 60 + end_minute, DAY_MINUTES)
    if window.length_minutes < SHORTEST_MINUTES:
        raise invalid_value("The backup window must be at least 30 minutes.")
    return window


def parse_maintenance_window(text: str) -> Window:
    """A `ddd:hh24:mi-ddd:hh24:mi` window of 30 minutes to a day; raises `ApiError` InvalidParameterValue otherwise."""
    match = _MAINTENANCE.fullmatch(text.lower())
    if match is None:
        raise invalid_value(
            f"Invalid maintenance window format: {text[:_SHOWN_LENGTH]}. Should be specified as a range"
            " ddd:hh24:mi-ddd:hh24:mi (24H Clock UTC). Example: Sun:23:45-Mon:00:15"
        )
    start_day, start_hour, start_minute, end_day, end_hour, end_minute = match.groups()
    start = DAYS.index(start_day) * DAY_MINUTES + int(start_hour) * 60 + int(start_minute)
    end = DAYS.index(end_day) * DAY_MINUTES + int(end_hour) * 60 + int(end_minute)
    window = _window(start, end, WEEK_MINUTES)
    if window.length_minutes < SHORTEST_MINUTES:
        raise invalid_value("The maintenance window must be at least 30 minutes.")
    if window.length_minutes >= DAY_MINUTES:
        raise invalid_value("Maintenance window must be less than 24 hours.")
    return window


def overlap(one: Window, other: Window) -> bool:
    """Whether the windows share a minute in any week."""
    return any(
        _circular_overlap(first, one.length_minutes, second, other.length_minutes)
        for first in _weekly_starts(one)
        for second in _weekly_starts(other)
    )


def check_windows_apart(backup: Window, maintenance: Window) -> None:
    """Raises `ApiError` InvalidParameterValue if the two windows of an instance share a minute."""
    if overlap(backup, maintenance):
        raise invalid_value("The backup window and maintenance window must not overlap.")


def default_backup_window(region: str, draw: int, maintenance: Window | None = None) -> Window:
    """A 30-minute window from the region's 8-hour block, apart from `maintenance`, chosen by the random `draw` (>= 0).

    Where a long maintenance window leaves no room in the block, any time of the day serves; raises `ApiError`
    InvalidParameterValue if the day has no room either.
    """
    preferred = map(_daily, _block_starts(region))
    return _choose((preferred, map(_daily, range(DAY_MINUTES))), draw, maintenance)


def default_maintenance_window(region: str, draw: int, backup: Window | None = None) -> Window:
    """A 30-minute window on any day from the region's 8-hour block, apart from `backup`, chosen by the random `draw`.

    Where a long backup window leaves no room in the block, any time of the week serves; raises `ApiError`
    InvalidParameterValue if the week has no room either.
    """
    days = range(0, WEEK_MINUTES, DAY_MINUTES)
    preferred = (_weekly(day + start) for day in days for start in _block_starts(region))
    return _choose((preferred, map(_weekly, range(WEEK_MINUTES))), draw, backup)


def next_start(window: Window, after: float) -> int:
    """When the window opens next, strictly after `after`; epoch seconds."""
    first, period_s = _first_start(window), window.period_minutes * MINUTE_S
    return first + (floor((after - first) / period_s) + 1) * period_s


def moment_inside(window: Window, after: float, draw: int) -> float:
    """A moment in the first opening of the window after `after`, chosen by the random `draw`; epoch seconds.

    The last minute is never chosen, so that what begins then begins inside the window.
    """
    return next_start(window, after) + draw % max(1, (window.length_minutes - 1) * MINUTE_S)


def is_inside(window: Window, at: float) -> bool:
    """Whether the window is open at `at` (epoch seconds). The first second belongs to it, the end does not."""
    return (at - _first_start(window)) % (window.period_minutes * MINUTE_S) < window.length_minutes * MINUTE_S


def remaining_s(window: Window, at: float) -> float:
    """For how long the window stays open after `at`; 0 when it is closed."""
    elapsed = (at - _first_start(window)) % (window.period_minutes * MINUTE_S)
    return max(0.0, window.length_minutes * MINUTE_S - elapsed)


def _window(start: int, end: int, period: int) -> Window:
    return Window(start_minute=start, length_minutes=(end - start) % period, period_minutes=period)


def _daily(start: int) -> Window:
    return Window(start_minute=start % DAY_MINUTES, length_minutes=DEFAULT_LENGTH_MINUTES, period_minutes=DAY_MINUTES)


def _weekly(start: int) -> Window:
    return Window(start_minute=start % WEEK_MINUTES, length_minutes=DEFAULT_LENGTH_MINUTES, period_minutes=WEEK_MINUTES)


def _weekly_starts(window: Window) -> range:
    return range(window.start_minute, WEEK_MINUTES, window.period_minutes)


def _circular_overlap(first: int, first_length: int, second: int, second_length: int) -> bool:
    return (second - first) % WEEK_MINUTES < first_length or (first - second) % WEEK_MINUTES < second_length


def _block_starts(region: str) -> range:
    """The minutes of the day (those past midnight counted on) at which a default window may start."""
    hours, minutes = _BLOCK_STARTS.get(region, _DEFAULT_BLOCK_START).split(":")
    first = int(hours) * 60 + int(minutes)
    return range(first, first + BLOCK_LENGTH_MINUTES - DEFAULT_LENGTH_MINUTES + 1)


def _choose(preferences: Iterable[Iterable[Window]], draw: int, apart_from: Window | None) -> Window:
    """The drawn window of the first preference of which any is apart from `apart_from`."""
    for candidates in preferences:
        fitting = [window for window in candidates if apart_from is None or not overlap(window, apart_from)]
        if fitting:
            return fitting[draw % len(fitting)]
    raise invalid_value("The backup window and maintenance window must not overlap.")


def _first_start(window: Window) -> int:
    """One moment at which the window opens, epoch seconds."""
    offset = _EPOCH_WEEK_OFFSET_MINUTES if window.period_minutes == WEEK_MINUTES else 0
    return (window.start_minute - offset) * MINUTE_S
