"""Stopping everything in order: engines, control, agent, endpoint. Used by the supervisor and `mainstay down`."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress

import structlog

from mainstay.host.guardian import process_ended
from mainstay.host.layout import PROCESSES, lock_path
from mainstay.host.locks import holder
from mainstay.host.rpc import RpcClient
from mainstay.model.errors import MainstayError
from mainstay.settings import Settings

ENGINES_TIMEOUT_S = 100.0
PROCESS_TIMEOUT_S = 15.0
log = structlog.get_logger()


async def stop_everything(settings: Settings) -> None:
    """Returns when nothing of the service runs any more; a process that does not end is killed."""
    if holder(lock_path(settings, "agent")) is not None:
        client = RpcClient(settings.runtime / "agent.sock")
        client.start()
        try:
            await client.call("stop_engines", timeout_s=ENGINES_TIMEOUT_S)
        except MainstayError as error:
            log.error("shutdown.engines", error=error.message)
        finally:
            await client.stop()
    for name in reversed(PROCESSES):
        await end_process(settings, name)


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
