"""One pair per instance of this host: gives each of its nodes its role, and fails over.

Guarantees (docs/invariants.md, "The two-node rule"): every change of who may acknowledge or lead is in the lease store
before it takes effect; a standby is promoted only after the old primary was fenced and under a record, compared when it
is replaced, that names it; an acknowledged commit survives every single failure. An instance with one node is a pair
without a standby: its node leads, and there is nothing to decide.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec
import structlog

from mainstay.agent.keeper import Keeper
from mainstay.agent.pair_nodes import (
    at_once,
    incarnation,
    leaving,
    may_be_taken_back,
    must_be_taken_back,
    serves,
    standby_wanted,
    upstream,
)
from mainstay.agent.pair_sight import PairSight
from mainstay.agent.patience import Patience
from mainstay.agent.watch import Watch
from mainstay.decide.failover import PairAction, PairRow, PairView, PrimaryState, decide, obstacle
from mainstay.host.clock import Clock
from mainstay.host.leases import Leases
from mainstay.model.assignment import Assignment
from mainstay.model.errors import MainstayError, Transient
from mainstay.model.node import Failover, NodeRole, NodeTarget, PairStatus
from mainstay.model.pair import PairRecord

LOOK_AGAIN_S = 0.5
CONFIRM_AGAIN_S = 0.05
STANDBY_START_PATIENCE_S = 5.0
SWITCH_CHECKPOINT_S = 5.0

log = structlog.get_logger()


class Pair:
    """The nodes of one instance on this host.

    `upstream_of(dbi_resource_id)` finds the node that leads another instance; `leader_changed(dbi_resource_id)` is
    called when another node leads this one.
    """

    def __init__(
        self,
        dbi_resource_id: str,
        leases: Leases,
        clock: Clock,
        upstream_of: Callable[[str], Keeper | None],
        leader_changed: Callable[[str], None],
    ) -> None:
        self.dbi_resource_id = dbi_resource_id
        self.keepers: dict[str, Keeper] = {}
        self._leases = leases
        self._clock = clock
        self._upstream_of = upstream_of
        self._leader_changed = leader_changed
        self._record: PairRecord | None = leases.read(dbi_resource_id)
        self._sync_wanted = self._record is not None and self._record.standby != ""
        self._sight = PairSight(clock)
        self._outage_since: float | None = None
        self._watch: Watch | None = None
        self._watched: tuple[str, ...] = ()
        self._confirming: asyncio.Task[bool] | None = None
        self._confirming_for = ("", "")
        self._poke = asyncio.Event()
        self._last_row = ""
        self._patience = Patience(clock)

    @property
    def epoch(self) -> int:
        """Of the routes and of everything else that the present primary does."""
        return 1 if self._record is None else self._record.epoch

    @property
    def leader(self) -> Keeper | None:
        """The keeper of the node that leads, None if it is not on this host."""
        if self._record is not None:
            return self.keepers.get(self._record.primary)
        born = [keeper for keeper in self.keepers.values() if keeper.spec.role is not NodeRole.STANDBY]
        return born[0] if born else None

    @property
    def standby(self) -> Keeper | None:
        """The keeper of the other node."""
        leader = self.leader
        others = [keeper for keeper in self.keepers.values() if keeper is not leader]
        return others[0] if others and leader is not None else None

    def poke(self) -> None:
        """Look again now."""
        self._poke.set()

    def add(self, keeper: Keeper) -> None:
        """One more node of this instance."""
        self.keepers[keeper.spec.node_id] = keeper
        self.poke()

    def remove(self, keeper: Keeper) -> bool:
        """The node is gone; returns whether it was the last one: then nothing of the instance is left."""
        self.keepers.pop(keeper.spec.node_id, None)
        self.poke()
        if self.keepers:
            return False
        try:
            self._leases.forget(self.dbi_resource_id)
        except (MainstayError, OSError) as error:  # it harms nobody: the id of a deleted instance never returns
            log.warning("pair.record_left", dbi_resource_id=self.dbi_resource_id, error=str(error))
        return True

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                self._poke.clear()
                try:
                    await self._step()
                except (MainstayError, OSError) as error:
                    pause_s, news = self._patience.after(error)
                    if news:
                        log.error("pair.step_failed", dbi_resource_id=self.dbi_resource_id, error=str(error))
                    await asyncio.sleep(pause_s)
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_AGAIN_S if len(self.keepers) > 1 else None):
                        await self._poke.wait()
        finally:
            await self._watch_nobody()
            await self._stop_confirming()

    async def _step(self) -> None:
        for keeper in list(self.keepers.values()):
            await keeper.adopted.wait()
        leader, standby = self.leader, self.standby
        if leader is None:
            if all(keeper.spec.target is NodeTarget.ABSENT for keeper in self.keepers.values()):
                for keeper in self.keepers.values():  # who led is gone already
                    keeper.assign(Assignment(role=NodeRole.STANDBY, epoch=self.epoch))
            elif self.keepers:
                log.error("pair.leader_unknown", dbi_resource_id=self.dbi_resource_id)
            return
        self._notice(leader, standby)
        if standby is None:
            await self._alone_for_good(leader)
            return
        if self._record is not None and must_be_taken_back(leader, standby, self._record):
            return await self._take_back(self._record, leader, standby)
        if self._record is None:
            reason = "the standby is being made"
            self._replace(PairRecord(epoch=1, primary=leader.spec.node_id, since=self._clock.wall(), reason=reason))
        if self._record is not None and self._record.standby and self._is_promoted_replica(leader):
            # That its standby had everything was never confirmed under commits of its own.
            self._replace(self._record.alone("the read replica becomes an instance of its own", self._clock.wall()))
            self._sync_wanted = False
        await self._watch_leader(leader, standby)
        view = self._view(leader, standby)
        standby.following.streams = view.standby_streaming
        row = decide(view)
        if row.name != self._last_row:
            self._last_row = row.name
            log.info("pair.row", dbi_resource_id=self.dbi_resource_id, row=row.name, because=row.because)
        if row.action is not PairAction.CONFIRM_SYNC:
            await self._stop_confirming()
        await self._perform(row, leader, standby)
        self._assign()
        self._show(view)

    async def _alone_for_good(self, leader: Keeper) -> None:
        """There is no standby (any more)."""
        await self._watch_nobody()
        await self._stop_confirming()
        if self._record is not None and self._record.standby:
            self._replace(self._record.alone("the standby was removed", self._clock.wall()))
        self._sync_wanted = False
        leader.show_pair(None)
        self._assign()

    def _notice(self, leader: Keeper, standby: Keeper | None) -> None:
        another_process = self._sight.notice(leader, standby, self._record)
        if another_process and self._watch is not None:
            self._watch.forget_standby()

    def _view(self, leader: Keeper, standby: Keeper) -> PairView:
        assert self._record is not None  # noqa: S101 - made before
        return self._sight.view(
            self._record,
            leader,
            standby,
            self._watch,
            sync_required=self._sync_wanted,
            sync_loaded=leader.configured
            and leader.assignment.synchronous_standby == self._synchronous(leader, standby),
        )

    async def _perform(self, row: PairRow, leader: Keeper, standby: Keeper) -> None:
        async def nothing(_row: PairRow, _leader: Keeper, _standby: Keeper) -> None: ...

        performers: dict[PairAction, Callable[[PairRow, Keeper, Keeper], Awaitable[None]]] = {
            PairAction.NOTHING: nothing,
            PairAction.FAIL_OVER: self._fail_over,
            PairAction.SWITCH: self._switch,
            PairAction.ABANDON_SWITCH: self._abandon_switch,
            PairAction.RECORD_ALONE: self._record_alone,
            PairAction.RELEASE_SYNC: self._release_sync,
            PairAction.REQUIRE_SYNC: self._require_sync,
            PairAction.CONFIRM_SYNC: self._confirm_sync,
        }
        await performers[row.action](row, leader, standby)

    async def _fail_over(self, row: PairRow, leader: Keeper, standby: Keeper) -> None:
        """Fence, then take over."""
        silence = None if self._watch is None else self._watch.first_silence_at
        self._outage_since = self._sight.ended_at or silence or self._clock.monotonic()
        log.warning("pair.failing_over", dbi_resource_id=self.dbi_resource_id, row=row.name, because=row.because,
                    old_primary=leader.spec.node_id, new_primary=standby.spec.node_id)  # fmt: skip
        await leader.hands.engine.fence()
        self._take_over(row, leader, standby)

    async def _switch(self, row: PairRow, leader: Keeper, standby: Keeper) -> None:
        """As a failover, but the primary ends its work first: its standby then has all of it, and nothing is undone."""
        with suppress(Transient, TimeoutError):
            async with asyncio.timeout(SWITCH_CHECKPOINT_S):
                await leader.driver.settle_writes(leader.spec, leader.hands.files)
        self._outage_since = self._clock.monotonic()
        leader.assign(msgspec.structs.replace(leader.assignment, may_start=False, may_publish=False, stay=True))
        await leader.hands.hold(leader.spec, leader.assignment)
        if leader.hands.engine.process is not None:
            leader.hands.engine.ended.clear()
            await leader.hands.engine.stop(patience_s=leader.driver.switch_patience_s)
        await leader.hands.engine.fence()
        self._take_over(row, leader, standby)

    def _take_over(self, row: PairRow, leader: Keeper, standby: Keeper) -> None:
        """The old primary can do nothing more. If the record is still the one that was decided on, the other leads.

        Its spec may have changed since the decision: what is being removed must not be made to lead.
        """
        record = self._record
        if (
            self.keepers.get(standby.spec.node_id) is not standby
            or not standby_wanted(leader, standby)
            or not serves(standby, self._record)
            or standby.hands.engine.stopping is not None
        ):
            raise Transient("the standby went away meanwhile: it is not promoted", retry_after_s=0.1)
        if record is None or record.standby != standby.spec.node_id:
            raise Transient("the standby is not known to have every commit: it is not promoted", retry_after_s=0.2)
        failover = Failover(
            epoch=record.epoch + 1,
            at=self._clock.wall() - (self._clock.monotonic() - (self._outage_since or self._clock.monotonic())),
            row=row.name,
            because=row.because,
            old_primary=leader.spec.node_id,
            new_primary=standby.spec.node_id,
        )
        tokens = max(leader.spec.failover_token, standby.spec.failover_token)
        switched_for = tokens if row.name in ("switch-asked-for", "switch-to-renew") else record.switched_for
        self._change_leader(record.taken_over(failover, switched_for, self._clock.wall()))
        standby.hands.inherit_accounts(leader.hands.in_effect.accounts)

    async def _take_back(self, record: PairRecord, leader: Keeper, standby: Keeper) -> None:
        """The new primary's process ended before it had applied what it had received: the former one leads again."""
        await leader.hands.engine.fence()
        failover = Failover(
            epoch=record.epoch + 1,
            at=self._clock.wall(),
            row="taken-back",
            because="the new primary ended before it was ready, and the former one has every commit",
            old_primary=leader.spec.node_id,
            new_primary=standby.spec.node_id,
        )
        log.warning("pair.taken_back", dbi_resource_id=self.dbi_resource_id, new_primary=standby.spec.node_id)
        self._change_leader(record.taken_over(failover, record.switched_for, self._clock.wall()))

    def _change_leader(self, record: PairRecord) -> None:
        self._replace(record)
        self._sync_wanted = False
        self._sight.leader_changed()
        self._leader_changed(self.dbi_resource_id)
        self.poke()

    async def _abandon_switch(self, row: PairRow, leader: Keeper, standby: Keeper) -> None:
        assert self._record is not None  # noqa: S101 - made before
        tokens = max(leader.spec.failover_token, standby.spec.failover_token)
        log.warning("pair.switch_given_up", dbi_resource_id=self.dbi_resource_id, because=row.because)
        self._replace(msgspec.structs.replace(self._record, switched_for=tokens, given_up=tokens))
        self._sight.switch_abandoned(leader)

    async def _record_alone(self, row: PairRow, leader: Keeper, standby: Keeper) -> None:
        """The record first. Commits go on waiting until the table has seen it and releases them."""
        assert self._record is not None  # noqa: S101 - made before
        self._replace(self._record.alone(row.because, self._clock.wall()))
        log.warning("pair.alone", dbi_resource_id=self.dbi_resource_id, because=row.because)
        self.poke()

    async def _release_sync(self, row: PairRow, leader: Keeper, standby: Keeper) -> None:
        self._sync_wanted = False

    async def _require_sync(self, row: PairRow, leader: Keeper, standby: Keeper) -> None:
        self._sync_wanted = True

    async def _confirm_sync(self, row: PairRow, leader: Keeper, standby: Keeper) -> None:
        """Starts to find out, or records what was found out, about the process that runs now and no other."""
        processes = (incarnation(leader), incarnation(standby))
        task = self._confirming
        if task is None:
            confirm = leader.driver.confirm_synchronous(leader.spec, leader.hands.files, standby.spec.node_id)
            if leader.assignment.role is not NodeRole.PRIMARY:
                confirm = at_once()
            self._confirming, self._confirming_for = asyncio.create_task(confirm), processes
            self._confirming.add_done_callback(lambda _task: self.poke())
        elif task.done():
            self._confirming = None
            if task.result() and self._confirming_for == processes and self._record is not None:
                self._replace(self._record.in_sync(standby.spec.node_id, *processes, self._clock.wall()))
                log.info("pair.in_sync", dbi_resource_id=self.dbi_resource_id, standby=standby.spec.node_id)
                self.poke()
            else:  # it may have to wait for what an engine is told meanwhile
                asyncio.get_running_loop().call_later(CONFIRM_AGAIN_S, self.poke)

    def _replace(self, record: PairRecord) -> None:
        """Makes the record the present one; one that has changed behind our back is taken over first."""
        try:
            self._leases.replace(self.dbi_resource_id, self._record, record)
        except Transient:
            self._record = self._leases.read(self.dbi_resource_id)
            raise
        self._record = record

    async def _watch_leader(self, leader: Keeper, standby: Keeper) -> None:
        wanted = (leader.spec.node_id, standby.spec.node_id, incarnation(leader))
        if self._watched != wanted:
            await self._watch_nobody()
            self._watched = wanted
        if self._watch is None:
            self._watch = Watch(leader, standby.spec.node_id, self._clock, self.poke)

    async def _watch_nobody(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            await watch.stop()

    async def _stop_confirming(self) -> None:
        task, self._confirming = self._confirming, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _assign(self) -> None:
        """Every node's role, from the record and from what is seen.

        A spec that wants a node stopped or gone takes effect when this has seen it, not before: it may have been made
        for a standby that leads by now.
        """
        leader, standby = self.leader, self.standby
        if leader is None:
            return
        in_sync = standby is not None and self._record is not None and self._record.standby == standby.spec.node_id
        source = self._upstream_of(leader.spec.source) if leader.spec.source else None
        leader.assign(
            Assignment(
                role=NodeRole.REPLICA if leader.spec.source else NodeRole.PRIMARY,
                epoch=self.epoch,
                upstream=None if source is None else upstream(source),
                synchronous_standby="" if standby is None else self._synchronous(leader, standby),
                may_restart=not self._sight.renews_standby_first(leader, standby),
                may_start=standby is None or self._may_start(leader, standby, in_sync=in_sync),
                may_publish=not in_sync or self._record_knows(leader),
                stay=leader.spec.target is NodeTarget.RUNNING or (standby is not None and leaving(leader, standby)),
            )
        )
        if standby is not None:
            # It goes last, so that the primary's shutdown can hand it everything.
            waits = leader.spec.target is not NodeTarget.RUNNING and leader.hands.engine.process is not None
            stay = waits or standby.spec.target is NodeTarget.RUNNING
            standby.assign(
                Assignment(
                    role=NodeRole.STANDBY,
                    epoch=self.epoch,
                    upstream=upstream(leader),
                    acknowledges=self._synchronous(leader, standby) != "",
                    stay=stay,
                )
            )

    def _is_promoted_replica(self, leader: Keeper) -> bool:
        return not leader.spec.source and leader.driver.follows(leader.hands.files)

    def _synchronous(self, leader: Keeper, standby: Keeper) -> str:
        return standby.spec.node_id if self._sync_wanted and not leader.spec.source else ""

    def _record_knows(self, leader: Keeper) -> bool:
        return self._record is not None and self._record.incarnation == incarnation(leader)

    def _may_start(self, leader: Keeper, standby: Keeper, *, in_sync: bool) -> bool:
        """While the standby has everything, a primary that ended by itself comes back behind it, not beside it.

        False also while it runs: were it allowed to start again then, it would do so before its end is seen here.
        """
        if not in_sync:
            return not may_be_taken_back(leader, standby, self._record)
        if self._sight.primary_state(leader, standby, self._watch) in (PrimaryState.RESTARTING, PrimaryState.DOWN):
            return True
        return self._sight.standby_down_s > STANDBY_START_PATIENCE_S

    def _show(self, view: PairView) -> None:
        record, leader = self._record, self.leader
        if record is None or leader is None:
            return
        self._measure(record, leader)
        status = PairStatus(
            epoch=record.epoch,
            primary=record.primary,
            in_sync=record.standby != "",
            since=record.since,
            reason=record.reason,
            obstacle=obstacle(view, record.reason),
            switched_for=record.switched_for,
            given_up=record.given_up,
            failovers=record.failovers,
        )
        for keeper in self.keepers.values():
            keeper.show_pair(status)

    def _measure(self, record: PairRecord, leader: Keeper) -> None:
        """How long the last failover took until clients were let in again."""
        if self._outage_since is None or not leader.hands.published or not record.failovers:
            return
        seconds, self._outage_since = round(self._clock.monotonic() - self._outage_since, 3), None
        last = msgspec.structs.replace(record.failovers[-1], writable_after_s=seconds)
        self._replace(msgspec.structs.replace(record, failovers=(*record.failovers[:-1], last)))
        log.info("pair.failed_over", dbi_resource_id=self.dbi_resource_id, writable_after_s=seconds)
