"""When the storage of an instance grows by itself, and to what size.

Source: RDS user guide, "Managing capacity automatically with Amazon RDS storage autoscaling". Ours: a full storage does
not wait the five minutes, which on RDS keep a passing peak from growing it for good (nothing passes by itself when the
engine has no room left); and the last step is as long as the maximum lets it be, where RDS takes none.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import msgspec

GIB = 1 << 30
LOW_BELOW_PERCENT = 10
LOW_FOR_S = 300.0
PAUSE_S = 6 * 3600.0
HISTORY_S = 3600.0
HORIZON_S = 7 * 3600.0
TREND_MIN_S = 300.0
"""A shorter history says nothing of the next hours."""
GAP_MAX_S = 120.0
"""Nobody looked for longer than this: what was before is not known to have lasted."""
STEP_GIB = 10
STEP_PERCENT = 10
APPROACHING_PERCENT = 80


class Space(msgspec.Struct, frozen=True):
    """One look at a volume. `at` is epoch seconds."""

    at: float
    free_bytes: int
    size_bytes: int


class Growth(msgspec.Struct, frozen=True):
    """`size_gib` is the new size, None: none now. `pausing`: it would grow if the last change were older;
    `at_maximum`: if the maximum were higher."""

    size_gib: int | None = None
    pausing: bool = False
    at_maximum: bool = False


def growth(
    allocated_gib: int, maximum_gib: int, looks: Sequence[Space], now: float, *, full: bool, changed_at: float | None
) -> Growth:
    """What becomes of the storage now. `looks` are in order; `full`: the engine is out of room, or must expect to be.

    `changed_at` is when its size was last changed after the creation (epoch seconds), None: never.
    """
    if not full and low_for_s(looks, now) < LOW_FOR_S:
        return Growth()
    if allocated_gib >= maximum_gib:
        return Growth(at_maximum=True)
    if changed_at is not None and now < changed_at + PAUSE_S:
        return Growth(pausing=True)
    return Growth(size_gib=min(maximum_gib, allocated_gib + step_gib(allocated_gib, looks, now)))


def low_for_s(looks: Sequence[Space], now: float) -> float:
    """For how long less than a tenth has been free without a break."""
    since, later = now, now
    for look in takewhile(_is_low, reversed(looks)):
        if later - look.at > GAP_MAX_S:
            break
        since = later = look.at
    return now - since


def step_gib(allocated_gib: int, looks: Sequence[Space], now: float) -> int:
    """The greatest of 10 GiB, a tenth, and what the next seven hours would need if they are like the last one."""
    tenth = -(-allocated_gib * STEP_PERCENT // 100)
    return max(STEP_GIB, tenth, -(-_predicted_bytes(looks, now) // GIB))


def is_approaching(allocated_gib: int, maximum_gib: int) -> bool:
    """Whether a person should think about a higher maximum."""
    return allocated_gib * 100 >= maximum_gib * APPROACHING_PERCENT


def remembered(looks: Sequence[Space], now: float) -> list[Space]:
    """What may still matter."""
    return [look for look in looks if look.at >= now - HISTORY_S]


def _is_low(look: Space) -> bool:
    return look.free_bytes * 100 < look.size_bytes * LOW_BELOW_PERCENT


def _predicted_bytes(looks: Sequence[Space], now: float) -> int:
    """By how much the growth would exceed the volume."""
    recent = remembered(looks, now)
    if not recent:
        return 0
    same = list(takewhile(lambda look: look.size_bytes == recent[-1].size_bytes, reversed(recent)))
    first, last = same[-1], same[0]
    span_s = last.at - first.at
    if span_s < TREND_MIN_S:
        return 0
    rate = max(0, first.free_bytes - last.free_bytes) / span_s
    return max(0, int(rate * HORIZON_S) - last.free_bytes)
