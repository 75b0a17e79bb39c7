"""Questions about the two nodes of a pair, answered from their keepers and the pair's record. None of them acts."""

from __future__ import annotations

from mainstay.agent.keeper import Keeper
from mainstay.model.assignment import Upstream
from mainstay.model.node import NodeTarget
from mainstay.model.pair import PairRecord


def incarnation(keeper: Keeper) -> str:
    """Names a process, also across restarts of the agent."""
    process = keeper.hands.engine.process
    return "" if process is None else f"{process.pid}@{process.started_at:.6f}"


def leaving(leader: Keeper, standby: Keeper) -> bool:
    """The node that leads is to be removed, and the other one is not."""
    return leader.spec.target is NodeTarget.ABSENT and standby.spec.target is NodeTarget.RUNNING


def standby_wanted(leader: Keeper, standby: Keeper) -> bool:
    """Whether the other node is to stay: as the standby, or in the place of the one that leads."""
    if standby.spec.target is not NodeTarget.RUNNING:
        return False
    return standby.spec.peer is not None or leaving(leader, standby)


def serves(standby: Keeper, record: PairRecord | None) -> bool:
    """Whether the standby runs, and still has what it is recorded to have."""
    forgot = record is not None and not standby.driver.keeps_received and record.outlived(incarnation(standby))
    return standby.hands.engine.process is not None and not forgot


def upstream(keeper: Keeper) -> Upstream:
    """The node, as one that another may follow."""
    return Upstream(node_id=keeper.spec.node_id, host=str(keeper.hands.files.sockets), port=keeper.spec.port)


async def at_once() -> bool:
    """A replica acknowledges nothing: its standby may take over as soon as it follows."""
    return True


def may_be_taken_back(leader: Keeper, standby: Keeper, record: PairRecord | None) -> bool:
    """Whether the node that leads has only been told to, and the one that led before has its data still, untouched.

    Of an engine whose follower forgets what it had received: should the process that was confirmed end now, the former
    primary has every commit, and the new one has not. Of any engine if the new one's data is gone before it was told.
    """
    if record is None or record.standby or not record.standby_incarnation or leader.spec.source:
        return False
    before = standby.hands.files
    if not standby.driver.initialised(before) or standby.driver.follows(before):
        return False
    if leader.hands.lost_data:
        return leader.hands.in_effect.told_to_lead < record.epoch
    return not leader.driver.keeps_received and leader.driver.follows(leader.hands.files)


def must_be_taken_back(leader: Keeper, standby: Keeper, record: PairRecord) -> bool:
    """Whether that is so, and the process that was confirmed has ended."""
    ended = incarnation(leader) != record.standby_incarnation
    return ended and may_be_taken_back(leader, standby, record)
