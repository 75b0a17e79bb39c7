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
from mainstay.host.layout import PROCESSES, down_marker, lock_path, prepare, spawn
from mainstay.host.locks import holder
from mainstay.settings import Settings
from mainstay.supervisor.shutdown import stop_everything

RESTART_PAUSE_S = (0.0, 0.2, 1.0, 3.0, 10.0)
STABLE_AFTER_S = 20.0
START_GRACE_S = 15.0
POLL_S = 0.02
log = structlog.get_logger()


class Supervisor:
    """Keeps `PROCESSES` running until told to shut down."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    async def run(self) -> None:
        """Until SIGTERM or SIGINT, which stop everything, engines too."""
        prepare(self._settings)
        down_marker(self._settings).unlink(missing_ok=True)
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        keepers = [asyncio.create_task(self._keep(name)) for name in PROCESSES]
        await ended.wait()
        down_marker(self._settings).touch(mode=0o600)
        for keeper in keepers:
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper
        await stop_everything(self._settings)

    async def _keep(self, name: str) -> None:
        failures = 0
        while True:
            pid = holder(lock_path(self._settings, name))
            if pid is None:
                await asyncio.sleep(RESTART_PAUSE_S[min(failures, len(RESTART_PAUSE_S) - 1)])
                pid = await self._start(name)
            started = asyncio.get_running_loop().time()
            if pid is not None:
                await process_ended(pid)
            self._reap(name)
            lasted_s = asyncio.get_running_loop().time() - started
            failures = 0 if lasted_s > STABLE_AFTER_S else failures + 1
            log.warning("process.ended", name=name, pid=pid, lasted_s=round(lasted_s, 1))

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
