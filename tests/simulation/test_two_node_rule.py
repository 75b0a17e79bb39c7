"""The two-node rule, exhaustively: every order of steps and faults up to a depth, on a small model driven by the table.

The model is the abstract pair: what is on the record, what the primary's engine waits for, which commits are where. The
real `decide.failover.TABLE` chooses the steps; a fault may come between any two of them, also between the two halves of
a step (what is written, and what it lets loose). Sabotaged versions of the steps must be found out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from mainstay.decide.failover import MISSED_PROBES_MAX, PairAction, PairView, PrimaryState, decide

DEPTH = 400
"""More than there is: the search ends when nothing new is found."""

COMMITS_MAX = 3


class State(NamedTuple):
    """Nodes 0 and 1. `logs` are the commits each has on disk; `acked` what clients were told or shown."""

    leader: int = 0
    in_sync: bool = False
    recorded_process: bool = False
    told: bool = False
    """The agent wants commits to wait (in memory and in the file)."""
    waits: bool = False
    """The engine's flag: commits do wait."""
    up: tuple[bool, bool] = (True, True)
    open: bool = True
    """Clients reach the leader."""
    hung: bool = False
    linked: bool = True
    logs: tuple[frozenset[int], frozenset[int]] = (frozenset(), frozenset())
    acked: frozenset[int] = frozenset()
    written: int = 0
    confirmed: bool = False
    """It was observed that commits wait and that the standby has caught up; not recorded yet."""
    former_writes: bool = False
    """The other node runs as a primary that was not fenced."""


class Broken(Exception):
    """The rule does not hold."""


def other(state: State) -> int:
    return 1 - state.leader


def streaming(state: State) -> bool:
    ahead = state.logs[other(state)] - state.logs[state.leader]
    return all(state.up) and state.linked and not state.hung and not state.former_writes and not ahead


def with_log(state: State, node: int, log: frozenset[int]) -> State:
    logs = (log, state.logs[1]) if node == 0 else (state.logs[0], log)
    return state._replace(logs=logs)


def with_up(state: State, node: int, up: bool) -> State:
    return state._replace(up=(up, state.up[1]) if node == 0 else (state.up[0], up))


def check(state: State) -> State:
    """I1, I2 and I3 at this very moment: any prefix may be the last thing before a crash."""
    winner = other(state) if state.in_sync else state.leader
    if not state.acked <= state.logs[winner]:
        raise Broken(f"{sorted(state.acked - state.logs[winner])} would be gone if {winner} won: {state}")
    if state.former_writes and state.up[state.leader]:
        raise Broken(f"two nodes can acknowledge: {state}")
    return state


# What the world does


def world(state: State) -> Iterator[tuple[str, State]]:
    """Commits, streaming, crashes, recoveries: everything nobody decides."""
    leader, standby = state.leader, other(state)
    if state.up[leader] and not state.hung and state.open:
        if state.written < COMMITS_MAX:
            number = state.written + 1
            yield "commit", with_log(state, leader, state.logs[leader] | {number})._replace(written=number)
        for number in state.logs[leader] - state.acked:
            if not state.waits or number in state.logs[standby]:
                yield f"acknowledge {number}", state._replace(acked=state.acked | {number})
    if streaming(state) and state.logs[standby] != state.logs[leader]:
        yield "stream", with_log(state, standby, state.logs[leader])
    if state.up[leader]:
        yield "leader dies", with_up(state, leader, False)._replace(open=False, hung=False, waits=False)
        if not state.hung:
            yield "leader hangs", state._replace(hung=True)
    if state.hung:
        yield "leader goes on", state._replace(hung=False)
    if state.up[standby]:
        yield "standby dies", with_up(state, standby, False)
    if state.linked:
        yield "link is cut", state._replace(linked=False)
    else:
        yield "link is there again", state._replace(linked=True)
    if state.told and not state.waits and state.up[leader] and not state.hung:
        yield "flag is raised", state._replace(waits=True)
    if not state.told and state.waits and not state.hung:
        yield "flag is lowered", state._replace(waits=False)
    yield "agent dies", state._replace(confirmed=False, told=state.told and state.in_sync)


# What the agent does


def view_of(state: State) -> PairView:
    up, standby_up = state.up[state.leader], state.up[other(state)]
    primary = PrimaryState.ANSWERS if up else PrimaryState.ENDED
    return PairView(
        in_sync=state.in_sync,
        recorded_process=state.recorded_process,
        primary=PrimaryState.SILENT if state.hung else primary,
        missed_probes=MISSED_PROBES_MAX if state.hung else 0,
        standby_running=standby_up,
        standby_streaming=streaming(state),
        standby_absent_s=0.0 if streaming(state) else 10.0,
        sync_required=state.told,
        sync_loaded=True,
    )


Step = Callable[[State], Iterator[tuple[str, State]]]


def fenced(state: State) -> State:
    return with_up(state, state.leader, False)._replace(hung=False, open=False, waits=False)


def took_over(state: State) -> State:
    """The other node leads, with what it has; it starts ALONE."""
    return state._replace(
        leader=other(state), in_sync=False, recorded_process=False, told=False, confirmed=False, waits=False, open=True
    )


