"""The engine process of one node: found, launched, asked to end, and made unable to run.

Guarantees: there is at most one, since nothing is launched before what runs without a shim that answers was killed; a
signal reaches the process that it is meant for, never its successor; when `fence` returns, no process of the engine can
run again. Stopping goes on in the background, so that a newer spec or assignment can be taken meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog

from mainstay.agent.tools import KeeperTools
from mainstay.agent.volumes import NodeVolume
from mainstay.decide.node import START_ATTEMPTS_MAX, start_backoff_s
from mainstay.engines.base import EngineDriver
from mainstay.engines.node_files import NodeFiles
from mainstay.host.fencing import fence
from mainstay.host.files import make_private_directory
from mainstay.host.processes import User
from mainstay.host.shims import EngineProcess, Launch

FENCED_END_TIMEOUT_S = 2.0
FULL_PATIENCE_S = 10.0
SIGNAL_AGAIN_S = 1.0
REFUSALS_S = 10.0
"""For so long an engine may answer our own sessions with errors before that is held for how it is."""

log = structlog.get_logger()


class NodeEngine:
    """The process, if there is one, and how often its start has failed. `changed` is called when a stop is over."""

    def __init__(
        self,
        node_id: str,
        driver: EngineDriver,
        files: NodeFiles,
        volume: NodeVolume,
        tools: KeeperTools,
        changed: Callable[[], None],
    ) -> None:
        self.node_id = node_id
        self.process: EngineProcess | None = None
        self.stopping: asyncio.Task[None] | None = None
        self.ended = asyncio.Event()
        """Set by the process's end; whoever is about to wait for one clears it first."""

        self.ended_as_wanted = False
        self.start_failures = 0
        self.start_due_at = 0.0
        self._refused = False
        self._refuses_since: float | None = None
        self._driver = driver
        self._files = files
        self._volume = volume
        self._tools = tools
        self._changed = changed

    async def adopt(self) -> None:
        """Finds the process that a former agent, or a launch that was given up, has left running."""
        self.process = await self._tools.shims.adopt(self.node_id)

    async def launch(self, launch: Launch) -> EngineProcess:
        """Starts it. Raises `Transient` if it did not come up."""
        self.process = await self._tools.shims.launch(self.node_id, launch)
        return self.process

    def note_end(self) -> None:
        """Nothing is left of the process."""
        self.ended_as_wanted = self.stopping is not None
        self.process = None
        self.note_obedience()
        self.ended.set()

    def note_refusal(self) -> None:
        """The process has answered a session of ours with an error."""
        if self._refuses_since is None:
            self._refuses_since = self._tools.clock.monotonic()

    def note_obedience(self) -> None:
        """The process has done what it was asked for: errors before that were no lasting ones."""
        self._refused, self._refuses_since = False, None

    @property
    def refuses(self) -> bool:
        """Whether the process has answered our sessions with errors for a while, and done nothing for us since."""
        return self._refused or self._refuses_still

    @property
    def unusable(self) -> bool:
        """Whether it has been tried for long enough what is wanted now, and came to no process that can be operated."""
        return self.start_failures >= START_ATTEMPTS_MAX or self._refuses_still

    @property
    def _refuses_still(self) -> bool:
        since = self._refuses_since
        return since is not None and self._tools.clock.monotonic() - since >= REFUSALS_S

    def note_failed_start(self) -> None:
        """It did not come up: the next start waits a little longer."""
        self.start_failures += 1
        self.start_due_at = self._tools.clock.monotonic() + start_backoff_s(self.start_failures)

    def give_up_starting(self) -> None:
        """Another start will not change why it did not come up."""
        self.start_failures = START_ATTEMPTS_MAX

    def allow_start(self) -> None:
        """What failed before says nothing about the next start, which may be now."""
        self.start_failures, self.start_due_at = 0, 0.0
        self._refused, self._refuses_since = self.refuses, None

    async def fence(self) -> None:
        """When this returns, no process of the engine can run again. Raises `Transient` if that is not certain."""
        killed = await fence(self._files.volume)
        if killed:
            log.warning("node.fenced", node_id=self.node_id, processes=killed)

    async def fence_and_see_end(self) -> None:
        """As `fence`; the shim's word that the process has ended is waited for a little, too."""
        self.ended.clear()
        await self.fence()
        with suppress(TimeoutError):
            async with asyncio.timeout(FENCED_END_TIMEOUT_S):
                await self.ended.wait()

    def begin_stop(self) -> None:
        """Stops it in the background; `stopping` is the task until that is over."""
        # Cleared here, not in the task: an end seen before the task's first turn must not be waited for again.
        self.ended.clear()
        self.stopping = asyncio.create_task(self.stop())

    async def stop(self, *, patience_s: float | None = None) -> None:
        """Gentle signals first; each gets its time to work, or `patience_s` if that is shorter.

        One that stops so that its full volume can be made larger is not given long: what waits for room in it may see
        only a minute later that there is some (MariaDB's binary log does), and its recovery will have all it needs.
        """
        try:
            seen = self._volume.look()
            if patience_s is None and seen.full and self._volume.must_grow(seen):
                patience_s = FULL_PATIENCE_S
            await self._volume.relieve_if_full()
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
        """Stops also one that a launch has left which was given up; no keeper runs any more."""
        if self.process is None:
            await self.adopt()
        if self.process is not None:
            self.ended.clear()
            await self.stop()


def make_sockets(files: NodeFiles, user: User) -> None:
    """The directory of the engine's sockets is in memory, and gone when the host was down."""
    make_private_directory(files.sockets)
    user.give(files.sockets)
