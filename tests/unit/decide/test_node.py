"""The node table: every row reachable, the policy dumped to a golden file, and always an end."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from mainstay.decide.node import HELD_ROUTE, TABLE, Action, Observed, Wanted, decide, start_backoff_s
from mainstay.model.node import NodeTarget

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
    initialised=True,
    written_digest="conf",
    running=True,
    ready=True,
    process_identity="now",
    loaded_digest="conf",
    accounts_digest="accounts",
    route_digest="route",
)

observed_nodes = st.builds(
    Observed,
    volume=st.booleans(),
    initialised=st.booleans(),
    written_digest=st.sampled_from(["", "old", "conf"]),
    running=st.booleans(),
    stopping=st.booleans(),
    ready=st.booleans(),
    process_identity=st.sampled_from(["", "old", "now"]),
    loaded_digest=st.sampled_from(["", "old", "conf"]),
    accounts_digest=st.sampled_from(["", "old", "accounts"]),
    route_digest=st.sampled_from(["", "unknown", HELD_ROUTE, "old", "route"]),
    start_failures=st.integers(0, 6),
    start_due=st.booleans(),
)


def effect_of(action: Action, wanted: Wanted, seen: Observed) -> Observed:
    """The world after an action succeeded."""
    changes: dict[Action, dict[str, object]] = {
        Action.CREATE_VOLUME: {"volume": True},
        Action.INITIALISE: {"initialised": True},
        Action.WRITE_CONFIGURATION: {"written_digest": wanted.configuration_digest},
        Action.START: {
            "running": True,
            "ready": False,
            "process_identity": wanted.process_identity,
            "loaded_digest": seen.written_digest,
        },
        Action.RELOAD: {"loaded_digest": wanted.configuration_digest},
        Action.APPLY_ACCOUNTS: {"accounts_digest": wanted.accounts_digest},
        Action.PUBLISH_ROUTE: {"route_digest": wanted.route_digest},
        Action.HOLD_ROUTE: {"route_digest": HELD_ROUTE},
        Action.WITHDRAW_ROUTE: {"route_digest": ""},
        Action.STOP: {"stopping": True},
        Action.DESTROY: {"volume": False, "initialised": False, "written_digest": "", "accounts_digest": ""},
    }
    return msgspec.structs.replace(seen, **changes[action])


def wait_over(seen: Observed) -> Observed:
    """The world after time has passed: stops end, starts get ready, back-offs run out."""
    if seen.stopping:
        return msgspec.structs.replace(seen, running=False, stopping=False, ready=False, process_identity="")
    return msgspec.structs.replace(seen, ready=seen.running, start_due=True)


def test_the_table_is_the_reviewed_one() -> None:
    dump = "".join(f"{number:2} {row.name:<20} {row.action:<20} {row.because}\n" for number, row in enumerate(TABLE, 1))
    if not GOLDEN.exists():
        GOLDEN.write_text(dump)
    assert dump == GOLDEN.read_text(), "policy changed: review it and regenerate the golden file by deleting it"


@given(observed_nodes, st.sampled_from(list(NodeTarget)))
def test_every_node_reaches_its_target_and_stays(seen: Observed, target: NodeTarget) -> None:
    wanted = msgspec.structs.replace(WANTED, target=target)
    for _ in range(60):
        row = decide(wanted, seen)
        if row.action is Action.NOTHING:
            break
        seen = wait_over(seen) if row.action is Action.WAIT else effect_of(row.action, wanted, seen)
    assert row.action is Action.NOTHING
    if target is NodeTarget.RUNNING:
        assert row.name in ("settled", "give-up-starting")
        assert row.name != "settled" or seen == msgspec.structs.replace(
            SETTLED, start_failures=seen.start_failures, start_due=seen.start_due
        )
    else:
        assert not seen.running and seen.route_digest == ""
        assert target is NodeTarget.STOPPED or not (seen.volume or seen.initialised)


def test_every_row_can_fire() -> None:
    fired = set()
    for target, running, stopping, ready, volume, initialised, failures, due in itertools.product(
        NodeTarget, (False, True), (False, True), (False, True), (False, True), (False, True), (0, 5), (False, True)
    ):
        for digest, route, identity in itertools.product(
            ("", "conf"), ("", "old", HELD_ROUTE, "route"), ("old", "now")
        ):
            for accounts, loaded in itertools.product(("", "accounts"), ("", "conf")):
                seen = Observed(
                    volume=volume, initialised=initialised, written_digest=digest, running=running, stopping=stopping,
                    ready=ready, process_identity=identity, loaded_digest=loaded, accounts_digest=accounts,
                    route_digest=route, start_failures=failures, start_due=due,
                )  # fmt: skip
                fired.add(decide(msgspec.structs.replace(WANTED, target=target), seen).name)
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


def test_a_restart_holds_connections_before_the_engine_stops() -> None:
    wanted = msgspec.structs.replace(WANTED, process_identity="next")
    assert decide(wanted, SETTLED).action is Action.HOLD_ROUTE
    held = msgspec.structs.replace(SETTLED, route_digest=HELD_ROUTE)
    assert decide(wanted, held).action is Action.STOP


def test_back_off_grows_and_is_bounded() -> None:
    pauses = [start_backoff_s(failures) for failures in range(10)]
    assert pauses == sorted(pauses) and pauses[0] == 0.0 and pauses[-1] <= 60.0
