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

from mainstay.agent.actions import UNKNOWN_ROUTE, NodeActions
from mainstay.agent.archiving import Archiving
from mainstay.agent.following import Following
from mainstay.agent.logs import prune_logs
from mainstay.agent.node_sight import is_gone, observed, seen_of
from mainstay.agent.patience import Patience
from mainstay.agent.tools import KeeperTools
from mainstay.agent.volumes import FULL, UNKNOWN_KEY
from mainstay.agent.wanted import wanted_of
from mainstay.decide.node import Action, Observed, decide, is_elsewhere, process_identity
from mainstay.engines.base import EngineDriver, Health
from mainstay.model.assignment import Assignment
from mainstay.model.errors import MainstayError, Permanent, Refused, Transient
from mainstay.model.node import (
    NodeRole,
    NodeSpec,
    NodeStatus,
    NodeTarget,
    PairStatus,
    RestoreSpec,
    lacks_keys,
    without_keys,
)

READY_POLL_S = 0.03
LOOK_POLL_S = 0.2
IDLE_POLL_S = 0.5
PROBE_INTERVAL_S = 10.0
FOLLOWER_PROBE_INTERVAL_S = 2.0
PRUNE_INTERVAL_S = 600.0

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
        self.hands = NodeActions(spec, driver, tools, self.poke)
        self._restarts = 0
        self._prune_at = 0.0
        self._settled_generation = 0
        self._settled_assignment: Assignment | None = None
        self._fatal = self._failing = self._looked = False
        self._patience = Patience(tools.clock)
        self.following = Following(driver, self.hands, tools.clock, leads, self.poke)
        self._pair: PairStatus | None = None
        self.archiving = Archiving(driver, self.hands.files, tools, self._publish_status)
        self._poke = asyncio.Event()
        self._reported: NodeStatus | None = None
        self.adopted = asyncio.Event()
        self._assigned = asyncio.Event()
        self.on_change: Callable[[], None] = lambda: None
        """Told whenever something about the process has changed; the pair listens."""

    def update(self, spec: NodeSpec) -> None:
        """Takes a newer spec; older or equal ones were seen already."""
        if spec.generation > self.spec.generation:
            self.spec = spec
            if spec.rolling and self.assignment.role is not NodeRole.STANDBY:  # till the pair has seen this spec
                self.assignment = msgspec.structs.replace(self.assignment, may_restart=False)
            hands = self.hands
            hands.failure, self._fatal = "", False
            hands.engine.allow_start()
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
        self.hands.failure, self._fatal, self.hands.engine.start_failures = "", False, 0
        self.poke()

    def assign(self, assignment: Assignment) -> None:
        """The node's role from now on. Nothing is done to the node before it has been given one."""
        self._assigned.set()
        if assignment == self.assignment:
            return
        if assignment.role is not self.assignment.role:
            log.info("node.assigned", node_id=self.spec.node_id, role=assignment.role, epoch=assignment.epoch)
            self.hands.route = "" if assignment.role is NodeRole.STANDBY else UNKNOWN_ROUTE
            self.hands.engine.allow_start()
            self.following.begin_role(assignment.role)
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
        wanted = hands.engine.stopping is not None
        log.info("engine.ended", node_id=self.spec.node_id, exit_code=exit_code, wanted=wanted)
        if not wanted:
            self._restarts += 1
            if reason := hands.restoring.failure():
                hands.start_refused(f"the restore cannot reach its target: {reason}")
            elif not hands.health.ready and not hands.promoting:
                hands.start_failed(hands.last_words.after(f"the engine ended with status {exit_code} while starting"))
        hands.process_ended()
        self.following.process_ended()
        self.poke()
        self.on_change()

    @property
    def current(self) -> bool:
        """Whether the engine runs and was started as the present spec wants."""
        process = self.hands.engine.process
        volume = self.hands.volume
        if process is None or (volume.must_grow(volume.look()) and not volume.grows_open):
            return False
        return process.tag.get("identity") == process_identity(self.spec)

    @property
    def elsewhere(self) -> bool:
        """Whether the engine runs at another address or port than is wanted, where nobody looks for it any more."""
        process = self.hands.engine.process
        return process is not None and is_elsewhere(str(process.tag.get("identity", "")), self.spec)

    @property
    def can_be_followed(self) -> bool:
        """Whether another node can copy from this one now: it runs, and is what it is to be."""
        hands = self.hands
        if hands.engine.process is None or not hands.health.ready or hands.promoting:
            return False
        return self.assignment.role is not NodeRole.PRIMARY or not self.driver.follows(hands.files)

    @property
    def configured(self) -> bool:
        """Whether the running engine has loaded the settings of the present spec and assignment."""
        process, in_effect = self.hands.engine.process, self.hands.in_effect
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
        if self.hands.engine.process is None:  # else this run follows one that failed, and the process is being watched
            await self.hands.engine.adopt()
        self.adopted.set()
        self.on_change()
        await self._assigned.wait()
        while True:
            self._poke.clear()
            pause_s = await self._settle()
            self._looked = True
            self._publish_status()
            if is_gone(self.spec, self.hands):
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
        answers = hands.engine.process is not None and hands.health.ready and hands.engine.stopping is None
        return leads and answers and not hands.promoting

    def _restore_to_serve(self, spec: NodeSpec) -> RestoreSpec | None:
        """Whose log an engine that is starting may ask for; None as long as its key is not known (any more)."""
        asking = self.hands.engine.process is not None and not self.hands.health.ready
        return spec.restore if asking and spec.restore is not None and spec.restore.repository.data_key else None

    async def stop_now(self) -> None:
        """Closes the route and stops the engine, whatever the spec says; the keeper must not run any more."""
        self.archiving.end()
        if self.assignment.role is not NodeRole.STANDBY:
            with suppress(MainstayError):
                await self._tools.routes.withdraw(self.spec)
        await self.hands.copying.cancel()
        await self.hands.engine.stop_whatever_runs()
        self.hands.restoring.end()  # not before: an engine that is refused what it asks for would call that the end
        with suppress(MainstayError):  # somebody uses it still: it stays mounted, and is found so again
            await self.hands.volume.close()

    async def _settle(self) -> float:
        """Acts until there is nothing to do now; returns after how many seconds to look again unasked."""
        hands = self.hands
        while True:
            spec, assignment = self.spec, self.assignment
            try:
                wanted = wanted_of(spec, assignment)
                await hands.copying.end_unwanted(spec, wanted)
                hands.copying.take_outcome()
                hands.restoring.serve(self._restore_to_serve(spec))
                self.archiving.tend(spec, self._may_archive(assignment))
                if self.driver.asks_about_logins:
                    running = None if hands.engine.process is None else hands.files
                    self._tools.logins.tend(spec.node_id, spec.dbi_resource_id, running)
                doubtful = self._failing or not hands.health.ready or hands.promoting
                if hands.engine.process is not None and doubtful:
                    await self._probe(spec, assignment)
                # One that was found well has only to be told where it was; the others are seen as they are from now on.
                self._looked = self._looked or hands.engine.process is None or not hands.health.ready
                row = decide(wanted, self._observed(assignment))
                if row.action is Action.WAIT:
                    return self._pause_s()
                if row.action is Action.NOTHING:
                    return await self._rest(row.name, spec, assignment)
                log.debug("node.action", node_id=spec.node_id, row=row.name, action=row.action)
                leaves = wanted.target is not NodeTarget.RUNNING or row.name == "stop-to-set-aside"
                if row.action is Action.STOP and leaves:
                    await self.archiving.finish()  # nobody is let in any more: what was committed is all there will be
                await hands.perform(row.action, spec, assignment, wanted)
                self._failing = False
                self._publish_status()
                self.on_change()
            except (MainstayError, OSError) as error:
                if self.spec is not spec or self.assignment is not assignment:
                    continue  # something newer came meanwhile: what failed was not tried for it
                return self._failed(error)

    async def _rest(self, row: str, spec: NodeSpec, assignment: Assignment) -> float:
        await self._look_after(spec, assignment)
        if row == "data-lost":
            log.error("node.data_lost", node_id=spec.node_id, data=str(self.hands.files.data))
            self.hands.failure, self._fatal = "the data directory is gone", True
        elif row == "kept-lost":
            self.hands.failure, self._fatal = "the data that was kept aside is gone", True
        elif row in ("await-key", "await-storage"):
            self.hands.failure = UNKNOWN_KEY if row == "await-key" else FULL
        elif row in ("settled", "rest"):
            before = (self._settled_generation, self._settled_assignment)
            self._settled_generation, self._settled_assignment = spec.generation, assignment
            self.hands.failure, self._fatal = "", False
            self.hands.engine.note_obedience()
            if before != (spec.generation, assignment):
                self.on_change()
        if assignment.role is NodeRole.PRIMARY:
            return PROBE_INTERVAL_S
        if assignment.role is NodeRole.STANDBY:
            return FOLLOWER_PROBE_INTERVAL_S
        follows = self.following.replication is not None and self.following.replication.streaming
        return FOLLOWER_PROBE_INTERVAL_S if follows else IDLE_POLL_S

    def _failed(self, error: MainstayError | OSError) -> float:
        node_id = self.spec.node_id
        if not isinstance(error, Transient):
            hint = error.hint if isinstance(error, MainstayError) else ""
            self.hands.failure, self._fatal = f"{error} {hint}".strip(), isinstance(error, Permanent)
            log.error("node.action_refused", node_id=node_id, error=str(error))
            return PROBE_INTERVAL_S
        if isinstance(error, Refused):
            self.hands.engine.note_refusal()
        self.hands.failure, self._failing = error.message, True
        pause_s, news = self._patience.after(error)
        if news:
            log.warning("node.action_failed", node_id=node_id, error=error.message)
        return pause_s

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
        if self.hands.engine.process is not None and self.hands.health.ready:
            if not await self._probe(spec, assignment):
                log.warning("node.not_answering", node_id=spec.node_id, message=self.hands.health.message)
                self.poke()
            elif assignment.role is NodeRole.REPLICA:
                await self.following.look_at_replica(spec, assignment)
            elif assignment.role is NodeRole.STANDBY:
                self.following.look_at_standby(spec, assignment)

    def _pause_s(self) -> float:
        hands, engine = self.hands, self.hands.engine
        if engine.process is not None and (not hands.health.ready or engine.stopping is not None or hands.promoting):
            looks = self.spec.restore is not None and self.spec.restore.paused  # each probe of such a one is a session
            return LOOK_POLL_S if looks else READY_POLL_S
        if (
            engine.process is not None
            or hands.copying.under_way
            or not self.assignment.may_start
            or self.assignment.role is not NodeRole.PRIMARY
        ):
            return IDLE_POLL_S
        return max(0.01, engine.start_due_at - self._tools.clock.monotonic())

    def _observed(self, assignment: Assignment) -> Observed:
        ready = self.following.upstream_ready(assignment)
        return observed(self.hands, self.driver, now=self._tools.clock.monotonic(), upstream_ready=ready)

    def _publish_status(self) -> None:
        status = self._status()
        if status != self._reported:
            self._reported = status
            self._tools.report(status)

    def status(self) -> NodeStatus:
        """What was last reported."""
        return self._reported or self._status()

    def _status(self) -> NodeStatus:
        seen = seen_of(self.spec, self.hands, self.driver)
        return msgspec.structs.replace(
            seen,
            role=self.assignment.role if self._assigned.is_set() else self.spec.role,
            looked=self._looked,
            settled_generation=self._settled_generation if self._settled_role is self.assignment.role else 0,
            fatal=self._fatal or seen.fatal,
            restarts=self._restarts,
            pair=self._pair,
            replication=self.following.replication,
            archive=self.archiving.status,
        )
