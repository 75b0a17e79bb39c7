"""The supervisor: one small loop that starts what is missing and hears at once when something ends.

It knows its processes by the locks they hold, not by being their parent, so a new supervisor takes over what runs.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
from contextlib import suppress

import structlog

from mainstay.host.guardian import process_ended
from mainstay.host.layout import ON_DEMAND, PROCESSES, down_marker, has_specs, lock_path, prepare, spawn
from mainstay.host.locks import holder
from mainstay.settings import Settings
from mainstay.supervisor.shutdown import stop_everything

RESTART_PAUSE_S = (0.0, 0.2, 0.5, 1.0)
STABLE_AFTER_S = 20.0
START_GRACE_S = 15.0
POLL_S = 0.02
DEMAND_POLL_S = 1.0
log = structlog.get_logger()


class Supervisor:
    """Keeps `PROCESSES` running until told to shut down, and `ON_DEMAND` ones while they have something to do."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._starts: set[asyncio.Task[int | None]] = set()

    async def run(self) -> None:
        """Until SIGTERM or SIGINT, which stop everything, engines too."""
        prepare(self._settings)
        down_marker(self._settings).unlink(missing_ok=True)
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        keepers = [asyncio.create_task(self._keep(name)) for name in (*PROCESSES, *ON_DEMAND)]
        await ended.wait()
        down_marker(self._settings).touch(mode=0o600)
        for keeper in keepers:
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper
        await asyncio.gather(*self._starts)  # one that is only starting would come up after everything else has gone
        await stop_everything(self._settings, lambda: self._start("agent"))

    async def _keep(self, name: str) -> None:
        failures = 0
        while True:
            await self._wanted(name)
            pid = holder(lock_path(self._settings, name))
            if pid is None:
                await asyncio.sleep(RESTART_PAUSE_S[min(failures, len(RESTART_PAUSE_S) - 1)])
                pid = await self._started(name)
            started = asyncio.get_running_loop().time()
            if pid is not None:
                await process_ended(pid)
            self._reap(name)
            lasted_s = asyncio.get_running_loop().time() - started
            failures = 0 if lasted_s > STABLE_AFTER_S else failures + 1
            log.warning("process.ended", name=name, pid=pid, lasted_s=round(lasted_s, 1))

    async def _wanted(self, name: str) -> None:
        """Returns at once for a process that always runs; for another when it runs or should."""
        while name in ON_DEMAND and holder(lock_path(self._settings, name)) is None:
            if has_specs(self._settings, name):
                return
            await asyncio.sleep(DEMAND_POLL_S)

    async def _started(self, name: str) -> int | None:
        """As `_start`, which goes on when the keeper is cancelled."""
        task = asyncio.create_task(self._start(name))
        self._starts.add(task)
        task.add_done_callback(self._starts.discard)
        return await asyncio.shield(task)

    async def _start(self, name: str) -> int | None:
        """Starts the process and waits until it holds its lock; None if it ended before."""
        child = spawn(self._settings, name)
        self._children[name] = child
        deadline = asyncio.get_running_loop().time() + START_GRACE_S
        while asyncio.get_running_loop().time() < deadline:
            pid = holder(lock_path(self._settings, name))
            if pid is not None:
                log.info("process.started", name=name, pid=pid)
                return pid
            if child.poll() is not None:
                return None
            await asyncio.sleep(POLL_S)
        child.kill()
        log.error("process.start_timed_out", name=name)
        return None

    def _reap(self, name: str) -> None:
        child = self._children.pop(name, None)
        if child is not None:
            child.poll()
