"""Every process of ours watches the supervisor and starts a new one if it dies: nobody is without a keeper."""

from __future__ import annotations

import asyncio
import os
import subprocess

import structlog

from mainstay.host.layout import SUPERVISOR, down_marker, lock_path, spawn
from mainstay.host.locks import holder
from mainstay.settings import Settings

RETRY_S = 0.5
log = structlog.get_logger()


async def guard(settings: Settings) -> None:
    """Forever. Several guardians may start a supervisor at once: only one gets the lock, the others end at once."""
    started: list[subprocess.Popen[bytes]] = []
    while True:
        pid = holder(lock_path(settings, SUPERVISOR))
        if pid is not None:
            await process_ended(pid)
        if not down_marker(settings).exists() and holder(lock_path(settings, SUPERVISOR)) is None:
            log.warning("supervisor.restarted", ended_pid=pid)
            child = spawn(settings, SUPERVISOR)
            started.append(child)
        started = [child for child in started if child.poll() is None]
        await asyncio.sleep(RETRY_S)


async def process_ended(pid: int) -> None:
    """Returns when the process has ended; works for any process, not only children (pidfd_open(2))."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(descriptor, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
