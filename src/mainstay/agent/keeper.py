"""One keeper per node: looks, asks `decide.node`, does the one thing it says, and looks again.

Guarantees: an action is recorded as done only after it took effect; a failed one is repeated after a pause
(`Transient`) or reported and left until the spec changes (`Permanent`); the status tells only what was seen.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec
import structlog

from mainstay.agent.journal import InEffect, Journal
from mainstay.agent.logs import prune_logs
from mainstay.agent.routes import Routes
from mainstay.decide.node import (
    HELD_ROUTE,
    START_ATTEMPTS_MAX,
    Action,
    Observed,
    Wanted,
    decide,
    process_identity,
    start_backoff_s,
)
from mainstay.engines.base import EngineDriver, Health
from mainstay.engines.builds import Builds
from mainstay.host.cgroups import ControlGroups
from mainstay.host.clock import Clock
from mainstay.host.files import make_private_directory, write_atomically
from mainstay.host.processes import User
from mainstay.host.shims import EngineProcess, Launch, Shims
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import MainstayError, Permanent, Transient
from mainstay.model.node import NodePhase, NodeSpec, NodeStatus, NodeTarget

READY_POLL_S = 0.03
PROBE_INTERVAL_S = 10.0
PRUNE_INTERVAL_S = 600.0
UNKNOWN_ROUTE = "unknown"

log = structlog.get_logger()


def digest(*parts: object) -> str:
    """A short name for a value, equal for equal values, across processes."""
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:24]


class KeeperTools(msgspec.Struct, frozen=True, kw_only=True):
    """What every keeper of a host shares."""

    journal: Journal
    shims: Shims
    cgroups: ControlGroups
    routes: Routes
    builds: Builds
    user: User
    clock: Clock
    report: Callable[[NodeStatus], None]


class Keeper:
    """Keeps one node as its spec wants it, until it is absent."""

    def __init__(self, spec: NodeSpec, driver: EngineDriver, tools: KeeperTools) -> None:
        self.spec = spec
        self._driver = driver
        self._tools = tools
        self._files = tools.journal.files(spec.node_id)
        self._in_effect: InEffect = tools.journal.in_effect(spec.node_id)
        self._process: EngineProcess | None = None
        self._health = Health(ready=False)
        self._route = UNKNOWN_ROUTE
        self._stopping: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._start_failures = 0
        self._start_due_at = 0.0
        self._restarts = 0
        self._prune_at = 0.0
        self._settled_generation = 0
        self._failure = ""
        self._fatal = False
        self._poke = asyncio.Event()
        self._reported: NodeStatus | None = None

    def update(self, spec: NodeSpec) -> None:
        """Takes a newer spec; older or equal ones were seen already."""
        if spec.generation > self.spec.generation:
            self.spec = spec
            self._failure, self._fatal, self._start_failures, self._start_due_at = "", False, 0, 0.0
            self.poke()

    def poke(self) -> None:
        """Look again now."""
        self._poke.set()

    def forget_route(self) -> None:
        """The endpoint process is new: what it carries must be told again."""
        self._route = UNKNOWN_ROUTE
        self.poke()

    def process_ended(self, exit_code: int | None) -> None:
        """The shim saw the engine's end; nothing of it is left."""
        wanted = self._stopping is not None
        log.info("engine.ended", node_id=self.spec.node_id, exit_code=exit_code, wanted=wanted)
        if not wanted:
            self._restarts += 1
            if not self._health.ready:
                self._start_failed(f"the engine ended with status {exit_code} while starting")
        self._process = None
        self._ended.set()
        self._health = Health(ready=False)
        self.poke()

    async def run(self) -> None:
        """Until the node is gone."""
        if self._process is None:  # else this run follows one that failed, and the process is being watched
            self._process = await self._tools.shims.adopt(self.spec.node_id)
        while True:
            self._poke.clear()
            pause_s = await self._settle()
            self._publish_status()
            if self._gone():
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._poke.wait()

    async def stop_now(self) -> None:
        """Closes the route and stops the engine, whatever the spec says; the keeper must not run any more."""
        with suppress(MainstayError):
            await self._tools.routes.withdraw(self.spec)
        if self._process is None:  # perhaps the keeper was interrupted while it launched one
            self._process = await self._tools.shims.adopt(self.spec.node_id)
        if self._process is not None:
            self._ended.clear()
            await self._stop()

    def _gone(self) -> bool:
        return self.spec.target is NodeTarget.ABSENT and not self._files.root.exists()

    async def _settle(self) -> float:
        """Acts until there is nothing to do now; returns after how many seconds to look again unasked."""
        while True:
            spec = self.spec
            try:
                wanted = self._wanted(spec)
                if self._process is not None and not self._health.ready:
                    self._health = await self._driver.probe(spec, self._files)
                    if self._health.ready:
                        self._start_failures = 0
                row = decide(wanted, self._observed(spec))
                if row.action is Action.WAIT:
                    return self._pause_s()
                if row.action is Action.NOTHING:
                    await self._look_after(spec)
                    if row.name in ("settled", "rest"):
                        self._settled_generation = spec.generation
                        self._failure, self._fatal = "", False
                    return PROBE_INTERVAL_S
                log.debug("node.action", node_id=spec.node_id, row=row.name, action=row.action)
                await self._perform(row.action, spec, wanted)
                self._publish_status()
            except (MainstayError, OSError) as error:
                if self.spec is not spec:
                    continue  # a newer spec came meanwhile: what failed was not tried for it
                if not isinstance(error, Transient):
                    hint = error.hint if isinstance(error, MainstayError) else ""
                    self._failure, self._fatal = f"{error} {hint}".strip(), isinstance(error, Permanent)
                    log.error("node.action_refused", node_id=spec.node_id, error=str(error))
                    return PROBE_INTERVAL_S
                self._failure = error.message
                log.warning("node.action_failed", node_id=spec.node_id, error=error.message)
                return error.retry_after_s

    async def _look_after(self, spec: NodeSpec) -> None:
        """A quiet check that a settled engine still answers, and an end to logs that are too old."""
        now = self._tools.clock.monotonic()
        if now >= self._prune_at:
            self._prune_at = now + PRUNE_INTERVAL_S
            oldest = self._tools.clock.wall() - spec.log_retention_minutes * 60
            await asyncio.to_thread(prune_logs, self._files, oldest)
        if self._process is not None and self._health.ready:
            self._health = await self._driver.probe(spec, self._files)
            if not self._health.ready:
                log.warning("node.not_answering", node_id=spec.node_id, message=self._health.message)
                self.poke()

    def _pause_s(self) -> float:
        if self._process is None:
            return max(0.01, self._start_due_at - self._tools.clock.monotonic())
        return READY_POLL_S

    def _wanted(self, spec: NodeSpec) -> Wanted:
        return Wanted(
            target=spec.target,
            configuration_digest=digest(spec.parameters, spec.require_tls, spec.certificate, spec.listen_address,
                                        spec.port, spec.db_instance_identifier, spec.engine_version),
            accounts_digest=digest(spec.master, spec.database),
            route_digest=digest(spec.endpoint, spec.listen_address, spec.port, spec.epoch),
            process_identity=process_identity(spec),
        )  # fmt: skip

    def _observed(self, spec: NodeSpec) -> Observed:
        process = self._process
        in_effect = self._in_effect
        # A removal that was interrupted may have left anything below the root, the volume or not.
        remains = self._files.root if spec.target is NodeTarget.ABSENT else self._files.volume
        return Observed(
            volume=remains.exists(),
            initialised=self._driver.initialised(self._files),
            written_digest=in_effect.written,
            running=process is not None,
            stopping=self._stopping is not None,
            ready=self._health.ready,
            process_identity="" if process is None else str(process.tag.get("identity", "")),
            loaded_digest=in_effect.loaded if process is not None and in_effect.loaded_by_pid == process.pid else "",
            accounts_digest=in_effect.accounts,
            route_digest=self._route,
            start_failures=self._start_failures,
            start_due=self._tools.clock.monotonic() >= self._start_due_at,
        )

    async def _perform(self, action: Action, spec: NodeSpec, wanted: Wanted) -> None:
        performers: dict[Action, Callable[[NodeSpec, Wanted], Awaitable[None]]] = {
            Action.CREATE_VOLUME: self._create_volume,
            Action.INITIALISE: self._initialise,
            Action.WRITE_CONFIGURATION: self._write_configuration,
            Action.START: self._start,
            Action.RELOAD: self._reload,
            Action.APPLY_ACCOUNTS: self._apply_accounts,
            Action.PUBLISH_ROUTE: self._publish_route,
            Action.HOLD_ROUTE: self._hold_route,
            Action.WITHDRAW_ROUTE: self._withdraw_route,
            Action.STOP: self._begin_stop,
            Action.DESTROY: self._destroy,
        }
        await performers[action](spec, wanted)

    def _build(self, spec: NodeSpec) -> EngineBuild:
        return self._tools.builds.resolve(spec.engine, spec.engine_version)

    async def _create_volume(self, spec: NodeSpec, wanted: Wanted) -> None:
        for path in (self._files.configuration, self._files.logs, self._files.sockets, self._files.volume):
            make_private_directory(path)
            self._tools.user.give(path)

    async def _initialise(self, spec: NodeSpec, wanted: Wanted) -> None:
        await self._driver.initialise(spec, self._files, self._build(spec), self._tools.user)

    async def _write_configuration(self, spec: NodeSpec, wanted: Wanted) -> None:
        make_private_directory(self._files.sockets)
        self._tools.user.give(self._files.sockets)
        for name, content in self._driver.configuration(spec, self._files, self._build(spec)).items():
            path = self._files.configuration / name
            write_atomically(path, content.encode())
            self._tools.user.give(path)
        self._remember(written=wanted.configuration_digest)

    async def _start(self, spec: NodeSpec, wanted: Wanted) -> None:
        make_private_directory(self._files.sockets)
        self._tools.user.give(self._files.sockets)
        command = self._driver.start_command(spec, self._files, self._build(spec))
        # A launch that was given up may have come up since: then the table decides about what runs.
        self._process = await self._tools.shims.adopt(spec.node_id)
        if self._process is not None:
            return
        try:
            self._process = await self._tools.shims.launch(
                spec.node_id,
                Launch(
                    argv=command.argv,
                    env=command.env,
                    cwd=self._files.volume,
                    output=self._files.output,
                    user_id=self._tools.user.user_id,
                    group_id=self._tools.user.group_id,
                    cgroups=self._tools.cgroups.prepare(spec.node_id, spec.limits),
                    tag={"identity": wanted.process_identity, "restart_token": spec.restart_token},
                ),
            )
        except Transient as error:
            self._start_failed(error.message)
            return
        self._health = Health(ready=False)
        self._remember(loaded=wanted.configuration_digest, loaded_by_pid=self._process.pid)

    def _start_failed(self, message: str) -> None:
        self._start_failures += 1
        self._start_due_at = self._tools.clock.monotonic() + start_backoff_s(self._start_failures)
        self._failure = f"{message}; see {self._files.output}"
        log.error("engine.start_failed", node_id=self.spec.node_id, failures=self._start_failures, error=message)

    async def _reload(self, spec: NodeSpec, wanted: Wanted) -> None:
        self._health = await self._driver.reload(spec, self._files)
        pid = 0 if self._process is None else self._process.pid
        self._remember(loaded=wanted.configuration_digest, loaded_by_pid=pid)

    async def _apply_accounts(self, spec: NodeSpec, wanted: Wanted) -> None:
        await self._driver.apply_accounts(spec, self._files)
        self._remember(accounts=wanted.accounts_digest)

    async def _publish_route(self, spec: NodeSpec, wanted: Wanted) -> None:
        await self._tools.routes.publish(spec)
        self._route = wanted.route_digest

    async def _hold_route(self, spec: NodeSpec, wanted: Wanted) -> None:
        await self._tools.routes.hold(spec)
        self._route = HELD_ROUTE

    async def _withdraw_route(self, spec: NodeSpec, wanted: Wanted) -> None:
        await self._tools.routes.withdraw(spec)
        self._route = ""

    async def _begin_stop(self, spec: NodeSpec, wanted: Wanted) -> None:
        # Cleared here, not in the task: an end seen before the task's first turn must not be waited for again.
        self._ended.clear()
        self._stopping = asyncio.create_task(self._stop())

    async def _stop(self) -> None:
        """Gentle signals first; each gets its time to work."""
        try:
            for number, patience_s in self._driver.stop_signals:
                if self._ended.is_set():
                    return  # before any signal: whatever runs by now is its successor
                self._tools.shims.signal(self.spec.node_id, number)
                with suppress(TimeoutError):
                    async with asyncio.timeout(patience_s):
                        await self._ended.wait()
                        return
                log.warning("engine.stop_slow", node_id=self.spec.node_id, signal=number, patience_s=patience_s)
        finally:
            self._stopping = None
            self.poke()

    async def _destroy(self, spec: NodeSpec, wanted: Wanted) -> None:
        self._tools.cgroups.remove(spec.node_id)
        await self._tools.journal.forget(spec.node_id)

    def _remember(self, **changes: str | int) -> None:
        self._in_effect = msgspec.structs.replace(self._in_effect, **changes)
        self._tools.journal.write_in_effect(self.spec.node_id, self._in_effect)

    def _publish_status(self) -> None:
        status = self._status()
        if status != self._reported:
            self._reported = status
            self._tools.report(status)

    def status(self) -> NodeStatus:
        """What was last reported."""
        return self._reported or self._status()

    def _status(self) -> NodeStatus:
        process = self._process
        spec = self.spec
        return NodeStatus(
            node_id=spec.node_id,
            dbi_resource_id=spec.dbi_resource_id,
            db_instance_identifier=spec.db_instance_identifier,
            role=spec.role,
            availability_zone=spec.availability_zone,
            phase=self._phase(),
            generation=spec.generation,
            settled_generation=self._settled_generation,
            started_for=-1 if process is None else int(process.tag.get("restart_token", -1)),
            pid=0 if process is None else process.pid,
            started_at=0.0 if process is None else process.started_at,
            address=spec.listen_address,
            port=spec.port,
            data_directory=str(self._files.data),
            failure=self._failure,
            fatal=self._fatal or self._start_failures >= START_ATTEMPTS_MAX,
            pending_restart=self._health.pending_restart,
            restarts=self._restarts,
        )

    def _phase(self) -> NodePhase:
        if self._process is None:
            if self._gone():
                return NodePhase.ABSENT
            if not self._driver.initialised(self._files):
                return NodePhase.CREATING
            return NodePhase.STOPPED if self.spec.target is not NodeTarget.RUNNING else NodePhase.STARTING
        if self._stopping is not None:
            return NodePhase.STOPPING
        return NodePhase.RUNNING if self._health.ready else NodePhase.STARTING
