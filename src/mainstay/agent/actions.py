"""What a keeper can do to its node, one method per `Action`, and what is known to be in effect of it.

An action is remembered as done only after it took effect. Stopping and copying go on in the background, so that a newer
spec or assignment can be taken meanwhile; `changed` is called when something in here has changed by itself.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog

from mainstay.agent.archiver import Archiver
from mainstay.agent.journal import InEffect, Journal
from mainstay.agent.kept_data import KeptData
from mainstay.agent.login_questions import Logins, NoLogins
from mainstay.agent.repositories import Repositories
from mainstay.agent.restoring import Restoring
from mainstay.agent.routes import Routes
from mainstay.agent.volumes import NodeVolume
from mainstay.agent.wanted import pauses
from mainstay.decide.node import (
    HELD_ROUTE,
    INHERITED_ACCOUNTS,
    START_ATTEMPTS_MAX,
    Action,
    Wanted,
    start_backoff_s,
)
from mainstay.engines.backups import BackupHost
from mainstay.engines.base import EngineDriver, Health
from mainstay.engines.builds import Builds
from mainstay.host.cgroups import ControlGroups
from mainstay.host.clock import Clock
from mainstay.host.fencing import fence
from mainstay.host.files import make_private_directory, write_atomically
from mainstay.host.processes import User
from mainstay.host.shims import EngineProcess, Launch, Shims
from mainstay.host.volumes.clones import Clones
from mainstay.model.assignment import Assignment
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import MainstayError, Permanent, Transient
from mainstay.model.node import NodeRole, NodeSpec, NodeStatus, NodeTarget, RestoreSpec

UNKNOWN_ROUTE = "unknown"
FENCED_END_TIMEOUT_S = 2.0
PROMOTE_AGAIN_S = 1.0
SIGNAL_AGAIN_S = 1.0

log = structlog.get_logger()


class KeeperTools(msgspec.Struct, frozen=True, kw_only=True):
    """What every keeper of a host shares."""

    journal: Journal
    shims: Shims
    cgroups: ControlGroups
    routes: Routes
    builds: Builds
    repositories: Repositories
    clones: Clones
    user: User
    clock: Clock
    report: Callable[[NodeStatus], None]
    archiver: Callable[..., Archiver] = Archiver
    """What ships a log; simulated time has another one."""
    logins: Logins = NoLogins()


class NodeActions:
    """The hands of one keeper."""

    def __init__(self, spec: NodeSpec, driver: EngineDriver, tools: KeeperTools, changed: Callable[[], None]) -> None:
        self.node_id = spec.node_id
        encrypted = spec.volume is not None and spec.volume.encrypted
        self.files = tools.journal.files(spec.node_id, logs_on_volume=encrypted)
        self.in_effect: InEffect = tools.journal.in_effect(spec.node_id)
        self.process: EngineProcess | None = None
        self.volume = NodeVolume(spec, self.files.root, tools.user)
        self.health = Health(ready=False)
        self.route = UNKNOWN_ROUTE
        self.stopping: asyncio.Task[None] | None = None
        self.copying: asyncio.Task[None] | None = None
        self._restores: str | None = None
        self.promoting, self._promote_again_at = False, 0.0
        self.outgrown = False
        self.lost = ""
        self.ended_as_wanted = False
        self.start_failures = 0
        self.start_due_at = 0.0
        self.failure = ""
        self.ended = asyncio.Event()
        self.restoring = Restoring(self.files, driver, tools.repositories, tools.clones, tools.user)
        self.kept = KeptData(self.files, self._remember, self.fence)
        self._driver = driver
        self._tools = tools
        self._changed = changed

    async def perform(self, action: Action, spec: NodeSpec, assignment: Assignment, wanted: Wanted) -> None:
        """Does it, or begins to. Raises `MainstayError` or `OSError`; repeating it is harmless."""
        performers: dict[Action, Callable[[NodeSpec, Assignment, Wanted], Awaitable[None]]] = {
            Action.CREATE_VOLUME: self._create_volume,
            Action.OPEN_VOLUME: self._open_volume,
            Action.CLOSE_VOLUME: self._close_volume,
            Action.GROW_VOLUME: self._grow_volume,
            Action.INITIALISE: self._initialise,
            Action.CLONE: self._begin_copy,
            Action.RESTORE: self._begin_restore,
            Action.REJOIN: self._begin_copy,
            Action.PROMOTE: self._promote,
            Action.FENCE: self._fence,
            Action.WRITE_CONFIGURATION: self._write_configuration,
            Action.START: self._start,
            Action.RELOAD: self._reload,
            Action.APPLY_ACCOUNTS: self._apply_accounts,
            Action.PUBLISH_ROUTE: self._publish_route,
            Action.HOLD_ROUTE: self._hold_route,
            Action.WITHDRAW_ROUTE: self._withdraw_route,
            Action.STOP: self._begin_stop,
            Action.DESTROY: self._destroy,
            Action.SET_ASIDE: self.kept.set_aside,
            Action.BRING_BACK: self.kept.bring_back,
            Action.DISCARD: self.kept.discard,
        }
        await performers[action](spec, assignment, wanted)

    async def adopt(self, node_id: str) -> None:
        """Finds the process that a former agent, or a launch that was given up, has left running."""
        self.process = await self._tools.shims.adopt(node_id)

    async def probe(self, spec: NodeSpec, assignment: Assignment) -> None:
        """Asks the engine how it is. A follower that takes no queries is ready only as a standby."""
        health = await self._driver.probe(spec, self.files)
        if health.cold and assignment.role is not NodeRole.STANDBY:
            health = Health(ready=False, starting=True, message="the engine does not take queries yet")
        if health.pause is not None and self.health.pause is None:
            await self.find_outgrown(spec, assignment)
            if self.outgrown:  # it does not wait for a look but for room
                health = msgspec.structs.replace(health, ready=False, starting=True)
        self.health = health
        if health.ready:
            self.start_failures = 0
        if self.promoting and self._driver.follows(self.files):
            # An engine that has only just been started forgets that it was told: it is told again.
            self.promoting = self._tools.clock.monotonic() < self._promote_again_at
        elif self.promoting and health.ready:
            self.promoting = False

    @property
    def published(self) -> bool:
        """Whether clients are let through to this node."""
        return self.route not in ("", HELD_ROUTE, UNKNOWN_ROUTE)

    def process_ended(self) -> None:
        """Nothing is left of the engine's process."""
        self.ended_as_wanted = self.stopping is not None
        self.process = None
        self.promoting = self.outgrown = False
        self.health = Health(ready=False)
        self.ended.set()

    def start_failed(self, message: str) -> None:
        """The engine did not come up: the next start waits a little longer."""
        self.start_failures += 1
        self.start_due_at = self._tools.clock.monotonic() + start_backoff_s(self.start_failures)
        self.failure = f"{message}; see {self.files.output}"
        log.error("engine.start_failed", node_id=self.node_id, failures=self.start_failures, error=message)

    def start_refused(self, message: str) -> None:
        """The engine ended for a reason that another start will not change."""
        self.start_failed(message)
        self.start_failures = START_ATTEMPTS_MAX

    async def find_outgrown(self, spec: NodeSpec, assignment: Assignment) -> None:
        """Whether the follower's source has been given more room than the follower's process was started with."""
        rendered = await self._driver.configuration(spec, assignment, self.files, self.build(spec))
        self.outgrown = any(not _holds(self.files.configuration / name, text) for name, text in rendered.items())
        if self.outgrown:
            log.warning("node.outgrown", node_id=self.node_id)

    async def fence(self) -> None:
        """When this returns, no process of the engine can run again. Raises `Transient` if that is not certain."""
        killed = await fence(self.files.volume)
        if killed:
            log.warning("node.fenced", node_id=self.node_id, processes=killed)

    def inherit_accounts(self, applied: str) -> None:
        """What was applied to the node whose data this one has by replication need not be applied once more.

        It would undo what users have changed by SQL since, a password for example.
        """
        if self.in_effect.accounts == INHERITED_ACCOUNTS:
            self._remember(accounts=applied)

    async def hold(self, spec: NodeSpec, assignment: Assignment) -> None:
        """New clients wait at the endpoint from now on, if it can be told."""
        with suppress(MainstayError):
            await self._tools.routes.hold(spec, assignment.epoch)
            self.route = HELD_ROUTE

    async def end_unwanted_copy(self, spec: NodeSpec, wanted: Wanted) -> None:
        """A copy for a node that is not to run, or a restore of something else, ends; what came of it is nothing."""
        stale = self._restores is not None and (spec.restore is None or spec.restore.backup_id != self._restores)
        if self.copying is not None and (stale or wanted.target is not NodeTarget.RUNNING):
            await self.cancel_copy()

    async def cancel_copy(self) -> None:
        """Gives up a copy that is not wanted any more."""
        task, self.copying = self.copying, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError, MainstayError, OSError):
                await task

    async def stop(self, *, patience_s: float | None = None) -> None:
        """Gentle signals first; each gets its time to work, or `patience_s` if that is shorter."""
        try:
            await self.volume.relieve_if_full()
            for number, usual_s in self._driver.stop_signals:
                if self.ended.is_set():
                    return  # before any signal: whatever runs by now is its successor
                if await self._signal_until_ended(number, usual_s if patience_s is None else min(usual_s, patience_s)):
                    return
                log.warning("engine.stop_slow", node_id=self.node_id, signal=number, patience_s=patience_s)
        finally:
            self.stopping = None
            self._changed()

    async def _signal_until_ended(self, number: int, patience_s: float) -> bool:
        """Sends the signal again and again: one that comes before the engine has set up its handlers is lost."""
        deadline = self._tools.clock.monotonic() + patience_s
        while (left_s := deadline - self._tools.clock.monotonic()) > 0:
            self._tools.shims.signal(self.node_id, number)
            with suppress(TimeoutError):
                async with asyncio.timeout(min(SIGNAL_AGAIN_S, left_s)):
                    await self.ended.wait()
                    return True
        return False

    async def stop_whatever_runs(self) -> None:
        """Stops the engine, also one that a launch has left which was given up; no keeper runs any more."""
        await self.cancel_copy()
        if self.process is None:
            await self.adopt(self.node_id)
        if self.process is not None:
            self.ended.clear()
            await self.stop()

    async def _create_volume(self, spec: NodeSpec, assignment: Assignment, wanted: Wanted) -> None:
        logs = () if self.files.logs_on_volume else (self.files.logs,)
        for path in (self.files.configuration, self.files.sockets, *logs):
            make_private_directory(path)
            self._tools.user.give(path)
        await self.restoring.lend_clone(spec.restore, self.volume.place)
        await self.volume.create()

    def _make_sockets(self) -> None:
        """They are in memory, and gone when the host was down."""
        make_private_directory(self.files.sockets)
        self._tools.user.give(self.files.sockets)

    def _make_logs_on_volume(self) -> None:
        """The engine's user owns the volume: whatever else stands in the place of the directory is left alone."""
        logs = self.files.logs
        if self.files.logs_on_volume and not os.path.lexists(logs):
            logs.mkdir(mode=0o700)
            there = logs.parent.stat()
            os.chown(logs, there.st_uid, there.st_gid, follow_symlinks=False)

    async def _open_volume(self, spec: NodeSpec, assignment: Assignment, wanted: Wanted) -> None:
        await self.volume.open()

    async def _close_volume(self, spec: NodeSpec, assignment: Assignment, wanted: Wanted) -> None:
        await self.volume.close()

    async def _grow_volume(self, spec: NodeSpec, assignment: Assignment, wanted: Wanted) -> None:
        if self.process is None:
            await self.fence()  # nothing that has it open may be left, or it cannot be closed
        await self.volume.grow()
        self.start_failures, self.start_due_at = 0, 0.0

    async def _initialise(self, spec: NodeSpec, assignment: Assignment, wanted: Wanted) -> None:
        await self._driver.initialise(spec, self.files, self.build(spec), self._tools.user)
        self._remember(had_data=True)

    async def _begin_copy(self, spec: NodeSpec, assignment: Assignment, wanted: Wanted) -> None:
        if self.copying is None:
            self._restores = None
            self.copying = asyncio.create_task(self._copy(spec, assignment))

    async def _copy(self, spec: NodeSpec, assignment: Assignment) -> None:
        upstream = assignment.upstream
        if upstream is None:
            raise Transient("there is nobody to copy from")
        try:
            self._make_sockets()
            anew = self.lost or not self._driver.initialised(self.files)
            copy = self._driver.clone if anew else self._driver.rejoin
            started = self._tools.clock.monotonic()
            await copy(spec, self.files, self.build(spec), self._tools.user, upstream)
            # The copied engine knows nothing of what this one was told before.
            self._remember(accounts=INHERITED_ACCOUNTS, had_data=True)
            self.lost = ""
            seconds = round(self._tools.clock.monotonic() - started, 3)
            log.info("node.copied", node_id=self.node_id, upstream=upstream.node_id, seconds=seconds)
        finally:
            self._changed()

    async def _begin_restore(self, spec: NodeSpec, assignment: Assignment, wanted: Wanted) -> None:
        if self.copying is None and spec.restore is not None:
            self._restores = spec.restore.backup_id
            self.copying = asyncio.create_task(self._restore(spec, spec.restore))

    async def _restore(self, spec: NodeSpec, restore: RestoreSpec) -> None:
        try:
            started = self._tools.clock.monotonic()
            await self.restoring.copy(restore, lambda: self.kept.note_placed(spec))
            self._remember(had_data=True)
            seconds = round(self._tools.clock.monotonic() - started, 3)
            log.info("node.restored", node_id=self.node_id, backup_id=restore.backup_id, seconds=seconds)
        finally:
            self._changed()

    async def check(self, spec: NodeSpec, note: Callable[[int, int], None]) -> tuple[str, ...]:
        """Reads all that the running engine has; see `EngineBackups.check`."""
        return await self._driver.backups.check(spec, self.files, self.build(spec), self._tools.user, note)

    def backup_host(self, spec: NodeSpec) -> BackupHost:
        """What a backup of this node is made with."""
        return BackupHost(files=self.files, build=self.build(spec), user=self._tools.user)

    def configure(self, name: str, content: str) -> None:
        """Writes one file of the configuration, for an engine that takes no session; it reads all of them then."""
        path = self.files.configuration / name
        write_atomically(path, content.encode())
        self._tools.user.give(path)
        if self._driver.reload_signal is None:
            raise Permanent(f"a standby of {self._driver.name} reads no single file again")
        self._tools.shims.signal(self.node_id, self._driver.reload_signal)

    def take_copy(self) -> None:
        """The outcome of a copy that has ended. Raises what it raised."""
        task = self.copying
        if task is not None and task.done():
            self.copying = None
            task.result()

    async def _promote(self, spec: NodeSpec, assignment: Assignment, wanted: Wanted) -> None:
        process = self.process
        await self._driver.promote(spec, self.files, self.build(spec), self._tools.user)
        if self.process is not process:
            return  # it ended meanwhile: nobody is being promoted, and its successor is to be told
        self.promoting = True
        self._promote_again_at = self._tools.clock.monotonic() + PROMOTE_AGAIN_S
        self.health = Health(ready=False, starting=True)

    async def _fence(self, spec: NodeSpec, assignment: Assignment, wanted: Wanted) -> None:
        self.ended.clear()
        await self.fence()
        with suppress(TimeoutError):
            async with asyncio.timeout(FENCED_END_TIMEOUT_S):
                await self.ended.wait()

    async def _write_configuration(self, spec: NodeSpec, assignment: Assignment, wanted: Wanted) -> None:
        self._make_sockets()
        rendered = await self._driver.configuration(spec, assignment, self.files, self.build(spec))
        for name, content in rendered.items():
            path = self.files.configuration / name
            if _holds(path, content):
                continue
            write_atomically(path, content.encode())
            self._tools.user.give(path)
        self._remember(written=wanted.configuration_digest)

    async def _start(self, spec: NodeSpec, assignment: Assignment, wanted: Wanted) -> None:
        self._make_sockets()
        command = self._driver.start_command(spec, self.files, self.build(spec))
        # A launch that was given up may have come up since: then the table decides about what runs.
        await self.adopt(spec.node_id)
        if self.process is not None:
            return
        await self.fence()  # what runs here without a shim that answers would keep every successor from starting
        await self.volume.keep_back()
        await asyncio.to_thread(self._make_logs_on_volume)
        # What its source's room demands may have grown since the files were written.
        if not assignment.writable or pauses(spec):
            await self._write_configuration(spec, assignment, wanted)
        tag = {
            "identity": wanted.process_identity,
            "restart_token": spec.restart_token,
            "readable": assignment.role is not NodeRole.STANDBY,
        }
        try:
            self.process = await self._tools.shims.launch(
                spec.node_id,
                Launch(
                    argv=command.argv,
                    env=command.env,
                    cwd=self.files.volume,
                    output=self.files.output,
                    user_id=self._tools.user.user_id,
                    group_id=self._tools.user.group_id,
                    cgroups=self._tools.cgroups.prepare(spec.node_id, spec.limits),
                    writable=(*self.files.writable, *command.writable),
                    tag=tag,
                ),
            )
        except Transient as error:
            self.start_failed(error.message)
            return
        self.health = Health(ready=False)
        self.promoting = False
        self._remember(loaded=wanted.configuration_digest, loaded_by_pid=self.process.pid)

    async def _reload(self, spec: NodeSpec, assignment: Assignment, wanted: Wanted) -> None:
        number = self._driver.reload_signal
        if assignment.role is NodeRole.STANDBY and number is not None:  # it takes no session that could be asked
            self._tools.shims.signal(spec.node_id, number)
        else:
            health = await self._driver.reload(spec, self.files)
            self.health = msgspec.structs.replace(health, pause=self.health.pause)
        pid = 0 if self.process is None else self.process.pid
        self._remember(loaded=wanted.configuration_digest, loaded_by_pid=pid)

    async def _apply_accounts(self, spec: NodeSpec, assignment: Assignment, wanted: Wanted) -> None:
        await self._driver.apply_accounts(spec, self.files)
        self._remember(accounts=wanted.accounts_digest)

    async def _publish_route(self, spec: NodeSpec, assignment: Assignment, wanted: Wanted) -> None:
        await self._tools.routes.publish(spec, assignment.epoch)
        self.route = wanted.route_digest

    async def _hold_route(self, spec: NodeSpec, assignment: Assignment, wanted: Wanted) -> None:
        await self._tools.routes.hold(spec, assignment.epoch)
        self.route = HELD_ROUTE

    async def _withdraw_route(self, spec: NodeSpec, assignment: Assignment, wanted: Wanted) -> None:
        await self._tools.routes.withdraw(spec)
        self.route = ""

    async def _begin_stop(self, spec: NodeSpec, assignment: Assignment, wanted: Wanted) -> None:
        # Cleared here, not in the task: an end seen before the task's first turn must not be waited for again.
        self.ended.clear()
        self.stopping = asyncio.create_task(self.stop())

    async def _destroy(self, spec: NodeSpec, assignment: Assignment, wanted: Wanted) -> None:
        self._tools.cgroups.remove(spec.node_id)
        await self.volume.destroy()
        await self._tools.journal.forget(spec.node_id)

    def build(self, spec: NodeSpec) -> EngineBuild:
        """What the node runs, or is to run."""
        return self._tools.builds.resolve(spec.engine, spec.engine_version)

    def _remember(self, **changes: str | int | bool) -> None:
        self.in_effect = msgspec.structs.replace(self.in_effect, **changes)
        self._tools.journal.write_in_effect(self.node_id, self.in_effect)


def _holds(path: Path, content: str) -> bool:
    try:
        return path.read_text() == content
    except (OSError, UnicodeDecodeError):
        return False
