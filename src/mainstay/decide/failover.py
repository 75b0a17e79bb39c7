"""What a Multi-AZ pair does next: one ordered table, first match wins.

The two-node rule (docs/invariants.md) is law: ALONE is recorded before the primary acknowledges anything that the
standby does not have; IN_SYNC only after it was observed that commits wait for the standby and that it has caught up; a
standby is promoted only under a record that names it, read afresh, after the old primary was fenced. `decide` is pure;
repeating an action it returned is harmless. The table is dumped to a golden file
(tests/unit/decide/failover_table.txt). Thresholds are counted in probes made, not in time that went by, so that an
agent that was itself frozen or starved does not blame the primary.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import msgspec

MISSED_PROBES_MAX = 3
"""So many probes in a row without an answer make a hung primary."""

STORAGE_FAULTS_MAX = 3
"""So many probes in a row that could not write make a primary that has lost its disk."""

STANDBY_ABSENT_MAX_S = 1.0
STANDBY_SILENT_MAX_S = 5.0
PRIMARY_START_FAILURES_MAX = 2
RESTART_MAX_S = 60.0
SWITCH_PATIENCE_S = 10.0
"""How long a change of roles that was asked for waits for a standby that does not follow its primary."""

SWITCH_CATCH_UP_S = 30.0
"""How long for one that does, and has not caught up."""

SWITCH_MAX_S = 120.0
"""How long for anything: the primary is not ready, or the standby was in sync and is being started anew before."""

CATCH_UP_BYTES = 16 << 20
"""Commits begin to wait for a standby that is no further behind than this, so that they do not wait for long."""


class PairAction(StrEnum):
    """One step of a pair. Every one may be repeated."""

    NOTHING = "nothing"
    FAIL_OVER = "fail-over"
    SWITCH = "switch"
    ABANDON_SWITCH = "abandon-switch"
    RECORD_ALONE = "record-alone"
    RELEASE_SYNC = "release-sync"
    REQUIRE_SYNC = "require-sync"
    CONFIRM_SYNC = "confirm-sync"


class PrimaryState(StrEnum):
    """What is seen of the process that leads."""

    ANSWERS = "answers"
    STARTING = "starting"
    """It runs and is not ready yet: recovery is no hang."""

    SILENT = "silent"
    """It runs, was ready, and did not answer the last probe."""

    RESTARTING = "restarting"
    """It was stopped to be started again, as its spec wants."""

    ENDED = "ended"
    """It ended and nobody wanted that."""

    DOWN = "down"
    """It was not running when this agent began to look, and neither was the standby: the host was restarted."""


class PairView(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent sees of a pair. `primary_leaving`: the node that leads is to be removed and the other one stays.

    `in_sync`: the record says that the standby has every acknowledged commit. `recorded_process`: the primary's process
    is the one of which that was recorded. `sync_required`: commits are told to wait for the standby.
    `primary_outdated`: it must be restarted, after its standby, which is `standby_current` when it has been.
    `standby_renews`: it was in sync when it began to be. `switch_waits_s`: how long ago the change of roles was asked
    for that has not been made (`switch_wanted`).
    """

    in_sync: bool
    recorded_process: bool = True
    primary_wanted: bool = True
    primary_leaving: bool = False
    primary: PrimaryState = PrimaryState.ANSWERS
    restarting_s: float = 0.0
    start_failures: int = 0
    missed_probes: int = 0
    storage_faults: int = 0
    standby_wanted: bool = True
    standby_running: bool = True
    standby_streaming: bool = True
    standby_absent_s: float = 0.0
    standby_silent_s: float = 0.0
    standby_behind_bytes: int = 0
    sync_required: bool = True
    sync_loaded: bool = True
    primary_outdated: bool = False
    standby_current: bool = False
    standby_renews: bool = False
    switch_wanted: bool = False
    switch_waits_s: float = 0.0


Condition = Callable[[PairView], bool]


class PairRow(msgspec.Struct, frozen=True):
    """One line of policy: under this name, when this holds, do that, because."""

    name: str
    when: Condition
    action: PairAction
    because: str


def _may_take_over(view: PairView) -> bool:
    return view.in_sync and view.standby_wanted and view.standby_running


def _standby_lost(view: PairView) -> bool:
    return (
        not view.standby_running
        or view.standby_absent_s > STANDBY_ABSENT_MAX_S
        or view.standby_silent_s > STANDBY_SILENT_MAX_S
    )


def _switch_overdue(view: PairView) -> bool:
    """Nobody waits for long for what is not on its way: who asked is told why, and may ask again."""
    if view.primary is not PrimaryState.ANSWERS or view.standby_renews:
        return view.switch_waits_s > SWITCH_MAX_S
    follows = view.standby_streaming and not _standby_lost(view)
    return view.switch_waits_s > (SWITCH_CATCH_UP_S if follows else SWITCH_PATIENCE_S)


