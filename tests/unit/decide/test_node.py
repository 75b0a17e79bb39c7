"""The node table: every row reachable, the policy dumped to a golden file, and always an end."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from mainstay.decide.node import (
    HELD_ROUTE,
    INHERITED_ACCOUNTS,
    TABLE,
    Action,
    Observed,
    Wanted,
    decide,
    start_backoff_s,
)
from mainstay.model.node import NodeRole, NodeTarget
from mainstay.model.volume import VolumePhase

GOLDEN = Path(__file__).with_name("node_table.txt")
WANTED = Wanted(
    target=NodeTarget.RUNNING,
    configuration_digest="conf",
    accounts_digest="accounts",
    route_digest="route",
    process_identity="now",
)
SETTLED = Observed(
    volume=True,
    volume_phase=VolumePhase.OPEN,
    initialised=True,
    written_digest="conf",
    running=True,
    ready=True,
    process_identity="now",
    loaded_digest="conf",
    accounts_digest="accounts",
    route_digest="route",
)

VALUES: dict[str, list[object]] = {
    "volume": [False, True],
    "volume_phase": list(VolumePhase),
    "key_missing": [False, True],
    "cramped": [False, True],
    "grows_open": [False, True],
    "storage_full": [False, True],
    "initialised": [False, True],
    "written_digest": ["", "old", "conf"],
    "running": [False, True],
    "stopping": [False, True],
    "ready": [False, True],
    "process_identity": ["", "old", "now"],
    "loaded_digest": ["", "old", "conf"],
    "accounts_digest": ["", "old", INHERITED_ACCOUNTS, "accounts"],
    "route_digest": ["", "unknown", HELD_ROUTE, "old", "route"],
    "start_failures": list(range(7)),
    "start_due": [False, True],
    "had_data": [False, True],
    "follows": [False, True],
    "readable": [False, True],
    "promoting": [False, True],
    "paused": [False, True],
    "outgrown": [False, True],
    "locked_out": [False, True],
    "refuses": [False, True],
    "lost": [False, True],
    "upstream_ready": [False, True],
    "copying": [False, True],
    "data_name": ["", "first", "second"],
    "kept": [(), ("first",), ("first", "second")],
}
assert set(VALUES) == set(Observed.__struct_fields__), "a new field must be varied too"
observed_nodes = st.builds(Observed, **{name: st.sampled_from(values) for name, values in VALUES.items()})


def effect_of(action: Action, wanted: Wanted, seen: Observed) -> Observed:
    """The world after an action succeeded."""
    changes: dict[Action, dict[str, object]] = {
        Action.CREATE_VOLUME: {"volume": True, "volume_phase": VolumePhase.CLOSED},
        Action.OPEN_VOLUME: {"volume_phase": VolumePhase.OPEN},
        Action.CLOSE_VOLUME: {"volume_phase": VolumePhase.CLOSED},
        Action.GROW_VOLUME: {"cramped": False, "storage_full": False},
        Action.INITIALISE: {"initialised": True},
        Action.CLONE: {"copying": True},
        Action.RESTORE: {
            "initialised": True,
            "had_data": True,
            "follows": False,
            "data_name": wanted.data_name or seen.data_name,
        },
        Action.REJOIN: {"copying": True},
        Action.PROMOTE: {"promoting": True, "ready": False},
        Action.FENCE: {"running": False, "stopping": False, "ready": False, "process_identity": ""},
        Action.WRITE_CONFIGURATION: {"written_digest": wanted.configuration_digest},
        Action.START: {
            "running": True,
            "ready": False,
            "readable": wanted.role is not NodeRole.STANDBY,
            "outgrown": False,
            "locked_out": False,
            "promoting": False,
            "process_identity": wanted.process_identity,
            "loaded_digest": seen.written_digest,
        },
        Action.RELOAD: {"loaded_digest": wanted.configuration_digest},
        Action.APPLY_ACCOUNTS: {"accounts_digest": wanted.accounts_digest},
        Action.PUBLISH_ROUTE: {"route_digest": wanted.route_digest},
        Action.HOLD_ROUTE: {"route_digest": HELD_ROUTE},
        Action.WITHDRAW_ROUTE: {"route_digest": ""},
        Action.STOP: {"stopping": True},
        Action.SET_ASIDE: {
            "initialised": False,
            "had_data": False,
            "accounts_digest": "",
            "kept": (*seen.kept, "aside"),
        },
        Action.BRING_BACK: {
            "initialised": True,
            "had_data": True,
            "data_name": wanted.data_name,
            "kept": tuple(one for one in seen.kept if one != wanted.data_name),
        },
        Action.DISCARD: {"kept": tuple(one for one in seen.kept if one in wanted.kept)},
        Action.DESTROY: {"volume": False, "initialised": False, "written_digest": "", "accounts_digest": ""},
    }
    return msgspec.structs.replace(seen, **changes[action])


def wait_over(seen: Observed) -> Observed:
    """The world after time has passed: stops, copies and promotions end, starts get ready, the peer comes up."""
    seen = msgspec.structs.replace(seen, upstream_ready=True, start_due=True)
    if seen.copying:
        return msgspec.structs.replace(
            seen,
            copying=False,
            initialised=True,
            lost=False,
            follows=True,
            had_data=True,
            accounts_digest=INHERITED_ACCOUNTS,
        )
    if seen.stopping:
        return msgspec.structs.replace(seen, running=False, stopping=False, ready=False, process_identity="")
    if seen.promoting:
        return msgspec.structs.replace(seen, promoting=False, follows=False, ready=True)
    return msgspec.structs.replace(seen, ready=seen.running)


def run_to_the_end(wanted: Wanted, seen: Observed) -> tuple[str, Observed, list[Action]]:
    """Decides and acts until there is nothing to do; returns the last row, the world then, and what was done."""
    done: list[Action] = []
    for _ in range(80):
        row = decide(wanted, seen)
        if row.action is Action.NOTHING:
            return row.name, seen, done
        done.append(row.action)
        seen = wait_over(seen) if row.action is Action.WAIT else effect_of(row.action, wanted, seen)
    raise AssertionError(f"no end: {done[-10:]} {seen}")


def test_the_table_is_the_reviewed_one() -> None:
    dump = "".join(f"{number:2} {row.name:<20} {row.action:<20} {row.because}\n" for number, row in enumerate(TABLE, 1))
    if not GOLDEN.exists():
        GOLDEN.write_text(dump)
    assert dump == GOLDEN.read_text(), "policy changed: review it and regenerate the golden file by deleting it"


@given(observed_nodes, st.sampled_from(list(NodeTarget)), st.sampled_from(list(NodeRole)), st.booleans())
def test_every_node_reaches_its_target_and_stays(
    seen: Observed, target: NodeTarget, role: NodeRole, restores: bool
) -> None:
    restores = restores and role is NodeRole.PRIMARY
    if role is NodeRole.STANDBY:  # a keeper that learns that its node is a standby knows that it has no route
        seen = msgspec.structs.replace(seen, route_digest="")
    wanted = msgspec.structs.replace(WANTED, target=target, role=role, restores=restores)
    row, end, done = run_to_the_end(wanted, seen)
    if target is NodeTarget.RUNNING:
        assert row in ("settled", "give-up-starting", "data-lost", "await-key", "await-storage")
        if row == "await-key":
            assert end.key_missing and end.volume_phase is not VolumePhase.OPEN and not end.running
            assert role is NodeRole.STANDBY or end.route_digest == "", "clients wait for nobody"
        if row == "await-storage":
            assert end.storage_full and not end.running
        assert row != "data-lost" or (role is NodeRole.PRIMARY and seen.had_data)
        if row == "settled":
            assert end.volume_phase is VolumePhase.OPEN and not end.cramped
            assert end.running and end.ready and end.loaded_digest == "conf" and end.process_identity == "now"
            assert end.follows == (role is not NodeRole.PRIMARY)
            assert end.route_digest == ("" if role is NodeRole.STANDBY else "route")
            assert role is not NodeRole.PRIMARY or end.paused or end.accounts_digest == "accounts"
            assert role is NodeRole.PRIMARY or end.readable == (role is NodeRole.REPLICA)
    else:
        assert not end.running and end.route_digest == ""
        assert target is NodeTarget.STOPPED or not (end.volume or end.initialised)
    if role is not NodeRole.PRIMARY:
        assert Action.PROMOTE not in done and Action.INITIALISE not in done and Action.APPLY_ACCOUNTS not in done
    if role is NodeRole.STANDBY:
        assert not {Action.PUBLISH_ROUTE, Action.HOLD_ROUTE, Action.WITHDRAW_ROUTE} & set(done)
    if role is NodeRole.PRIMARY:
        assert Action.CLONE not in done and Action.REJOIN not in done
    assert (Action.INITIALISE if restores else Action.RESTORE) not in done
    assert Action.RESTORE not in done or not seen.had_data, "what was lost is never replaced by an older copy"


@given(observed_nodes)
def test_a_primary_that_may_not_be_started_or_shown_is_not(seen: Observed) -> None:
    kept_down = msgspec.structs.replace(WANTED, may_start=False)
    assert decide(kept_down, seen).action is not Action.START
    unseen = msgspec.structs.replace(WANTED, may_publish=False)
    assert decide(unseen, seen).action is not Action.PUBLISH_ROUTE
    busy = seen.stopping or seen.copying or not seen.initialised
    if decide(unseen, seen).action in (Action.NOTHING, Action.WAIT) and seen.running and not busy:
        assert seen.route_digest in ("", HELD_ROUTE), "clients are let through to it"


@given(observed_nodes, st.sampled_from([NodeRole.STANDBY, NodeRole.REPLICA]))
def test_a_former_primary_never_starts_beside_the_new_one(seen: Observed, role: NodeRole) -> None:
    wanted = msgspec.structs.replace(WANTED, role=role)
    row = decide(wanted, seen)
    if row.action in (Action.START, Action.RELOAD, Action.PUBLISH_ROUTE) or row.name == "settled":
        assert seen.follows
    if row.action in (Action.CLONE, Action.REJOIN):
        assert not seen.running, "its data must not be replaced under it"


def test_every_row_can_fire() -> None:
    draw = random.Random(1)
    fired = set()
    for _ in range(80_000):
        changes = {name: draw.choice(values) for name, values in VALUES.items() if draw.random() < 0.2}
        wanted = msgspec.structs.replace(
            WANTED,
            target=draw.choice([NodeTarget.RUNNING, NodeTarget.RUNNING, *NodeTarget]),
            role=draw.choice(list(NodeRole)),
            may_restart=draw.random() < 0.8,
            may_start=draw.random() < 0.8,
            may_publish=draw.random() < 0.8,
            restores=draw.random() < 0.3,
            restore_key_missing=draw.random() < 0.3,
            data_name=draw.choice(["first", "second"]) if draw.random() < 0.1 else "",
            kept=() if draw.random() < 0.1 else KEEPS,
        )
        fired.add(decide(wanted, msgspec.structs.replace(SETTLED, **changes)).name)
    assert fired == {row.name for row in TABLE}


def test_clients_are_let_in_last_and_shut_out_first() -> None:
    fresh = Observed(route_digest="")
    order = []
    seen = fresh
    while (row := decide(WANTED, seen)).action is not Action.NOTHING:
        order.append(row.action)
        seen = wait_over(seen) if row.action is Action.WAIT else effect_of(row.action, WANTED, seen)
    assert order[-1] is Action.PUBLISH_ROUTE and order.index(Action.APPLY_ACCOUNTS) < len(order) - 1
    stop = msgspec.structs.replace(WANTED, target=NodeTarget.STOPPED)
    assert decide(stop, seen).action is Action.WITHDRAW_ROUTE


KEEPS = ("first", "second", "aside")


@given(observed_nodes, st.sampled_from(["first", "second"]), st.booleans())
def test_other_data_takes_the_place_and_nothing_is_lost(seen: Observed, name: str, restores: bool) -> None:
    """Whatever is in place and whatever was set aside is there at the end, or the end says what is missing."""
    if name in seen.kept:  # as always: what is kept is not in place
        seen = msgspec.structs.replace(seen, data_name="")
    seen = msgspec.structs.replace(seen, follows=False)
    wanted = msgspec.structs.replace(WANTED, data_name=name, kept=KEEPS, restores=restores)
    row, end, done = run_to_the_end(wanted, seen)
    assert Action.DISCARD not in done and Action.INITIALISE not in done
    assert set(seen.kept) - {name} <= set(end.kept)
    if seen.initialised and seen.data_name != name and Action.SET_ASIDE in done:
        assert "aside" in end.kept and Action.START not in done[: done.index(Action.SET_ASIDE)]
    if row == "settled":
        assert end.data_name == name and end.initialised and end.route_digest == "route"
        assert (Action.RESTORE in done) <= (name not in seen.kept)
    if row == "kept-lost":
        assert name not in seen.kept and not restores


def test_what_nobody_wants_to_go_back_to_is_discarded() -> None:
    seen = msgspec.structs.replace(SETTLED, kept=("first", "second"))
    row, end, done = run_to_the_end(msgspec.structs.replace(WANTED, kept=("second",)), seen)
    assert (row, end.kept, done) == ("settled", ("second",), [Action.DISCARD])


def test_clients_are_gone_and_the_engine_is_at_rest_before_its_data_is_set_aside() -> None:
    wanted = msgspec.structs.replace(WANTED, data_name="second", kept=KEEPS, restores=True)
    _row, _end, done = run_to_the_end(wanted, SETTLED)
    assert done[:3] == [Action.WITHDRAW_ROUTE, Action.STOP, Action.WAIT] and done[3] is Action.SET_ASIDE
    assert done[4] is Action.RESTORE and done.index(Action.APPLY_ACCOUNTS) < done.index(Action.PUBLISH_ROUTE)


def test_a_restore_that_waits_for_a_look_is_shown_and_not_written() -> None:
    waits = msgspec.structs.replace(SETTLED, paused=True, accounts_digest="", route_digest="")
    row, end, done = run_to_the_end(WANTED, waits)
    assert (row, done, end.route_digest) == ("settled", [Action.PUBLISH_ROUTE], "route")
    opened = msgspec.structs.replace(end, paused=False)
    assert decide(WANTED, opened).action is Action.APPLY_ACCOUNTS
    cramped = decide(WANTED, msgspec.structs.replace(waits, outgrown=True, ready=False))
    assert cramped.action is Action.STOP, "it waits for more room, not for a look"


def test_a_restart_holds_connections_before_the_engine_stops() -> None:
    wanted = msgspec.structs.replace(WANTED, process_identity="next")
    assert decide(wanted, SETTLED).action is Action.HOLD_ROUTE
    held = msgspec.structs.replace(SETTLED, route_digest=HELD_ROUTE)
    assert decide(wanted, held).action is Action.STOP


@given(observed_nodes, st.sampled_from(list(NodeRole)))
def test_nothing_is_done_to_data_on_a_volume_that_is_not_open(seen: Observed, role: NodeRole) -> None:
    row = decide(msgspec.structs.replace(WANTED, role=role), seen)
    if seen.volume_phase is not VolumePhase.OPEN:
        assert row.action not in (Action.INITIALISE, Action.CLONE, Action.REJOIN, Action.START, Action.PUBLISH_ROUTE)
        assert row.name not in ("data-lost", "settled")
    if row.action is Action.GROW_VOLUME:
        assert seen.grows_open or not seen.running, "it is unmounted for that"
    if row.action in (Action.OPEN_VOLUME, Action.CREATE_VOLUME):
        assert not seen.key_missing


@given(observed_nodes, st.sampled_from(list(NodeRole)))
def test_a_restore_waits_for_the_key_of_its_backup(seen: Observed, role: NodeRole) -> None:
    wanted = msgspec.structs.replace(WANTED, role=role, restores=role is NodeRole.PRIMARY, restore_key_missing=True)
    row = decide(wanted, seen)
    assert row.action is not Action.RESTORE
    known = decide(msgspec.structs.replace(wanted, restore_key_missing=False), seen)
    assert known == row or (known.action, row.name) == (Action.RESTORE, "await-restore-key")


def test_back_off_grows_and_is_bounded() -> None:
    pauses = [start_backoff_s(failures) for failures in range(10)]
    assert pauses == sorted(pauses) and pauses[0] == 0.0 and pauses[-1] <= 60.0
