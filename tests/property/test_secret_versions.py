"""The version-stage machine keeps its invariants whatever sequence of calls comes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mainstay.decide.secret_versions import (
    STAGES_PER_SECRET,
    Versions,
    find_version,
    labelled,
    moved_stage,
    with_version,
)
from mainstay.model.errors import ApiError
from mainstay.model.secrets_manager import CURRENT, PENDING, PREVIOUS

HOUR_S = 3600.0
labels = st.sampled_from([CURRENT, PREVIOUS, PENDING, "A", "B"])
ids = st.sampled_from([str(number) for number in range(8)])
puts = st.tuples(st.just("put"), ids, st.lists(labels, min_size=1, max_size=4, unique=True))
moves = st.tuples(st.just("move"), labels, st.tuples(st.none() | ids, st.none() | ids))
waits = st.tuples(st.just("wait"), st.floats(0, 40 * HOUR_S), st.none())


def check(before: Versions, after: Versions) -> None:
    all_labels = [label for one in after for label in one.stages]
    assert len(all_labels) == len(set(all_labels)) <= STAGES_PER_SECRET
    assert len({one.version_id for one in after}) == len(after)
    old, new = labelled(before, CURRENT), labelled(after, CURRENT)
    if old is not None:
        assert new is not None, "AWSCURRENT never goes away"
        if new.version_id != old.version_id:
            previous = labelled(after, PREVIOUS)
            assert previous is not None and previous.version_id == old.version_id
    for one in before:
        if one.stages:
            assert find_version(after, one.version_id) is not None, "a version with a label was dropped"
        kept = find_version(after, one.version_id)
        assert kept is None or kept.created_at == one.created_at


@given(st.lists(st.one_of(puts, moves, waits), max_size=40))
def test_invariants_hold_over_any_history(steps: list[tuple[str, object, object]]) -> None:
    versions: Versions = ()
    now = 0.0
    for kind, first, second in steps:
        before = versions
        if kind == "wait":
            now += first  # type: ignore[operator]
        elif kind == "put" and find_version(versions, str(first)) is None:
            stages = list(second)  # type: ignore[call-overload]
            versions = with_version(versions, str(first), now, stages)
            made = find_version(versions, str(first))
            assert made is not None and set(stages) - {PREVIOUS} <= set(made.stages)
        elif kind == "move":
            try:
                versions = moved_stage(versions, str(first), *second)  # type: ignore[misc]
            except ApiError as error:
                assert error.shape in ("InvalidParameterException", "ResourceNotFoundException")
            else:
                move_to = second[0]  # type: ignore[index]
                holder = labelled(versions, str(first))
                assert (None if holder is None else holder.version_id) == move_to
        check(before, versions)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 300), st.floats(0, 60 * HOUR_S))
def test_what_is_kept_is_bounded_and_never_what_is_young_or_labelled(count: int, gap_s: float) -> None:
    versions: Versions = ()
    now = 0.0
    for number in range(count):
        now += gap_s / 10
        before = versions
        try:
            versions = with_version(versions, f"{number}", now, (CURRENT,))
        except ApiError as error:
            assert error.shape == "LimitExceededException" and len(before) >= 500
            continue
        check(before, versions)
        dropped = {one.version_id for one in before} - {one.version_id for one in versions}
        assert all(one.created_at < now - 24 * HOUR_S for one in before if one.version_id in dropped)
        young = sum(one.created_at >= now - 24 * HOUR_S for one in versions)
        assert len(versions) <= max(100, young + 2)