def rule(state: State) -> Iterator[tuple[str, State]]:
    """One step of the pair, as agent/pair.py performs what the table says."""
    action = decide(view_of(state)).action
    if action is PairAction.FAIL_OVER:
        yield "fence", fenced(state)
        yield "fence and take over", took_over(fenced(state))
    elif action is PairAction.RECORD_ALONE:
        yield "record ALONE", state._replace(in_sync=False, confirmed=False)
    elif action is PairAction.RELEASE_SYNC:
        yield "release", state._replace(told=False, confirmed=False)
    elif action is PairAction.REQUIRE_SYNC:
        yield "require", state._replace(told=True)
    elif action is PairAction.CONFIRM_SYNC:
        caught_up = state.logs[state.leader] <= state.logs[other(state)]
        if state.confirmed:
            yield "record IN_SYNC", state._replace(in_sync=True, recorded_process=True, confirmed=False)
        elif state.waits and caught_up:
            yield "confirm", state._replace(confirmed=True)


def keepers(state: State) -> Iterator[tuple[str, State]]:
    """The keepers bring back what is down: a leader unless the other one takes over, a standby always."""
    leader, standby = state.leader, other(state)
    if not state.up[leader] and not (state.in_sync and state.up[standby]):
        shown = with_up(state, leader, True)._replace(recorded_process=False, confirmed=False, open=not state.in_sync)
        yield "leader starts", shown
    if state.up[leader] and not state.open and not state.in_sync:
        yield "route opens", state._replace(open=True)
    if not state.up[standby] and state.up[leader] and not state.hung:
        log = state.logs[standby] if state.logs[standby] <= state.logs[leader] else state.logs[leader]
        yield "standby starts", with_log(with_up(state, standby, True), standby, log)._replace(former_writes=False)


def explore(step: Step, depth: int = DEPTH) -> int:
    """Every order of everything; returns how many different states there are. Raises `Broken` with the way there."""
    frontier: dict[State, tuple[str, ...]] = {State(): ()}
    seen = set(frontier)
    for _ in range(depth):
        following: dict[State, tuple[str, ...]] = {}
        for state, way in frontier.items():
            for source in (world, step, keepers):
                for name, successor in source(state):
                    if successor in seen:
                        continue
                    try:
                        check(successor)
                    except Broken as error:
                        raise Broken(f"{' > '.join((*way, name))}: {error}") from None
                    seen.add(successor)
                    following[successor] = (*way, name)
        frontier = following
    assert not frontier, "there is more"
    return len(seen)


def test_the_rule_holds_at_every_prefix_of_every_order() -> None:
    assert explore(rule) > 10_000, "the model has stopped reaching anything"


def reached(step: Step, what: Callable[[State], bool]) -> bool:
    def watching(state: State) -> Iterator[tuple[str, State]]:
        for name, successor in step(state):
            if what(successor):
                raise Broken("reached")
            yield name, successor

    try:
        explore(watching)
    except Broken:
        return True
    return False


def test_the_model_reaches_what_matters() -> None:
    """A model in which nothing happens proves nothing."""
    assert reached(rule, lambda state: state.in_sync)
    assert reached(rule, lambda state: state.leader == 1 and bool(state.acked))
    assert reached(rule, lambda state: state.leader == 1 and not state.in_sync and state.told)


# Sabotage: each breaks one sentence of the rule, and must be found out


def released_before_recorded(state: State) -> Iterator[tuple[str, State]]:
    if decide(view_of(state)).action is PairAction.RECORD_ALONE and state.told:
        yield "release, record later", state._replace(told=False, waits=False)
        return
    yield from rule(state)


def recorded_without_confirmation(state: State) -> Iterator[tuple[str, State]]:
    if decide(view_of(state)).action is PairAction.CONFIRM_SYNC:
        yield "record IN_SYNC at once", state._replace(in_sync=True, recorded_process=True)
        return
    yield from rule(state)


def not_fenced(state: State) -> Iterator[tuple[str, State]]:
    if decide(view_of(state)).action is PairAction.FAIL_OVER:
        yield "take over", took_over(state)._replace(former_writes=state.up[state.leader], hung=False)
        return
    yield from rule(state)


def promoted_from_a_stale_record(state: State) -> Iterator[tuple[str, State]]:
    view = view_of(state)
    if view.primary is PrimaryState.ENDED and view.standby_running:
        yield "take over whatever the record says", took_over(fenced(state))
        return
    yield from rule(state)


def asynchronous(state: State) -> Iterator[tuple[str, State]]:
    for name, successor in rule(state._replace(waits=state.told)):
        yield name, successor._replace(waits=False)


def restarted_primary_shown_at_once(state: State) -> Iterator[tuple[str, State]]:
    yield from rule(state)
    if state.in_sync and state.up[state.leader] and not state.open and not state.hung:
        yield "route opens early", state._replace(open=True)


@pytest.mark.parametrize(
    "sabotage",
    [
        released_before_recorded,
        recorded_without_confirmation,
        not_fenced,
        promoted_from_a_stale_record,
        asynchronous,
        restarted_primary_shown_at_once,
    ],
)
def test_every_sabotage_is_found_out(sabotage: Step) -> None:
    with pytest.raises(Broken):
        explore(sabotage)
