"""What was seen of a follower in a role that it no longer has."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mainstay.agent.following import Following
from mainstay.model.assignment import Assignment
from mainstay.model.node import NodeRole, ReplicationStatus


class Driver:
    """An engine that follows; `meanwhile` happens before its answer is there."""

    loss = staticmethod(lambda _lines: "")

    def __init__(self) -> None:
        self.meanwhile: Any = lambda: None

    async def replication(self, _spec: object, _files: object) -> ReplicationStatus:
        self.meanwhile()
        return ReplicationStatus(streaming=True, lag_s=0.0)


def _following(driver: Any, tmp_path: Path) -> Following:
    hands: Any = SimpleNamespace(
        files=SimpleNamespace(logs=tmp_path), engine=SimpleNamespace(process=object()),
        copying=SimpleNamespace(lost=""), health=SimpleNamespace(stuck_at="", message=""), outgrown="",
    )  # fmt: skip
    clock: Any = SimpleNamespace(monotonic=lambda: 1.0)
    return Following(driver, hands, clock, lambda _node: True, lambda: None)


async def test_a_look_that_began_before_the_promotion_says_nothing(tmp_path: Path) -> None:
    """Whether the promotion came while the engine was asked, or before, when it was seen to answer at all."""
    driver, spec = Driver(), SimpleNamespace(node_id="node-1")
    following = _following(driver, tmp_path)
    replica: Any = Assignment(role=NodeRole.REPLICA)
    following.begin_role(NodeRole.REPLICA)
    await following.look_at_replica(spec, replica)  # type: ignore[arg-type]
    assert following.replication is not None and following.replication.streaming
    driver.meanwhile = lambda: following.begin_role(NodeRole.PRIMARY)
    for _ in range(2):
        await following.look_at_replica(spec, replica)  # type: ignore[arg-type]
        assert following.replication is None
        driver.meanwhile = lambda: None
