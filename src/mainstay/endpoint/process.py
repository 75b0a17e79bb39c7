"""Wiring of the endpoint process: routes come in over RPC, are kept on disk, and are served at once after a restart."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import structlog

from mainstay.endpoint import limits
from mainstay.endpoint.relay import Relay
from mainstay.endpoint.routing import RoutingTable
from mainstay.host.files import make_private_directory, write_atomically
from mainstay.host.rpc import RpcServer
from mainstay.model.errors import MainstayError, Permanent
from mainstay.model.route import Route
from mainstay.settings import Settings

log = structlog.get_logger()


class EndpointProcess:
    """Every client-facing database socket of this host."""

    def __init__(self, settings: Settings) -> None:
        directory = settings.home / "endpoint"
        make_private_directory(directory)
        self._file = directory / "routes.json"
        self._table = RoutingTable(_read(self._file))
        self._relay = Relay(connections_max=limits.raise_file_limit())
        self._lock = asyncio.Lock()
        self._server = RpcServer(
            settings.runtime / "endpoint.sock",
            {
                "put_route": self.put_route,
                "remove_route": self.remove_route,
                "routes": self.routes,
                "stats": self.stats,
                "ping": self.ping,
            },
        )

    async def run(self) -> None:
        """Until SIGTERM."""
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        self._relay.start()
        binding = asyncio.create_task(self._serve_known_routes())
        await self._server.start()
        log.info("endpoint.ready", routes=len(self._table.all()))
        await ended.wait()
        binding.cancel()
        with suppress(asyncio.CancelledError):
            await binding
        await self._server.stop()
        await self._relay.stop()

    async def put_route(self, params: Any) -> Any:
        """Serves the route from now on; answers how many connections were cut. Raises as `plan` and `listen` do."""
        try:
            route = msgspec.convert(params, Route)
        except msgspec.ValidationError as error:
            raise Permanent(f"not a route: {error}") from error
        async with self._lock:
            cut = await self._relay.apply(self._table.plan(route))
            self._table.put(route)
            self._remember()
        return {"cut": cut}

    async def remove_route(self, params: Any) -> Any:
        """Ends an endpoint: {"cut": connections that were cut}."""
        async with self._lock:
            change = self._table.remove(str(params["endpoint_id"]))
            cut = await self._relay.apply(change)
            self._remember()
        return {"cut": cut}

    async def routes(self, _params: Any) -> Any:
        """Every route, and whether its socket is open."""
        return [
            {**msgspec.to_builtins(route), "listening": self._relay.listens(route.endpoint_id)}
            for route in self._table.all()
        ]

    async def stats(self, _params: Any) -> Any:
        """Connections per endpoint."""
        return self._relay.counters()

    async def ping(self, _params: Any) -> bool:
        """The process is alive."""
        return True

    async def _serve_known_routes(self) -> None:
        """Opens the sockets of the last table; a port that is still taken is tried again."""
        while True:
            async with self._lock:
                for route in self._table.all():
                    if self._relay.listens(route.endpoint_id):
                        continue
                    try:
                        await self._relay.apply(RoutingTable().plan(route))
                    except MainstayError as error:
                        log.warning("endpoint.not_bound", endpoint_id=route.endpoint_id, error=error.message)
                if all(self._relay.listens(route.endpoint_id) for route in self._table.all()):
                    return
            await asyncio.sleep(limits.BIND_RETRY_INTERVAL_S)

    def _remember(self) -> None:
        write_atomically(self._file, msgspec.json.encode(self._table.all()))


def _read(file: Path) -> list[Route]:
    """The last table. Without it, or if it cannot be read, the agent tells all routes again."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=list[Route])
    except FileNotFoundError:
        return []
    except (msgspec.DecodeError, MainstayError) as error:
        log.error("endpoint.table_unreadable", file=str(file), error=str(error))
        return []
