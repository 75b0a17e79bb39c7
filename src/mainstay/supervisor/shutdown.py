"""Stopping everything in order: proxy, engines, control, agent, endpoint; by the supervisor and `mainstay down`."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from mainstay.host.guardian import process_ended
from mainstay.host.layout import ON_DEMAND, PROCESSES, lock_path, worker_names
from mainstay.host.locks import holder
from mainstay.host.rpc import RpcClient
from mainstay.model.errors import MainstayError
from mainstay.settings import Settings

ENGINES_TIMEOUT_S = 100.0
PROCESS_TIMEOUT_S = 15.0
log = structlog.get_logger()


async def stop_everything(settings: Settings, start_agent: Callable[[], Awaitable[object]] | None = None) -> None:
    """Returns when nothing of the service runs any more; a process that does not end is killed.

    `start_agent` starts one where there is none, or it has just ended: without an agent engines would stay.
    """
    await _end_on_demand(settings)
    if not await _stop_engines(settings) and start_agent is not None:
        await start_agent()
        await _stop_engines(settings)
    for name in reversed(PROCESSES):
        await end_process(settings, name)
    await _end_on_demand(settings)  # once more: control may have started one meanwhile


async def _end_on_demand(settings: Settings) -> None:
    for name in ON_DEMAND:
        for one in (name, *worker_names(settings, name)):
            await end_process(settings, one)


async def _stop_engines(settings: Settings) -> bool:
    """False if there is no agent to do it, or it ended meanwhile."""
    if holder(lock_path(settings, "agent")) is None:
        return False
    client = RpcClient(settings.runtime / "agent.sock")
    client.start()
    try:
        await client.call("stop_engines", timeout_s=ENGINES_TIMEOUT_S)
    except MainstayError as error:
        log.error("shutdown.engines", error=error.message)
    finally:
        await client.stop()
    return holder(lock_path(settings, "agent")) is not None


async def end_process(settings: Settings, name: str) -> None:
    """SIGTERM, and SIGKILL if it does not help."""
    path = lock_path(settings, name)
    for number in (signal.SIGTERM, signal.SIGKILL):
        pid = holder(path)
        if pid is None:
            return
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        with suppress(TimeoutError):
            async with asyncio.timeout(PROCESS_TIMEOUT_S):
                await process_ended(pid)
