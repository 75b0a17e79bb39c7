"""`python -m mainstay.supervisor`: the supervisor, settings from the environment."""

from __future__ import annotations

import mainstay.host.no_terminal  # noqa: F401 - before anything imports structlog

# isort: split

import asyncio
import os
import sys

from mainstay.host.layout import SUPERVISOR, lock_path, prepare
from mainstay.host.locks import ProcessLock
from mainstay.host.logs import configure_logging
from mainstay.model.errors import Permanent
from mainstay.settings import load_settings
from mainstay.supervisor.process import Supervisor


def main() -> int:
    """Runs the supervisor until SIGTERM; 1 if another one runs already."""
    settings = load_settings(os.environ)
    configure_logging(SUPERVISOR, settings.log_level)
    prepare(settings)
    lock = ProcessLock(lock_path(settings, SUPERVISOR))
    try:
        lock.acquire()
    except Permanent:
        return 1
    asyncio.run(Supervisor(settings).run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
