"""When storage grows, and how far: the rules of RDS, at any history of a volume."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mainstay.decide.storage_autoscaling import (
    GAP_MAX_S,
    GIB,
    LOW_FOR_S,
    PAUSE_S,
    Growth,
    Space,
    growth,
    low_for_s,
    step_gib,
)

NOW = 1_000_000.0


def looks(*percents: float, every_s: float = 20.0, size_gib: int = 20, last_at: float = NOW) -> list[Space]:
    """Free percentages, the last one just now."""
    size = size_gib * GIB
    first = last_at - every_s * (len(percents) - 1)
    return [Space(first + every_s * number, int(size * one / 100), size) for number, one in enumerate(percents)]


def decided(history: list[Space], *, full: bool = False, changed_at: float | None = None, maximum: int = 100) -> Growth:
    return growth(20, maximum, history, NOW, full=full, changed_at=changed_at)


def test_five_minutes_below_a_tenth() -> None:
    assert decided(looks(*[9.0] * 15)) == Growth(), "280 s"
    assert decided(looks(*[9.0] * 16)) == Growth(size_gib=30)
    assert decided(looks(*[10.0] * 30)) == Growth(), "exactly a tenth is not below it"
    assert decided(looks(*[9.0] * 10, 11.0, *[9.0] * 15)) == Growth(), "a look with room begins it anew"
    assert decided([]) == Growth()


def test_what_nobody_looked_at_is_not_known_to_have_lasted() -> None:
    assert decided(looks(9.0, 9.0, 9.0, every_s=GAP_MAX_S + 60)) == Growth()
    assert low_for_s(looks(9.0, last_at=NOW - GAP_MAX_S - 1), NOW) == 0.0


def test_a_full_storage_does_not_wait() -> None:
    assert decided(looks(0.0), full=True) == Growth(size_gib=30)
    assert decided([], full=True) == Growth(size_gib=30), "a control process that was just started"


def test_six_hours_between_changes() -> None:
    for full in (False, True):
        history = looks(*[1.0] * 20)
        assert decided(history, full=full, changed_at=NOW - PAUSE_S + 1) == Growth(pausing=True)
        assert decided(history, full=full, changed_at=NOW - PAUSE_S) == Growth(size_gib=30)


def test_never_above_the_maximum() -> None:
    history = looks(*[1.0] * 20)
    assert decided(history, maximum=25) == Growth(size_gib=25)
    assert decided(history, maximum=20) == Growth(at_maximum=True)


def test_the_greatest_of_three_steps() -> None:
    assert step_gib(20, [], NOW) == 10
    assert step_gib(100, [], NOW) == 10
    assert step_gib(101, [], NOW) == 11
    assert step_gib(1000, [], NOW) == 100
    # From 12 GiB to 1 GiB free in an hour: 77 GiB in seven hours, of which 1 GiB is there.
    size = 100 * GIB
    hour = [Space(NOW - 3600 + 60 * n, (12 * 60 - 11 * n) * GIB // 60, size) for n in range(61)]
    assert step_gib(100, hour, NOW) == 76
    assert step_gib(100, hour[-3:], NOW) == 10, "two minutes are no trend"
    grown = [*hour[:-1], Space(NOW, 12 * GIB, 120 * GIB)]
    assert step_gib(120, grown, NOW) == 12, "what was seen of another size is no trend of this one"


@given(
    st.integers(20, 5000),
    st.integers(0, 5000),
    st.lists(st.tuples(st.floats(1, 4000), st.floats(0, 100)), max_size=60),
    st.booleans(),
    st.one_of(st.none(), st.floats(0, 10 * 3600)),
)
def test_at_any_history(
    allocated: int, more: int, history: list[tuple[float, float]], full: bool, changed_s: float | None
) -> None:
    at, seen = NOW - sum(pause for pause, _percent in history), []
    for pause, percent in history:
        at += pause
        seen.append(Space(at, int(allocated * GIB * percent / 100), allocated * GIB))
    changed_at = None if changed_s is None else NOW - changed_s
    verdict = growth(allocated, allocated + more, seen, NOW, full=full, changed_at=changed_at)
    if verdict.size_gib is not None:
        assert allocated < verdict.size_gib <= allocated + more
        assert verdict.size_gib >= min(allocated + more, allocated + 10, -(-allocated * 11 // 10))
        assert changed_s is None or changed_s >= PAUSE_S - 1e-3
        recent = [one for one in seen if one.at >= NOW - LOW_FOR_S]
        assert full or all(one.free_bytes * 10 < one.size_bytes for one in recent)
        assert full or recent
    if full and more and (changed_s is None or changed_s >= PAUSE_S + 1e-3):
        assert verdict.size_gib is not None
