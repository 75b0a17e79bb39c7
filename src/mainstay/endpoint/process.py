"""The endpoint process: routing table, relay, kernel path and DNS server behind one control socket.

Guarantees, tested in tests/unit/endpoint/test_endpoint_process.py: the last table is served again within a second of
a start, with nobody else alive; an answered `put_route` is in force and on disk, and connections of an older epoch are
gone; a refused `put_route` changed nothing, one that failed for now may be repeated. On SIGTERM everything is closed
and the exit code is 0.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from typing import Any

import msgspec
import structlog

from mainstay.endpoint import limits
from mainstay.endpoint.dns import DnsServer
from mainstay.endpoint.kernel import Kernel
from mainstay.endpoint.names import Names
from mainstay.endpoint.relay import Relay
from mainstay.endpoint.routing import Change, RoutingTable
from mainstay.host.clock import SystemClock
from mainstay.host.files import make_private_directory, write_atomically
from mainstay.host.processes import raise_file_limit
from mainstay.host.rpc import RpcServer
from mainstay.model.errors import MainstayError, Permanent, Transient
from mainstay.model.route import Route
from mainstay.settings import Settings

_ASTRAY_HINT = "Make nft work again (as root: apt-get install nftables), or restart this machine."

log = structlog.get_logger()


class EndpointProcess:
    """Every client-facing database socket of this host. Methods of the control socket work between start and stop."""

    def __init__(self, settings: Settings) -> None:
        self._file = settings.home / "endpoint" / "routes.json"
        self._table = RoutingTable()
        connections_max = limits.connections_for(raise_file_limit())
        processes = limits.pump_processes_for(len(os.sched_getaffinity(0)))
        self._relay = Relay(connections_max=connections_max, processes=processes)
        self._kernel = Kernel(str(settings.home), self._file.with_name("kernel.json"))
        self._kernel_wanted = settings.endpoint_path != "relay"
        self._kernel_reason: str | None = "not tried yet" if self._kernel_wanted else "endpoint_path is set to relay"
        self._clock = SystemClock()
        self._serial = 0
        self._names: Names | None = None
        self._dns: DnsServer | None = None
        if settings.dns_place is not None:
            self._names = Names(settings.dns_zone, settings.dns_place[0])
            self._dns = DnsServer(self._names, settings.dns_place)
        self._unfinished: set[str] = set()  # endpoints whose last order was not carried through
        self._lock = asyncio.Lock()
        self._background: set[asyncio.Task[None]] = set()
        self._rpc = RpcServer(
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
        """Until SIGTERM or SIGINT."""
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        await self.start()
        try:
            await ended.wait()
        finally:
            await self.stop()

    async def start(self) -> None:
        """Serves the last table, then takes orders."""
        make_private_directory(self._file.parent)
        self._table = RoutingTable(self._load())
        self._kernel.load(self._table.all())
        self._relay.start()
        for route in self._table.all():
            if not await self._listen_again(route):
                self._spawn(self._keep_trying(route.endpoint_id))
        self._spawn(self._start_kernel())
        self._publish_names()
        if self._dns is not None:
            await self._dns.start()
        await self._rpc.start()
        log.info("endpoint.ready", routes=len(self._table.all()))

    async def stop(self) -> None:
        """Closes every socket and takes the kernel table away."""
        await self._rpc.stop()
        if self._dns is not None:
            await self._dns.stop()
        for task in [*self._background]:
            task.cancel()
        async with self._lock:
            if self._kernel_reason is None:
                with suppress(Transient):  # the relay's sockets are closed next; the successor replaces the table
                    await self._kernel.clear()
            await self._relay.stop()
        log.info("endpoint.stopped")

    async def put_route(self, params: Any) -> dict[str, Any]:
        """Adds or replaces the route of an endpoint; answers the path in use and how many connections were cut."""
        try:
            route = msgspec.convert(params, Route)
        except msgspec.ValidationError as error:
            raise Permanent(f"not a route: {error}") from error
        async with self._lock:
            change = self._table.plan(route)
            cut = 0
            if self._changes_hands(change):  # shut out first, let in last: no moment with clients at both primaries
                cut = await self._put(msgspec.structs.replace(route, target_address=None))
            cut += await self._put(route)
        log.info("endpoint.route_put", endpoint_id=route.endpoint_id, epoch=route.epoch, target=route.target, cut=cut)
        return {"path": self._path_of(route), "cut": cut}

    async def remove_route(self, params: Any) -> dict[str, Any]:
        """Takes an endpoint away: its port refuses, its connections are cut. Nothing happens when it is unknown."""
        endpoint_id = params.get("endpoint_id") if isinstance(params, dict) else None
        if not isinstance(endpoint_id, str):
            raise Permanent("remove_route needs endpoint_id")
        async with self._lock:
            change = self._table.remove(endpoint_id)
            self._publish_names()
            cut = await self._relay.apply(change)
            known = change.previous is not None or endpoint_id in self._unfinished
            if known or self._kernel.is_astray(endpoint_id):
                self._unfinished.add(endpoint_id)
                await self._agree_kernel(endpoint_id)
                await self._save()
                self._unfinished.discard(endpoint_id)
                log.info("endpoint.route_removed", endpoint_id=endpoint_id, cut=cut)
        return {"cut": cut}

    async def routes(self, _: Any) -> list[dict[str, Any]]:
        """Every route with the path in use and whether its socket is open."""
        return [
            {
                **msgspec.to_builtins(route),
                "serving": self._path_of(route),
                "listening": self._relay.listens(route.endpoint_id),
            }
            for route in self._table.all()
        ]

    async def stats(self, _: Any) -> dict[str, Any]:
        """Counters per endpoint, what each pump carries, why the kernel path is not used (None: it is available), and
        how the DNS server is.
        """
        return {
            "endpoints": self._relay.counters(),
            "pumps": self._relay.pumps.state(),
            "kernel_unavailable": self._kernel_reason,
            "dns": None if self._dns is None else self._dns.state(),
        }

    async def ping(self, _: Any) -> bool:
        """The process is alive."""
        return True

    def _changes_hands(self, change: Change) -> bool:
        """Whether connections of an older epoch may exist that the route's new target must not meet."""
        route, previous = change.route, change.previous
        if route is None or previous is None or route.target is None:
            return False
        return route.epoch > previous.epoch or route.endpoint_id in self._unfinished

    async def _put(self, route: Route) -> int:
        change = self._table.plan(route)
        cut = await self._relay.apply(change)
        if change.previous != route:
            self._unfinished.add(route.endpoint_id)  # until all that follows is done too: a repeated order does it all
        self._table.put(route)
        self._publish_names()
        if route.endpoint_id in self._unfinished or not self._kernel.is_astray(route.endpoint_id):
            await self._agree_kernel(route.endpoint_id)
        await self._save()
        self._unfinished.discard(route.endpoint_id)
        return cut

    def _publish_names(self) -> None:
        if self._names is not None:
            self._serial = max(self._serial + 1, int(self._clock.wall()))
            self._names.replace(self._table.all(), serial=self._serial)

    def _path_of(self, route: Route) -> str:
        return "kernel" if self._kernel.carries(route.endpoint_id) else "relay"

    def _load(self) -> list[Route]:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=list[Route])
        except FileNotFoundError:
            return []
        except (msgspec.DecodeError, MainstayError) as error:
            aside = self._file.with_suffix(".unreadable")
            self._file.replace(aside)
            log.error("endpoint.table_unreadable", kept_as=str(aside), reason=str(error))
            return []  # the agent sends all routes again when it connects

    async def _save(self) -> None:
        content = msgspec.json.encode(self._table.all())
        await asyncio.to_thread(write_atomically, self._file, content)

    async def _listen_again(self, route: Route) -> bool:
        try:
            await self._relay.apply(Change(route, None))
        except MainstayError as error:
            log.error("endpoint.cannot_listen", endpoint_id=route.endpoint_id, reason=error.message, hint=error.hint)
            return False
        return True

    async def _keep_trying(self, endpoint_id: str) -> None:
        """A port that was taken at start may become free; the route may change or go meanwhile."""
        while True:
            await asyncio.sleep(limits.BIND_RETRY_INTERVAL_S)
            async with self._lock:
                route = self._table.get(endpoint_id)
                if route is None or self._relay.listens(endpoint_id) or await self._listen_again(route):
                    return

    async def _start_kernel(self) -> None:
        """Apart from the start, because the relay can serve at once and the trial takes a while."""
        async with self._lock:
            if self._kernel_wanted:
                self._kernel_reason = await self._kernel.unavailable()
            if self._kernel_reason is not None:
                log.info("endpoint.kernel_unavailable", reason=self._kernel_reason)
                await self._end_kernel()
                return
            try:
                await self._kernel.apply(self._table.all())
            except Transient as error:
                self._kernel_reason = f"nft refused the first table: {error.message}"
                await self._end_kernel()

    async def _end_kernel(self) -> None:
        """What a predecessor left must neither lead clients past the relay nor live on unseen."""
        try:
            await self._kernel.clear()
        except Transient as error:
            astray = [route.endpoint_id for route in self._table.all() if self._kernel.is_astray(route.endpoint_id)]
            if astray:
                log.error("endpoint.kernel_astray", reason=error.message, endpoints=astray, hint=_ASTRAY_HINT)

    async def _agree_kernel(self, endpoint_id: str) -> None:
        """Makes the kernel table agree with ours; without it the relay carries everything.

        Raises `Transient` while the kernel may have connections that this order must end, or lead clients elsewhere.
        """
        if self._kernel_reason is None:
            try:
                await self._kernel.apply(self._table.all())
            except Transient as error:
                log.error("endpoint.kernel_failed", endpoint_id=endpoint_id, reason=error.message)
                await self._clear_kernel(endpoint_id)
                self._kernel_reason = f"nft refused a change: {error.message}"
        elif self._kernel.is_astray(endpoint_id):
            await self._clear_kernel(endpoint_id)

    async def _clear_kernel(self, endpoint_id: str) -> None:
        """A stale translation would lead to a deposed primary: without it gone, the order has failed (`Transient`)."""
        try:
            await self._kernel.clear()
        except Transient as error:
            raise Transient(
                f"connections of {endpoint_id} that the kernel carries cannot be ended: {error.message}",
                retry_after_s=error.retry_after_s,
                hint=_ASTRAY_HINT,
            ) from error

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
