"""`python -m mainstay.agent`: the agent process, settings from the environment."""

from __future__ import annotations

import mainstay.host.no_terminal  # noqa: F401 - before anything imports structlog

# isort: split

import asyncio
import os

from mainstay.agent.process import Agent
from mainstay.host.guardian import guard
from mainstay.host.layout import lock_path, prepare
from mainstay.host.locks import ProcessLock
from mainstay.host.logs import configure_logging
from mainstay.settings import load_settings


def main() -> None:
    """Runs the agent until SIGTERM."""
    settings = load_settings(os.environ)
    configure_logging("agent", settings.log_level)

    prepare(settings)
    lock = ProcessLock(lock_path(settings, "agent"))
    lock.acquire()

    async def run() -> None:
        guardian = asyncio.create_task(guard(settings))
        await Agent(settings).run()
        guardian.cancel()

    # Not uvloop: it cannot start a subprocess as another user, and the agent is in no hot path.
    asyncio.run(run())


if __name__ == "__main__":
    main()
