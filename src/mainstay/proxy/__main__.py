"""`python -m mainstay.proxy`: the proxy process, settings from the environment."""

from __future__ import annotations

import mainstay.host.no_terminal  # noqa: F401 - before anything imports structlog

# isort: split

import argparse
import asyncio
import gc
import os
from typing import Final

from mainstay.host.guardian import guard
from mainstay.host.layout import lock_path, prepare, worker_name, worker_names
from mainstay.host.locks import ProcessLock
from mainstay.host.logs import configure_logging
from mainstay.host.processes import raise_file_limit
from mainstay.proxy.loop import run as run_loop
from mainstay.proxy.process import ProxyProcess
from mainstay.settings import load_settings

GARBAGE_OBJECTS: Final = 10_000
"""The collector runs after so many. A session that ends leaves some tens, about two kilobytes."""


def main() -> None:
    """Runs the proxies until SIGTERM: all of them, or as one worker of several, or as the coordinator of those."""
    parser = argparse.ArgumentParser(prog="mainstay.proxy")
    parser.add_argument("--worker", type=int, default=0)
    number: int = parser.parse_args().worker
    settings = load_settings(os.environ)
    name = worker_name("proxy", number) if number else "proxy"
    configure_logging(name, settings.log_level)
    prepare(settings)
    lock = ProcessLock(lock_path(settings, name))
    lock.acquire()
    raise_file_limit()

    gc.freeze()  # what is here now stays, and need not be looked at with every thousandth login
    gc.set_threshold(GARBAGE_OBJECTS)

    async def run() -> None:
        guardian = asyncio.create_task(guard(settings))
        if number:
            from mainstay.proxy.worker import Worker  # each of the three has only what it needs in memory

            await Worker(settings, number).run()
        elif settings.proxy_worker_count > 1:
            from mainstay.proxy.coordinator import Coordinator

            await Coordinator(settings, settings.proxy_worker_count).run()
        else:
            if worker_names(settings, "proxy"):  # there were several before
                from mainstay.proxy.workforce import end_workers

                await end_workers(settings)
            await ProxyProcess(settings).run()
        guardian.cancel()

    run_loop(run())


if __name__ == "__main__":
    main()
