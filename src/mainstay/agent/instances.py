"""Every instance of this host: which nodes it has, who leads it, who follows whom."""

from __future__ import annotations

import asyncio

import structlog

from mainstay.agent.keeper import Keeper
from mainstay.agent.pair import Pair
from mainstay.host.clock import Clock
from mainstay.host.leases import Leases

log = structlog.get_logger()


class Instances:
    """Pairs by DbiResourceId."""

    def __init__(self, leases: Leases, clock: Clock) -> None:
        self._leases = leases
        self._clock = clock
        self._pairs: dict[str, Pair] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def add(self, keeper: Keeper) -> None:
        """One more node. Nothing is decided before `begin`."""
        dbi_resource_id = keeper.spec.dbi_resource_id
        if dbi_resource_id not in self._pairs:
            self._pairs[dbi_resource_id] = Pair(
                dbi_resource_id, self._leases, self._clock, self.leader, self._leader_changed
            )
        self._pairs[dbi_resource_id].add(keeper)
        keeper.on_change = lambda: self._changed(dbi_resource_id)

    def begin(self, dbi_resource_id: str) -> None:
        """From now on the instance's nodes are given roles."""
        if dbi_resource_id not in self._tasks:
            self._tasks[dbi_resource_id] = asyncio.create_task(self._run(self._pairs[dbi_resource_id]))

    async def remove(self, keeper: Keeper) -> None:
        """The node is gone."""
        dbi_resource_id = keeper.spec.dbi_resource_id
        pair = self._pairs.get(dbi_resource_id)
        if pair is not None and pair.remove(keeper):
            del self._pairs[dbi_resource_id]
            await _cancel(self._tasks.pop(dbi_resource_id))
            self._leader_changed(dbi_resource_id)

    async def stop(self) -> None:
        """Nothing is decided any more; the nodes stay as they are."""
        tasks, self._tasks = self._tasks, {}
        for task in tasks.values():
            await _cancel(task)

    def leader(self, dbi_resource_id: str) -> Keeper | None:
        """The node that leads an instance, None if it is not on this host."""
        pair = self._pairs.get(dbi_resource_id)
        return None if pair is None else pair.leader

    def standby(self, dbi_resource_id: str) -> Keeper | None:
        """The other node of an instance, None if it has none."""
        pair = self._pairs.get(dbi_resource_id)
        return None if pair is None else pair.standby

    def leads(self, node_id: str) -> bool:
        """Whether this node leads its instance and can be copied from now."""
        for pair in self._pairs.values():
            leader = pair.leader
            if leader is not None and leader.spec.node_id == node_id:
                return leader.can_be_followed
        return False

    def by_depth(self) -> list[list[Keeper]]:
        """Every node, in waves: leaders of instances that follow nobody first, what follows them later."""
        waves: dict[int, list[Keeper]] = {}
        for pair in self._pairs.values():
            for keeper in pair.keepers.values():
                waves.setdefault(2 * self._depth(keeper) + (keeper is not pair.leader), []).append(keeper)
        return [waves[depth] for depth in sorted(waves)]

    def _depth(self, keeper: Keeper) -> int:
        depth, source = 0, keeper.spec.source
        while source in self._pairs and depth < len(self._pairs):
            leader = self._pairs[source].leader
            depth, source = depth + 1, "" if leader is None else leader.spec.source
        return depth

    def _changed(self, dbi_resource_id: str) -> None:
        pair = self._pairs.get(dbi_resource_id)
        if pair is None:
            return
        pair.poke()
        for other in self._pairs.values():  # whoever waits for this one to be ready
            for keeper in other.keepers.values():
                upstream = keeper.assignment.upstream
                if upstream is not None and upstream.node_id in pair.keepers:
                    keeper.poke()

    def _leader_changed(self, dbi_resource_id: str) -> None:
        for pair in self._pairs.values():
            if any(keeper.spec.source == dbi_resource_id for keeper in pair.keepers.values()):
                pair.poke()

    async def _run(self, pair: Pair) -> None:
        while True:
            try:
                await pair.run()
            except Exception:  # the outermost loop of an instance: its failure must not take the others with it
                log.exception("pair.failed", dbi_resource_id=pair.dbi_resource_id)
                await asyncio.sleep(1.0)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
