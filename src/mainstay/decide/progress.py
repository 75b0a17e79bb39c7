"""How far long work is: in words, and when an event should tell it.

What is short tells nothing but its end. What is long tells how far it is when it has gone on for an interval, and then
again, at the earliest five intervals later, when a further tenth is done; where the end is not known, when it has gone
on for twice as long. So an operation tells eleven times at most, or about as often as its hours have binary digits.
"""

from __future__ import annotations

import msgspec

REST_INTERVALS = 5
"""Between two events of one operation there are at least so many intervals."""

TENTHS = 10


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How far something is. `bytes_total` 0: it is not known how much there is. It began at `begun_at`, epoch seconds,
    and began anew there if it had to."""

    begun_at: float
    bytes_done: int
    bytes_total: int = 0

    @property
    def tenths(self) -> int:
        """How many are done, of ten."""
        return TENTHS * self.bytes_done // self.bytes_total if self.bytes_total else 0


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What an event has told last, and when."""

    at: float
    tenths: int


def is_due(pace: Pace, told: Told | None, now: float, interval_s: float) -> bool:
    """Whether an event should tell it now. `interval_s` 0: never."""
    gone_on_s = now - pace.begun_at
    if not interval_s or not pace.bytes_done or gone_on_s < interval_s:
        return False
    if told is None:
        return True
    if now - told.at < REST_INTERVALS * interval_s:
        return False
    if told.at < pace.begun_at:
        return True  # that was of another part of it, or of an attempt that failed
    return pace.tenths > told.tenths if pace.bytes_total else gone_on_s >= 2 * (told.at - pace.begun_at)


def size(count: float | None) -> str:
    """Bytes in binary units."""
    if count is None:
        return ""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def span(seconds: float) -> str:
    """A duration in its largest unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def pace_words(done: int, total: int, seconds: float) -> str:
    """Bytes, how many of all, and after the first second also how fast and how long it will take at this rate."""
    of = f" of {size(total)} ({100 * done // total} %)" if total else ""
    if seconds < 1.0 or not done:
        return f"{size(done)}{of}"
    left = f", {span((total - done) * seconds / done)} left" if total else ""
    return f"{size(done)}{of}, {size(done / seconds)}/s{left}"
