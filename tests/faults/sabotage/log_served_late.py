"""A recovering engine is served its log some seconds after it has begun to ask: as on a host that is very busy."""

import asyncio

from mainstay.engines.postgresql.log_server import LogServer

at_once = LogServer.run


async def run(self: LogServer) -> None:
    """After a pause."""
    await asyncio.sleep(3.0)
    await at_once(self)


LogServer.run = run
