"""One keeper per node: looks, asks `decide.node`, does the one thing it says, and looks again.

Guarantees: an action is recorded as done only after it took effect; a failed one is repeated after a pause
(`Transient`) or reported and left until the spec changes (`Permanent`); the status tells only what was seen.
What role the node has now is its `Assignment`, which the pair of a Multi-AZ instance changes (agent/pair.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import msgspec
import structlog

from mainstay.agent.actions import UNKNOWN_ROUTE, KeeperTools, NodeActions
from mainstay.agent.archiving import Archiving
from mainstay.agent.lag import LagMeter
from mainstay.agent.logs import prune_logs
from mainstay.agent.loss import LossWatch
from mainstay.agent.volumes import FULL, UNKNOWN_KEY
from mainstay.agent.wanted import wanted_of
from mainstay.decide.node import START_ATTEMPTS_MAX, Action, Observed, decide, process_identity
from mainstay.engines.base import EngineDriver, Health
from mainstay.model.assignment import Assignment
from mainstay.model.errors import MainstayError, Permanent, Transient
from mainstay.model.node import (
    NodePhase,
    NodeRole,
    NodeSpec,
    NodeStatus,
    NodeTarget,
    PairStatus,
    ReplicationStatus,
    RestoreProgress,
    RestoreSpec,
    lacks_keys,
    without_keys,
)
from mainstay.model.volume import VolumePhase

READY_POLL_S = 0.03
LOOK_POLL_S = 0.2
IDLE_POLL_S = 0.5
PROBE_INTERVAL_S = 10.0
FOLLOWER_PROBE_INTERVAL_S = 2.0
PRUNE_INTERVAL_S = 600.0
MIB = 1 << 20

log = structlog.get_logger()


class Keeper:
    """Keeps one node as its spec wants it, until it is absent."""

    def __init__(
        self, spec: NodeSpec, driver: EngineDriver, tools: KeeperTools, leads: Callable[[str], bool] = lambda _: False
    ) -> None:
        """`leads(node_id)` tells whether that node can be copied from now."""
        self.spec = spec
        self.assignment = Assignment()
        self.driver = driver
        self._tools = tools
        self._leads = leads
        self.hands = NodeActions(spec, driver, tools, self.poke)
        self._restarts = 0
        self._prune_at = 0.0
        self._settled_generation = 0
        self._settled_assignment: Assignment | None = None
        self._fatal = False
        self._replication: ReplicationStatus | None = None
        self._lag = LagMeter()
        self._loss = LossWatch(self.hands.files.logs / "error", driver.loss)
        self._pair: PairStatus | None = None
        self.archiving = Archiving(driver, self.hands.files, tools, self._publish_status)
        self._poke = asyncio.Event()
        self._reported: NodeStatus | None = None
        self.streams = True
        """Whether a standby receives from its primary; the pair, which sees it there, tells."""

        self.adopted = asyncio.Event()
        self._assigned = asyncio.Event()
        self.on_change: Callable[[], None] = lambda: None
        """Told whenever something about the process has changed; the pair listens."""

    def update(self, spec: NodeSpec) -> None:
        """Takes a newer spec; older or equal ones were seen already."""
        if spec.generation > self.spec.generation:
            self.spec = spec
            hands = self.hands
            hands.failure, self._fatal, hands.start_failures, hands.start_due_at = "", False, 0, 0.0
            hands.volume.take(spec)
            self.poke()
            self.on_change()

    def take_keys(self, spec: NodeSpec) -> None:
        """The spec it has already, with the keys that an agent does not keep on its disk."""
        if spec.generation == self.spec.generation and lacks_keys(self.spec):
            self.spec = spec
            self.hands.volume.take(spec)
            self.poke()

    async def lock(self) -> None:
        """The volume's key is gone when this returns; the engine is stopped next. Raises `Permanent` if it has none."""
        self.spec = without_keys(self.spec)
        await self.hands.volume.lock()
        self.poke()

    async def unlock(self, key: str) -> None:
        """Opens the volume with its key; the engine comes back next. Raises `Permanent` for a wrong key."""
        await self.hands.volume.unlock(key)
        self.hands.failure, self._fatal, self.hands.start_failures = "", False, 0
        self.poke()

    def assign(self, assignment: Assignment) -> None:
        """The node's role from now on. Nothing is done to the node before it has been given one."""
        self._assigned.set()
        if assignment == self.assignment:
            return
        if assignment.role is not self.assignment.role:
            log.info("node.assigned", node_id=self.spec.node_id, role=assignment.role, epoch=assignment.epoch)
            self.hands.route = "" if assignment.role is NodeRole.STANDBY else UNKNOWN_ROUTE
            self.hands.start_failures, self.hands.start_due_at, self._replication = 0, 0.0, None
            self.hands.lost = ""
            self._lag = LagMeter()
            if (self.assignment.role, assignment.role) == (NodeRole.REPLICA, NodeRole.PRIMARY):
                self.hands.inherit_accounts(wanted_of(self.spec, assignment).accounts_digest)
            self.hands.health = Health(ready=False)  # what was seen of it in another role says nothing now
        self.assignment = assignment
        self.poke()

    def show_pair(self, pair: PairStatus | None) -> None:
        """What the pair knows, for the node's status."""
        if pair != self._pair:
            self._pair = pair
            self._publish_status()

    def poke(self) -> None:
        """Look again now."""
        self._poke.set()

    def forget_route(self) -> None:
        """The endpoint process is new: what it carries must be told again."""
        if self.assignment.role is not NodeRole.STANDBY:
            self.hands.route = UNKNOWN_ROUTE
            self.poke()

    def process_ended(self, exit_code: int | None) -> None:
        """The shim saw the engine's end; nothing of it is left."""
        hands = self.hands
        wanted = hands.stopping is not None
        log.info("engine.ended", node_id=self.spec.node_id, exit_code=exit_code, wanted=wanted)
        if not wanted:
            self._restarts += 1
            if reason := hands.restoring.failure():
                hands.start_refused(f"the restore cannot reach its target: {reason}")
            elif not hands.health.ready and not hands.promoting:
                hands.start_failed(f"the engine ended with status {exit_code} while starting")
        hands.process_ended()
        self._replication = ReplicationStatus(streaming=False, message=hands.lost) if hands.lost else None
        self.poke()
        self.on_change()

    @property
    def current(self) -> bool:
        """Whether the engine runs and was started as the present spec wants."""
        process = self.hands.process
        volume = self.hands.volume
        if process is None or (volume.must_grow(volume.look()) and not volume.grows_open):
            return False
        return process.tag.get("identity") == process_identity(self.spec)

    @property
    def can_be_followed(self) -> bool:
        """Whether another node can copy from this one now: it runs, and is what it is to be."""
        hands = self.hands
        if hands.process is None or not hands.health.ready or hands.promoting:
            return False
        return self.assignment.role is not NodeRole.PRIMARY or not self.driver.follows(hands.files)

    @property
    def configured(self) -> bool:
        """Whether the running engine has loaded the settings of the present spec and assignment."""
        process, in_effect = self.hands.process, self.hands.in_effect
        wanted = wanted_of(self.spec, self.assignment).configuration_digest
        return process is not None and (in_effect.loaded, in_effect.loaded_by_pid) == (wanted, process.pid)

    @property
    def settled(self) -> bool:
        """Whether the present spec and assignment are fully in effect."""
        return self._settled_generation >= self.spec.generation and self._settled_assignment == self.assignment

    @property
    def _settled_role(self) -> NodeRole | None:
        """What was in effect in another role says nothing of this one."""
        return None if self._settled_assignment is None else self._settled_assignment.role

    async def run(self) -> None:
        """Until the node is gone."""
        if self.hands.process is None:  # else this run follows one that failed, and the process is being watched
            await self.hands.adopt(self.spec.node_id)
        self.adopted.set()
        self.on_change()
        await self._assigned.wait()
        while True:
            self._poke.clear()
            pause_s = await self._settle()
            self._publish_status()
            if self._gone():
                self.archiving.end()
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._poke.wait()

    def _may_archive(self, assignment: Assignment) -> bool:
        """The log of the node that leads is shipped while it can be asked how far it is, until it is stopped.

        Not before it has been given its accounts: until then it is not the database that was asked for.
        """
        hands = self.hands
        leads = assignment.role is NodeRole.PRIMARY and hands.in_effect.accounts != ""
        answers = hands.process is not None and hands.health.ready and hands.stopping is None
        return leads and answers and not hands.promoting

    def _restore_to_serve(self, spec: NodeSpec) -> RestoreSpec | None:
        """Whose log an engine that is starting may ask for; None as long as its key is not known (any more)."""
        asking = self.hands.process is not None and not self.hands.health.ready
        return spec.restore if asking and spec.restore is not None and spec.restore.repository.data_key else None

    async def stop_now(self) -> None:
        """Closes the route and stops the engine, whatever the spec says; the keeper must not run any more."""
        self.archiving.end()
        if self.assignment.role is not NodeRole.STANDBY:
            with suppress(MainstayError):
                await self._tools.routes.withdraw(self.spec)
        await self.hands.stop_whatever_runs()
        self.hands.restoring.end()  # not before: an engine that is refused what it asks for would call that the end
        with suppress(MainstayError):  # somebody uses it still: it stays mounted, and is found so again
            await self.hands.volume.close()

    def _gone(self) -> bool:
        return self.spec.target is NodeTarget.ABSENT and not self.hands.files.root.exists()

    async def _settle(self) -> float:
        """Acts until there is nothing to do now; returns after how many seconds to look again unasked."""
        hands = self.hands
        while True:
            spec, assignment = self.spec, self.assignment
            try:
                wanted = wanted_of(spec, assignment)
                await hands.end_unwanted_copy(spec, wanted)
                hands.take_copy()
                hands.restoring.serve(self._restore_to_serve(spec))
                self.archiving.tend(spec, self._may_archive(assignment))
                if self.driver.asks_about_logins:
                    running = None if hands.process is None else hands.files
                    self._tools.logins.tend(spec.node_id, spec.dbi_resource_id, running)
                if hands.process is not None and (not hands.health.ready or hands.promoting):
                    await self._probe(spec, assignment)
                row = decide(wanted, self._observed(spec, assignment))
                if row.action is Action.WAIT:
                    return self._pause_s()
                if row.action is Action.NOTHING:
                    return await self._rest(row.name, spec, assignment)
                log.debug("node.action", node_id=spec.node_id, row=row.name, action=row.action)
                leaves = wanted.target is not NodeTarget.RUNNING or row.name == "stop-to-set-aside"
                if row.action is Action.STOP and leaves:
                    await self.archiving.finish()  # nobody is let in any more: what was committed is all there will be
                await hands.perform(row.action, spec, assignment, wanted)
                self._publish_status()
                self.on_change()
            except (MainstayError, OSError) as error:
                if self.spec is not spec or self.assignment is not assignment:
                    continue  # something newer came meanwhile: what failed was not tried for it
                return self._failed(error)

    async def _rest(self, row: str, spec: NodeSpec, assignment: Assignment) -> float:
        await self._look_after(spec, assignment)
        if row == "data-lost":
            self.hands.failure = f"the data directory {self.hands.files.data} is gone"
            self._fatal = True
        elif row == "kept-lost":
            self.hands.failure, self._fatal = "the data that was kept aside is gone", True
        elif row in ("await-key", "await-storage"):
            self.hands.failure = UNKNOWN_KEY if row == "await-key" else FULL
        elif row in ("settled", "rest"):
            before = (self._settled_generation, self._settled_assignment)
            self._settled_generation, self._settled_assignment = spec.generation, assignment
            self.hands.failure, self._fatal = "", False
            if before != (spec.generation, assignment):
                self.on_change()
        if assignment.role is NodeRole.PRIMARY:
            return PROBE_INTERVAL_S
        if assignment.role is NodeRole.STANDBY:
            return FOLLOWER_PROBE_INTERVAL_S
        follows = self._replication is not None and self._replication.streaming
        return FOLLOWER_PROBE_INTERVAL_S if follows else IDLE_POLL_S

    def _failed(self, error: MainstayError | OSError) -> float:
        node_id = self.spec.node_id
        if not isinstance(error, Transient):
            hint = error.hint if isinstance(error, MainstayError) else ""
            self.hands.failure, self._fatal = f"{error} {hint}".strip(), isinstance(error, Permanent)
            log.error("node.action_refused", node_id=node_id, error=str(error))
            return PROBE_INTERVAL_S
        self.hands.failure = error.message
        log.warning("node.action_failed", node_id=node_id, error=error.message)
        return error.retry_after_s

    async def _probe(self, spec: NodeSpec, assignment: Assignment) -> bool:
        before = self.hands.health
        await self.hands.probe(spec, assignment)
        ready = self.hands.health.ready
        if ready != before.ready:
            self.on_change()
        return ready

    async def _look_after(self, spec: NodeSpec, assignment: Assignment) -> None:
        """A quiet check that a settled engine still answers, and an end to logs that are too old."""
        now = self._tools.clock.monotonic()
        if now >= self._prune_at:
            self._prune_at = now + PRUNE_INTERVAL_S
            oldest = self._tools.clock.wall() - spec.log_retention_minutes * 60
            await asyncio.to_thread(prune_logs, self.hands.files, oldest)
        if self.hands.process is not None and self.hands.health.ready:
            if not await self._probe(spec, assignment):
                log.warning("node.not_answering", node_id=spec.node_id, message=self.hands.health.message)
                self.poke()
            elif assignment.role is NodeRole.REPLICA:
                await self._look_at_replication(spec, assignment)
            elif assignment.role is NodeRole.STANDBY:
                self._look_for_loss(assignment, now, streaming=self.streams)

    async def _look_at_replication(self, spec: NodeSpec, assignment: Assignment) -> None:
        seen = await self.driver.replication(spec, self.hands.files)
        if self.hands.process is None or (seen is not None and seen.connecting):
            return
        now = self._tools.clock.monotonic()
        self._replication = None if seen is None else self._lag.measure(seen, now)
        if seen is not None:
            self._look_for_loss(assignment, now, streaming=seen.streaming)
        if seen is not None and seen.paused:
            await self.hands.find_outgrown(spec, assignment)
            if self.hands.outgrown:
                self.poke()

    def _look_for_loss(self, assignment: Assignment, now: float, *, streaming: bool) -> None:
        upstream = assignment.upstream
        ready = upstream is not None and self._leads(upstream.node_id)
        name = upstream.node_id if upstream is not None and ready else ""
        self.hands.lost = self._loss.look(now, streaming=streaming, upstream=name)
        if self.hands.lost:
            log.warning("node.lost", node_id=self.spec.node_id, reason=self.hands.lost)
            if self._replication is not None:
                self._replication = msgspec.structs.replace(self._replication, message=self.hands.lost)
            self.poke()

    def _pause_s(self) -> float:
        hands = self.hands
        if hands.process is not None and (not hands.health.ready or hands.stopping is not None or hands.promoting):
            looks = self.spec.restore is not None and self.spec.restore.paused  # each probe of such a one is a session
            return LOOK_POLL_S if looks else READY_POLL_S
        if (
            hands.process is not None
            or hands.copying is not None
            or not self.assignment.may_start
            or self.assignment.role is not NodeRole.PRIMARY
        ):
            return IDLE_POLL_S
        return max(0.01, hands.start_due_at - self._tools.clock.monotonic())

    def _observed(self, spec: NodeSpec, assignment: Assignment) -> Observed:
        hands = self.hands
        process, in_effect = hands.process, hands.in_effect
        initialised = self.driver.initialised(hands.files)
        tag = {} if process is None else process.tag
        seen = hands.volume.look()
        return Observed(
            # A removal that was interrupted may have left anything below the root, the volume or not.
            volume=hands.files.root.exists(),
            volume_phase=seen.phase,
            key_missing=hands.volume.key_missing,
            cramped=hands.volume.must_grow(seen),
            grows_open=hands.volume.grows_open,
            storage_full=seen.full,
            initialised=initialised,
            written_digest=in_effect.written,
            running=process is not None,
            stopping=hands.stopping is not None,
            copying=hands.copying is not None,
            ready=hands.health.ready,
            process_identity=str(tag.get("identity", "")),
            loaded_digest=in_effect.loaded if process is not None and in_effect.loaded_by_pid == process.pid else "",
            accounts_digest=in_effect.accounts,
            route_digest=hands.route,
            start_failures=hands.start_failures,
            start_due=self._tools.clock.monotonic() >= hands.start_due_at,
            had_data=in_effect.had_data or bool(in_effect.accounts),
            follows=initialised and self.driver.follows(hands.files),
            readable=bool(tag.get("readable", True)),
            promoting=hands.promoting,
            paused=hands.health.pause is not None,
            outgrown=hands.outgrown,
            lost=bool(hands.lost),
            upstream_ready=assignment.upstream is not None and self._leads(assignment.upstream.node_id),
            data_name=in_effect.data_name,
            kept=hands.kept.names,
        )

    def _publish_status(self) -> None:
        status = self._status()
        if status != self._reported:
            self._reported = status
            self._tools.report(status)

    def status(self) -> NodeStatus:
        """What was last reported."""
        return self._reported or self._status()

    def _status(self) -> NodeStatus:
        hands = self.hands
        process = hands.process
        spec = self.spec
        volume = hands.volume.look()
        return NodeStatus(
            node_id=spec.node_id,
            dbi_resource_id=spec.dbi_resource_id,
            db_instance_identifier=spec.db_instance_identifier,
            role=self.assignment.role if self._assigned.is_set() else spec.role,
            availability_zone=spec.availability_zone,
            phase=self._phase(),
            generation=spec.generation,
            settled_generation=self._settled_generation if self._settled_role is self.assignment.role else 0,
            started_for=-1 if process is None else int(process.tag.get("restart_token", -1)),
            pid=0 if process is None else process.pid,
            started_at=0.0 if process is None else process.started_at,
            address=spec.listen_address,
            port=spec.port,
            data_directory=str(hands.files.data),
            failure=hands.failure,
            fatal=self._fatal or hands.start_failures >= START_ATTEMPTS_MAX,
            pending_restart=hands.health.pending_restart,
            restarts=self._restarts,
            pair=self._pair,
            replication=self._replication,
            archive=self.archiving.status,
            restore=self._restore_progress(),
            locked=hands.volume.key_missing and volume.phase in (VolumePhase.CLOSED, VolumePhase.LOCKED),
            keys_missing=lacks_keys(spec),
            usage_bytes=volume.used_bytes // MIB * MIB,
            free_bytes=volume.free_bytes // MIB * MIB,
            size_bytes=volume.size_bytes,
            storage_full=volume.full,
        )

    def _restore_progress(self) -> RestoreProgress | None:
        pause = self.hands.health.pause
        if pause is None or not self.hands.health.ready:
            return self.hands.restoring.progress
        return RestoreProgress(phase="paused", position=pause.position, moment=pause.moment)

    def _phase(self) -> NodePhase:
        hands = self.hands
        if hands.process is None:
            if self._gone():
                return NodePhase.ABSENT
            hidden = hands.in_effect.had_data and hands.volume.look().phase is not VolumePhase.OPEN
            if not hidden and not self.driver.initialised(hands.files):
                return NodePhase.CREATING
            return NodePhase.STOPPED if self.spec.target is not NodeTarget.RUNNING else NodePhase.STARTING
        if hands.stopping is not None:
            return NodePhase.STOPPING
        return NodePhase.RUNNING if hands.health.ready else NodePhase.STARTING
