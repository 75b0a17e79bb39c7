"""What a keeper can do to its node, one method per `Action`, and what is known to be in effect of it.

An action is remembered as done only after it took effect. What is done to the process itself is `NodeEngine`'s, a copy
of data `Copying`'s, data that is exchanged `KeptData`'s; `changed` is called when one of them has changed by itself.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog

from mainstay.agent.copying import Copying
from mainstay.agent.journal import InEffect
from mainstay.agent.kept_data import KeptData
from mainstay.agent.last_words import LastWords
from mainstay.agent.node_engine import NodeEngine, make_sockets
from mainstay.agent.restoring import Restoring
from mainstay.agent.tools import KeeperTools
from mainstay.agent.volumes import NodeVolume
from mainstay.agent.wanted import pauses
from mainstay.decide.node import HELD_ROUTE, INHERITED_ACCOUNTS, Action, Wanted
from mainstay.engines.backups import BackupHost
from mainstay.engines.base import EngineDriver, Health
from mainstay.host.files import make_private_directory, write_atomically
from mainstay.host.shims import Launch
from mainstay.model.assignment import Assignment
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import CannotLead, MainstayError, Permanent, Transient
from mainstay.model.node import NodeRole, NodeSpec
from mainstay.model.volume import VolumePhase

UNKNOWN_ROUTE = "unknown"
PROMOTE_AGAIN_S = 1.0

log = structlog.get_logger()


class NodeActions:
    """The hands of one keeper."""

    def __init__(self, spec: NodeSpec, driver: EngineDriver, tools: KeeperTools, changed: Callable[[], None]) -> None:
        self.node_id = spec.node_id
        encrypted = spec.volume is not None and spec.volume.encrypted
        self.files = tools.journal.files(spec.node_id, logs_on_volume=encrypted)
        self.in_effect: InEffect = tools.journal.in_effect(spec.node_id)
        self.volume = NodeVolume(spec, self.files.root, tools.user)
        self.engine = NodeEngine(spec.node_id, driver, self.files, self.volume, tools, changed)
        self.health = Health(ready=False)
        self.route = UNKNOWN_ROUTE
        self.promoting, self._promote_again_at = False, 0.0
        self.outgrown = False
        self.failure = ""
        self.last_words = LastWords(self.files, driver)
        self.restoring = Restoring(self.files, driver, tools.repositories, tools.clones, tools.user)
        self.kept = KeptData(self.files, self._remember, self.engine.fence)
        self.copying = Copying(driver, self.files, tools, self.restoring, self.kept, self._remember, changed)
        self._driver = driver
        self._tools = tools

    async def perform(self, action: Action, spec: NodeSpec, assignment: Assignment, wanted: Wanted) -> None:
        """Does it, or begins to. Raises `MainstayError` or `OSError`; repeating it is harmless."""
        performers: dict[Action, Callable[[NodeSpec, Assignment, Wanted], Awaitable[None]]] = {
            Action.CREATE_VOLUME: self._create_volume,
            Action.OPEN_VOLUME: self._open_volume,
            Action.CLOSE_VOLUME: self._close_volume,
            Action.GROW_VOLUME: self._grow_volume,
            Action.INITIALISE: self._initialise,
            Action.CLONE: self.copying.begin_copy,
            Action.RESTORE: self.copying.begin_restore,
            Action.REJOIN: self.copying.begin_copy,
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

    async def probe(self, spec: NodeSpec, assignment: Assignment) -> None:
        """Asks the engine how it is. A follower that takes no queries is ready only as a standby."""
        health = await self._driver.probe(spec, self.files)
        if health.cold and assignment.role is not NodeRole.STANDBY:
            health = Health(ready=False, starting=True, message="the engine does not take queries yet")
        if health.pause is not None and self.health.pause is None:
            await self.find_outgrown(spec, assignment)
            if self.outgrown:  # it does not wait for a look but for room
                health = msgspec.structs.replace(health, ready=False, starting=True)
        if health.refused:
            self.engine.note_refusal()
            self.failure = f"the engine answers with an error: {health.message}"
        if health.locked_out and not self.health.locked_out:  # counted, so that it is not tried for ever
            self.start_failed(f"the engine lets nobody operate it: {health.message}")
        self.health = health
        if health.ready:
            self.engine.start_failures = 0
        if self.promoting and self._driver.follows(self.files):
            # An engine that has only just been started forgets that it was told: it is told again.
            self.promoting = self._tools.clock.monotonic() < self._promote_again_at
        elif self.promoting and health.ready:
            self.promoting = False

    @property
    def published(self) -> bool:
        """Whether clients are let through to this node."""
        return self.route not in ("", HELD_ROUTE, UNKNOWN_ROUTE)

    @property
    def lost_data(self) -> bool:
        """Whether there is no data where there was some, and none is hidden on a volume that is not open."""
        hidden = self.volume.look().phase is not VolumePhase.OPEN
        return self.in_effect.had_data and not hidden and not self._driver.initialised(self.files)

    def process_ended(self) -> None:
        """Nothing is left of the engine's process."""
        self.promoting = self.outgrown = False
        self.health = Health(ready=False)
        self.engine.note_end()

    def start_failed(self, message: str) -> None:
        """The engine did not come up: the next start waits a little longer. Users read the message, in an event."""
        self.engine.note_failed_start()
        self.failure = message
        log.error(
            "engine.start_failed", node_id=self.node_id, failures=self.engine.start_failures, error=message,
            output=str(self.files.output),
        )  # fmt: skip

    def start_refused(self, message: str) -> None:
        """The engine ended for a reason that another start will not change."""
        self.start_failed(message)
        self.engine.give_up_starting()

    async def find_outgrown(self, spec: NodeSpec, assignment: Assignment) -> None:
        """Whether the follower's source has been given more room than the follower's process was started with."""
        rendered = await self._driver.configuration(spec, assignment, self.files, self.build(spec))
        self.outgrown = any(not _holds(self.files.configuration / name, text) for name, text in rendered.items())
        if self.outgrown:
            log.warning("node.outgrown", node_id=self.node_id)

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

    async def _create_volume(self, spec: NodeSpec, assignment: Assignment, wanted: Wanted) -> None:
        logs = () if self.files.logs_on_volume else (self.files.logs,)
        for path in (self.files.configuration, self.files.sockets, *logs):
            make_private_directory(path)
            self._tools.user.give(path)
        await self.restoring.lend_clone(spec.restore, self.volume.place)
        await self.volume.create()

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
        if self.engine.process is None:
            await self.engine.fence()  # nothing that has it open may be left, or it cannot be closed
        await self.volume.grow()
        self.engine.allow_start()

    async def _initialise(self, spec: NodeSpec, assignment: Assignment, wanted: Wanted) -> None:
        await self._driver.initialise(spec, self.files, self.build(spec), self._tools.user)
        self._remember(had_data=True)

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

    async def _promote(self, spec: NodeSpec, assignment: Assignment, wanted: Wanted) -> None:
        process = self.engine.process
        if self.in_effect.told_to_lead != assignment.epoch:
            self._remember(told_to_lead=assignment.epoch)
        try:
            await self._driver.promote(spec, self.files, self.build(spec), self._tools.user)
        except CannotLead as error:  # its end is what the pair takes for a reason to go back
            log.warning("node.cannot_lead", node_id=self.node_id, reason=str(error))
            await self.engine.fence_and_see_end()
            raise
        if self.engine.process is not process:
            return  # it ended meanwhile: nobody is being promoted, and its successor is to be told
        self.promoting = True
        self._promote_again_at = self._tools.clock.monotonic() + PROMOTE_AGAIN_S
        self.health = Health(ready=False, starting=True)

    async def _fence(self, spec: NodeSpec, assignment: Assignment, wanted: Wanted) -> None:
        await self.engine.fence_and_see_end()

    async def _write_configuration(self, spec: NodeSpec, assignment: Assignment, wanted: Wanted) -> None:
        make_sockets(self.files, self._tools.user)
        rendered = await self._driver.configuration(spec, assignment, self.files, self.build(spec))
        others = [name for name, content in rendered.items() if not _holds(self.files.configuration / name, content)]
        if others and self.engine.process is not None and not self.health.ready:
            self._remember(loaded="")  # it reads them as it starts: whether before or after this, nobody knows
        for name in others:
            path = self.files.configuration / name
            write_atomically(path, rendered[name].encode())
            self._tools.user.give(path)
        self._remember(written=wanted.configuration_digest)

    async def _start(self, spec: NodeSpec, assignment: Assignment, wanted: Wanted) -> None:
        make_sockets(self.files, self._tools.user)
        command = self._driver.start_command(spec, self.files, self.build(spec))
        # A launch that was given up may have come up since: then the table decides about what runs.
        await self.engine.adopt()
        if self.engine.process is not None:
            return
        await self.engine.fence()  # what runs here without a shim that answers would keep every successor from starting
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
        self.last_words.begin()
        try:
            process = await self.engine.launch(
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
                )
            )
        except Transient as error:
            self.start_failed(self.last_words.after(error.message))
            return
        self.health = Health(ready=False)
        self.promoting = False
        self._remember(loaded=wanted.configuration_digest, loaded_by_pid=process.pid)

    async def _reload(self, spec: NodeSpec, assignment: Assignment, wanted: Wanted) -> None:
        number = self._driver.reload_signal
        if assignment.role is NodeRole.STANDBY and number is not None:  # it takes no session that could be asked
            self._tools.shims.signal(spec.node_id, number)
        else:
            health = await self._driver.reload(spec, self.files)
            self.engine.note_obedience()
            self.health = msgspec.structs.replace(health, pause=self.health.pause)
        process = self.engine.process
        pid = 0 if process is None else process.pid
        self._remember(loaded=wanted.configuration_digest, loaded_by_pid=pid)

    async def _apply_accounts(self, spec: NodeSpec, assignment: Assignment, wanted: Wanted) -> None:
        await self._driver.apply_accounts(spec, self.files)
        self.engine.note_obedience()
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
        self.engine.begin_stop()

    async def _destroy(self, spec: NodeSpec, assignment: Assignment, wanted: Wanted) -> None:
        self._tools.cgroups.remove(spec.node_id)
        await self.volume.destroy()
        await self._tools.journal.forget(spec.node_id)

    def build(self, spec: NodeSpec) -> EngineBuild:
        """What the node runs, or is to run."""
        return self._tools.build(spec)

    def _remember(self, **changes: str | int | bool) -> None:
        self.in_effect = msgspec.structs.replace(self.in_effect, **changes)
        self._tools.journal.write_in_effect(self.node_id, self.in_effect)


def _holds(path: Path, content: str) -> bool:
    try:
        return path.read_text() == content
    except (OSError, UnicodeDecodeError):
        return False
