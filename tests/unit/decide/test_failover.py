"""The failover table: reviewed, every row reachable, and never against the two-node rule."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from mainstay.decide.failover import (
    CATCH_UP_BYTES,
    MISSED_PROBES_MAX,
    PRIMARY_START_FAILURES_MAX,
    RESTART_MAX_S,
    STANDBY_ABSENT_MAX_S,
    STANDBY_SILENT_MAX_S,
    STORAGE_FAULTS_MAX,
    SWITCH_CATCH_UP_S,
    SWITCH_MAX_S,
    SWITCH_PATIENCE_S,
    TABLE,
    PairAction,
    PairView,
    PrimaryState,
    decide,
    obstacle,
)

GOLDEN = Path(__file__).with_name("failover_table.txt")
IN_SYNC = PairView(in_sync=True)
ALONE = PairView(in_sync=False)
TAKE_OVER = (PairAction.FAIL_OVER, PairAction.SWITCH)

VALUES: dict[str, list[object]] = {
    "in_sync": [False, True],
    "recorded_process": [False, True],
    "primary_wanted": [False, True],
    "primary_leaving": [False, True],
    "primary": list(PrimaryState),
    "restarting_s": [0.0, RESTART_MAX_S, RESTART_MAX_S + 1],
    "start_failures": [0, PRIMARY_START_FAILURES_MAX - 1, PRIMARY_START_FAILURES_MAX],
    "missed_probes": [0, 1, MISSED_PROBES_MAX - 1, MISSED_PROBES_MAX],
    "storage_faults": [0, STORAGE_FAULTS_MAX - 1, STORAGE_FAULTS_MAX],
    "standby_wanted": [False, True],
    "standby_running": [False, True],
    "standby_streaming": [False, True],
    "standby_absent_s": [0.0, STANDBY_ABSENT_MAX_S, STANDBY_ABSENT_MAX_S + 0.1],
    "standby_silent_s": [0.0, STANDBY_SILENT_MAX_S, STANDBY_SILENT_MAX_S + 0.1],
    "standby_behind_bytes": [0, CATCH_UP_BYTES, CATCH_UP_BYTES + 1],
    "sync_required": [False, True],
    "sync_loaded": [False, True],
    "primary_outdated": [False, True],
    "standby_current": [False, True],
    "standby_renews": [False, True],
    "switch_wanted": [False, True],
    "switch_waits_s": [0.0, SWITCH_PATIENCE_S + 0.1, SWITCH_CATCH_UP_S + 0.1, SWITCH_MAX_S + 0.1],
}
assert set(VALUES) == set(PairView.__struct_fields__), "a new field must be varied too"
views = st.builds(PairView, **{name: st.sampled_from(values) for name, values in VALUES.items()})


def with_changes(view: PairView, **changes: object) -> PairView:
    return msgspec.structs.replace(view, **changes)


def test_the_table_is_the_reviewed_one() -> None:
    dump = "".join(f"{number:2} {row.name:<26} {row.action:<16} {row.because}\n" for number, row in enumerate(TABLE, 1))
    if not GOLDEN.exists():
        GOLDEN.write_text(dump)
    assert dump == GOLDEN.read_text(), "policy changed: review it and regenerate the golden file by deleting it"


def test_every_row_can_fire() -> None:
    draw = random.Random(1)
    fired = set()
    for _ in range(60_000):
        changes = {name: draw.choice(values) for name, values in VALUES.items() if draw.random() < 0.2}
        fired.add(decide(with_changes(draw.choice((IN_SYNC, ALONE)), **changes)).name)
    assert fired == {row.name for row in TABLE}


@given(views)
def test_nobody_takes_over_who_is_not_known_to_have_every_commit(view: PairView) -> None:
    if decide(view).action in TAKE_OVER:
        assert view.in_sync and view.standby_wanted and view.standby_running


@given(views)
def test_commits_are_released_only_when_alone_was_recorded(view: PairView) -> None:
    if decide(view).action is PairAction.RELEASE_SYNC:
        assert not view.in_sync and view.sync_required


@given(views)
def test_in_sync_is_confirmed_only_when_commits_are_told_to_wait_and_that_is_loaded(view: PairView) -> None:
    if decide(view).action is PairAction.CONFIRM_SYNC:
        assert view.sync_required and view.sync_loaded and view.standby_streaming and not view.in_sync
        assert view.primary is PrimaryState.ANSWERS and view.standby_wanted


@given(views)
def test_only_what_is_recorded_is_taken_back(view: PairView) -> None:
    if decide(view).action is PairAction.RECORD_ALONE:
        assert view.in_sync
    if decide(view).action is PairAction.REQUIRE_SYNC:
        assert not view.sync_required and not view.in_sync and view.standby_streaming


@given(views)
def test_what_is_in_sync_stays_recorded_while_the_primary_does_not_answer(view: PairView) -> None:
    """Then the standby may be all that is left: forgetting that it has everything would only prevent its takeover."""
    if view.in_sync and view.primary is not PrimaryState.ANSWERS and view.standby_wanted:
        assert decide(view).action is not PairAction.RECORD_ALONE


@given(views)
def test_a_standby_that_goes_is_not_promoted_and_not_waited_for(view: PairView) -> None:
    leaving = with_changes(view, standby_wanted=False, switch_wanted=False, primary_leaving=False)
    action = decide(leaving).action
    assert action not in (*TAKE_OVER, PairAction.CONFIRM_SYNC, PairAction.REQUIRE_SYNC)
    if leaving.primary_wanted:
        assert not leaving.in_sync or action is PairAction.RECORD_ALONE
        assert leaving.in_sync or not leaving.sync_required or action is PairAction.RELEASE_SYNC


@given(views)
def test_an_instance_that_is_to_stop_is_left_alone(view: PairView) -> None:
    assert decide(with_changes(view, primary_wanted=False, primary_leaving=False)).action is PairAction.NOTHING


@settings(max_examples=3000)
@given(views)
def test_every_action_changes_what_it_was_decided_on(view: PairView) -> None:
    """No action is repeated for ever: its effect makes another row fire."""
    effects: dict[PairAction, dict[str, object]] = {
        PairAction.FAIL_OVER: {"in_sync": False, "sync_required": False},
        PairAction.SWITCH: {"in_sync": False, "sync_required": False, "switch_wanted": False},
        PairAction.ABANDON_SWITCH: {"switch_wanted": False},
        PairAction.RECORD_ALONE: {"in_sync": False},
        PairAction.RELEASE_SYNC: {"sync_required": False},
        PairAction.REQUIRE_SYNC: {"sync_required": True},
        PairAction.CONFIRM_SYNC: {"in_sync": True, "recorded_process": True},
    }
    seen = []
    for _ in range(12):
        row = decide(view)
        seen.append(row.name)
        if row.action in (PairAction.NOTHING, *TAKE_OVER):
            return
        view = with_changes(view, **effects[row.action])
    raise AssertionError(f"no end: {seen}")


def test_thresholds() -> None:
    hung = with_changes(IN_SYNC, primary=PrimaryState.SILENT, missed_probes=MISSED_PROBES_MAX - 1)
    assert decide(hung).action is PairAction.NOTHING
    assert decide(with_changes(hung, missed_probes=MISSED_PROBES_MAX)).name == "primary-hung"
    restarting = with_changes(IN_SYNC, primary=PrimaryState.RESTARTING, restarting_s=RESTART_MAX_S)
    assert decide(restarting).action is PairAction.NOTHING
    assert decide(with_changes(restarting, restarting_s=RESTART_MAX_S + 0.1)).name == "primary-restart-too-long"
    silent = with_changes(IN_SYNC, standby_silent_s=STANDBY_SILENT_MAX_S)
    assert decide(silent).action is PairAction.NOTHING
    assert decide(with_changes(silent, standby_silent_s=STANDBY_SILENT_MAX_S + 0.1)).name == "standby-lost"


def test_a_change_of_roles_is_waited_for_as_long_as_its_standby_may_be_on_its_way() -> None:
    asked = with_changes(ALONE, switch_wanted=True, sync_required=False, standby_behind_bytes=CATCH_UP_BYTES + 1)
    absent = with_changes(asked, standby_running=False)
    silent = with_changes(asked, standby_silent_s=STANDBY_SILENT_MAX_S + 0.1)
    starting = with_changes(absent, primary=PrimaryState.STARTING)
    patient = SWITCH_PATIENCE_S
    renewed = with_changes(absent, primary_outdated=True, standby_renews=True)
    renewals = ((with_changes(absent, primary_outdated=True), patient), (renewed, SWITCH_MAX_S))
    others = ((asked, SWITCH_CATCH_UP_S), (starting, SWITCH_MAX_S))
    for view, limit_s in ((absent, patient), (silent, patient), *others, *renewals):
        assert decide(with_changes(view, switch_waits_s=limit_s)).name == "alone"
        assert decide(with_changes(view, switch_waits_s=limit_s + 0.1)).name == "switch-given-up"


def test_a_standby_that_is_to_be_started_anew_first_takes_over_after_that() -> None:
    asked = with_changes(IN_SYNC, switch_wanted=True, primary_outdated=True)
    assert decide(asked).action is PairAction.NOTHING
    assert decide(with_changes(asked, standby_current=True)).name == "switch-to-renew"


def test_a_dead_pair_is_not_failed_over_but_started() -> None:
    assert decide(with_changes(IN_SYNC, primary=PrimaryState.DOWN)).action is PairAction.NOTHING
    both_ended = with_changes(IN_SYNC, primary=PrimaryState.ENDED, standby_running=False)
    assert decide(both_ended).action is PairAction.NOTHING, "the record stays: it is what tells who has everything"


def test_why_there_is_no_failover_is_told() -> None:
    assert obstacle(IN_SYNC, "x") == ""
    for view in (
        with_changes(ALONE, standby_wanted=False),
        with_changes(ALONE, standby_running=False),
        with_changes(ALONE, standby_streaming=False),
        ALONE,
    ):
        assert obstacle(view, "the standby's process ended")
