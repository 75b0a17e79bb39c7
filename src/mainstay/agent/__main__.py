"""`python -m mainstay.agent`: the agent process, settings from the environment."""

from __future__ import annotations

import os

import uvloop

from mainstay.agent.process import Agent
from mainstay.host.logs import configure_logging
from mainstay.settings import load_settings


def main() -> None:
    """Runs the agent until SIGTERM."""
    settings = load_settings(os.environ)
    configure_logging("agent", settings.log_level)

    async def run() -> None:
        await Agent(settings).run()

    uvloop.run(run())


if __name__ == "__main__":
    main()
