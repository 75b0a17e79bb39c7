"""`python -m mainstay.control`: the control process, settings from the environment."""

from __future__ import annotations

import mainstay.host.no_terminal  # noqa: F401 - before anything imports structlog

# isort: split

import asyncio
import os

import uvloop

from mainstay.control.process import Control
from mainstay.host.guardian import guard
from mainstay.host.layout import lock_path, prepare
from mainstay.host.locks import ProcessLock
from mainstay.host.logs import configure_logging
from mainstay.settings import load_settings


def main() -> None:
    """Runs the control process until SIGTERM."""
    settings = load_settings(os.environ)
    configure_logging("control", settings.log_level)

    prepare(settings)
    lock = ProcessLock(lock_path(settings, "control"))
    lock.acquire()

    async def run() -> None:
        guardian = asyncio.create_task(guard(settings))
        await Control(settings).run()
        guardian.cancel()

    uvloop.run(run())


if __name__ == "__main__":
    main()
