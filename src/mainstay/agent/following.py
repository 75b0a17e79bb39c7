"""How one node follows its source: how far it is behind, and whether it can go on at all.

What was seen in another role, or of a process that has ended, is forgotten. That a follower is lost, or has too little
room for what its source demands, is left in its hands, and `poke` is called: the table says what becomes of it.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog

from mainstay.agent.actions import NodeActions
from mainstay.agent.lag import LagMeter
from mainstay.agent.loss import LossWatch
from mainstay.engines.base import EngineDriver
from mainstay.host.clock import Clock
from mainstay.model.assignment import Assignment
from mainstay.model.node import NodeRole, NodeSpec, ReplicationStatus

log = structlog.get_logger()


class Following:
    """The looks at one follower. `leads(node_id)` tells whether that node can be copied from now."""

    def __init__(
        self,
        driver: EngineDriver,
        hands: NodeActions,
        clock: Clock,
        leads: Callable[[str], bool],
        poke: Callable[[], None],
    ) -> None:
        self.streams = True
        """Whether a standby receives from its primary; the pair, which sees it there, tells."""

        self.replication: ReplicationStatus | None = None
        """What was last seen of a replica."""

        self._role = Assignment().role
        self._driver = driver
        self._hands = hands
        self._clock = clock
        self._leads = leads
        self._poke = poke
        self._lag = LagMeter()
        self._loss = LossWatch(hands.files.logs / "error", driver.loss)
        self._told_lost = False

    def begin_role(self, role: NodeRole) -> None:
        """What was seen before says nothing now, nor does a look that began before."""
        self._role = role
        self.replication = None
        self._hands.copying.lost = ""
        self._lag = LagMeter()

    def process_ended(self) -> None:
        """Nobody follows; a process that ended because it was lost has not become less so."""
        lost = self._hands.copying.lost
        self.replication = ReplicationStatus(streaming=False, message=lost) if lost else None

    def upstream_ready(self, assignment: Assignment) -> bool:
        """Whether there is a source, and it leads."""
        return assignment.upstream is not None and self._leads(assignment.upstream.node_id)

    async def look_at_replica(self, spec: NodeSpec, assignment: Assignment) -> None:
        """Asks a replica how far it is."""
        seen = await self._driver.replication(spec, self._hands.files)
        if assignment.role is not self._role:  # promoted while the engine was asked: nobody would look again
            return
        if self._hands.engine.process is None or (seen is not None and seen.connecting):
            return
        now = self._clock.monotonic()
        self.replication = None if seen is None else self._lag.measure(seen, now)
        if seen is not None:
            self._look_for_loss(spec, assignment, streaming=seen.streaming)
        if seen is not None and seen.paused:
            await self._hands.find_outgrown(spec, assignment)
            if self._hands.outgrown:
                self._poke()

    def look_at_standby(self, spec: NodeSpec, assignment: Assignment) -> None:
        """A standby cannot be asked: its log tells whether it is lost."""
        if assignment.role is not self._role:
            return
        self._look_for_loss(spec, assignment, streaming=self.streams)

    def _look_for_loss(self, spec: NodeSpec, assignment: Assignment, *, streaming: bool) -> None:
        upstream = assignment.upstream
        name = upstream.node_id if upstream is not None and self.upstream_ready(assignment) else ""
        if self._told_lost and not self._hands.copying.lost:
            self._loss.forget()
        now, health = self._clock.monotonic(), self._hands.health
        lost = self._loss.look(now, streaming=streaming, upstream=name)
        if self._loss.stuck(now, health.stuck_at if name else ""):
            lost = health.message
        self._hands.copying.lost, self._told_lost = lost, bool(lost)
        if lost:
            log.warning("node.lost", node_id=spec.node_id, reason=lost)
            if self.replication is not None:
                self.replication = msgspec.structs.replace(self.replication, message=lost)
            self._poke()
