"""`python -m mainstay.proxy`: the proxy process, settings from the environment."""

from __future__ import annotations

import asyncio
import gc
import os
from typing import Final

from mainstay.host.guardian import guard
from mainstay.host.layout import lock_path, prepare
from mainstay.host.locks import ProcessLock
from mainstay.host.logs import configure_logging
from mainstay.host.processes import raise_file_limit
from mainstay.proxy.loop import run as run_loop
from mainstay.proxy.process import ProxyProcess
from mainstay.settings import load_settings

GARBAGE_OBJECTS: Final = 10_000
"""The collector runs after so many. A session that ends leaves some tens, about two kilobytes."""


def main() -> None:
    """Runs the proxies until SIGTERM."""
    settings = load_settings(os.environ)
    configure_logging("proxy", settings.log_level)
    prepare(settings)
    lock = ProcessLock(lock_path(settings, "proxy"))
    lock.acquire()
    raise_file_limit()

    gc.freeze()  # what is here now stays, and need not be looked at with every thousandth login
    gc.set_threshold(GARBAGE_OBJECTS)

    async def run() -> None:
        guardian = asyncio.create_task(guard(settings))
        await ProxyProcess(settings).run()
        guardian.cancel()

    run_loop(run())


if __name__ == "__main__":
    main()
