"""Opening a connection to the database for a pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mainstay.proxy.loop import connect
from mainstay.proxy.server import ServerConnection

if TYPE_CHECKING:
    from mainstay.proxy.pool import Pool


async def open_connection(pool: Pool) -> ServerConnection:
    """A new connection, logged in. Raises `LoginFailed`, `OSError` or `TimeoutError`."""
    place = pool.target.database.place
    if place is None:
        raise OSError("the database is away")
    connection = ServerConnection(pool)
    connection.connection_made(await connect(place, connection))
    await log_in(pool, connection)
    return connection


async def log_in(pool: Pool, connection: ServerConnection) -> None:
    """Makes a connection that is open one of the pool's user. Raises as above; the connection is closed then."""
    target = pool.target
    started = target.now()
    target.metrics.add("DatabaseConnectionRequests")
    try:
        await connection.log_in(pool.user.username, pool.user.password, pool.database)
    except BaseException:
        connection.close()
        raise
    connection.opened_at = target.now()
    target.metrics.add("DatabaseConnectionsSetupSucceeded")
    target.metrics.observe("DatabaseConnectionsSetupLatency", connection.opened_at - started)