TABLE: tuple[PairRow, ...] = (
    PairRow(
        "rest",
        lambda v: not v.primary_wanted and not v.primary_leaving,
        PairAction.NOTHING,
        "the instance is to be stopped or deleted",
    ),
    PairRow(
        "primary-removed",
        lambda v: v.primary_leaving and _may_take_over(v),
        PairAction.SWITCH,
        "the node that leads is to go and the other one stays",
    ),
    PairRow(
        "primary-ended",
        lambda v: v.primary is PrimaryState.ENDED and _may_take_over(v),
        PairAction.FAIL_OVER,
        "the primary's process ended",
    ),
    PairRow(
        "primary-cannot-start",
        lambda v: v.start_failures >= PRIMARY_START_FAILURES_MAX and _may_take_over(v),
        PairAction.FAIL_OVER,
        "the primary does not start",
    ),
    PairRow(
        "primary-restart-too-long",
        lambda v: (
            v.primary in (PrimaryState.RESTARTING, PrimaryState.DOWN, PrimaryState.STARTING)
            and v.restarting_s > RESTART_MAX_S
            and _may_take_over(v)
        ),
        PairAction.FAIL_OVER,
        "the primary has not come back in time",
    ),
    PairRow(
        "primary-hung",
        lambda v: v.missed_probes >= MISSED_PROBES_MAX and _may_take_over(v),
        PairAction.FAIL_OVER,
        "the primary does not answer",
    ),
    PairRow(
        "primary-lost-its-disk",
        lambda v: v.storage_faults >= STORAGE_FAULTS_MAX and _may_take_over(v),
        PairAction.FAIL_OVER,
        "the primary cannot read or write its data",
    ),
    PairRow(
        "no-switch-while-removing",
        lambda v: v.switch_wanted and not v.standby_wanted,
        PairAction.ABANDON_SWITCH,
        "the standby is to go",
    ),
    PairRow(
        "switch-asked-for",
        lambda v: (
            v.switch_wanted and not v.primary_outdated and v.primary is PrimaryState.ANSWERS and _may_take_over(v)
        ),
        PairAction.SWITCH,
        "a change of roles was asked for",
    ),
    PairRow(
        "switch-to-renew",
        lambda v: v.primary_outdated and v.standby_current and v.primary is PrimaryState.ANSWERS and _may_take_over(v),
        PairAction.SWITCH,
        "the standby runs as is wanted now, the primary does not yet",
    ),
    PairRow(
        "switch-given-up",
        lambda v: v.switch_wanted and _switch_overdue(v),
        PairAction.ABANDON_SWITCH,
        "the standby did not get in sync in time",
    ),
    PairRow(
        "standby-removed",
        lambda v: v.in_sync and not v.standby_wanted,
        PairAction.RECORD_ALONE,
        "the standby is to go",
    ),
    PairRow(
        "standby-ended",
        lambda v: v.in_sync and not v.standby_running and v.primary is PrimaryState.ANSWERS,
        PairAction.RECORD_ALONE,
        "the standby's process ended",
    ),
    PairRow(
        "standby-lost",
        lambda v: v.in_sync and _standby_lost(v) and v.primary is PrimaryState.ANSWERS and v.missed_probes == 0,
        PairAction.RECORD_ALONE,
        "the standby receives nothing any more",
    ),
    PairRow(
        "primary-restarted",
        lambda v: v.in_sync and not v.recorded_process and v.primary is PrimaryState.ANSWERS,
        PairAction.RECORD_ALONE,
        "the primary was restarted: what its recovery brought back may be more than the standby has",
    ),
    PairRow("in-sync", lambda v: v.in_sync, PairAction.NOTHING, "the standby has every acknowledged commit"),
    PairRow(
        "release",
        lambda v: v.sync_required and (not v.standby_wanted or _standby_lost(v)),
        PairAction.RELEASE_SYNC,
        "commits need not wait for a standby that is not there; that was recorded before",
    ),
    PairRow(
        "require",
        lambda v: (
            not v.sync_required
            and v.standby_wanted
            and not _standby_lost(v)
            and v.standby_running
            and v.standby_streaming
            and v.standby_behind_bytes <= CATCH_UP_BYTES
            and v.primary is PrimaryState.ANSWERS
        ),
        PairAction.REQUIRE_SYNC,
        "the standby has nearly caught up",
    ),
    PairRow(
        "confirm",
        lambda v: (
            v.sync_required
            and v.sync_loaded
            and v.standby_running
            and v.standby_streaming
            and v.primary is PrimaryState.ANSWERS
        ),
        PairAction.CONFIRM_SYNC,
        "commits are told to wait for the standby: whether they do is to be seen",
    ),
    PairRow("alone", lambda v: True, PairAction.NOTHING, "the primary goes on alone; the standby is not ready"),
)


def decide(view: PairView) -> PairRow:
    """The first row of the table that matches; its action is what to do next."""
    return next(row for row in TABLE if row.when(view))


def obstacle(view: PairView, reason: str) -> str:
    """Why no failover is possible now, "" if one is. `reason` is the record's."""
    if not view.standby_wanted:
        return "the instance has no standby"
    if view.in_sync:
        return ""
    if not view.standby_running:
        return f"the standby is not running: {reason}"
    if not view.standby_streaming:
        return f"the standby is not receiving from the primary yet: {reason}"
    return f"the standby is catching up: {reason}"
