"""The process `proxy` where several workers serve: it gives them their specs, sockets and connections, and speaks for
them to control.

No client's byte passes here. Killed, it is replaced by the supervisor's next one while the workers go on with what they
have; what they hold they tell it, and it grants nothing before every worker that lives has done so.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from contextlib import suppress
from typing import Any

import msgspec
import structlog

from mainstay.host.rpc import RpcClient, RpcServer
from mainstay.model.errors import MainstayError, Permanent, Transient
from mainstay.model.proxy import ProxySpec, ProxyStatus
from mainstay.proxy.channel import Ended, Holds, Knows, Message, Needs, Opened
from mainstay.proxy.lessor import Lessor
from mainstay.proxy.places import Places
from mainstay.proxy.process import SpecFiles, spec_of, until_terminated
from mainstay.proxy.summing import as_one, counted, summed
from mainstay.proxy.workforce import WorkerSeen, Workforce
from mainstay.settings import Settings

LOOK_S = 0.05
REFRESH_EVERY = 100
"""So many looks between two of all counters; what a worker has counted since is lost if it is killed."""

CALL_TIMEOUT_S = 5.0
log = structlog.get_logger()


class Coordinator:
    """One host's proxies, served by `count` workers."""

    def __init__(self, settings: Settings, count: int) -> None:
        self._settings = settings
        self._files = SpecFiles(settings)
        self._specs: dict[str, ProxySpec] = {}
        self._lessors: dict[str, Lessor] = {}
        self._closing: list[Lessor] = []
        self._numbers = itertools.count(time.time_ns())  # never one that a worker holds from a coordinator of before
        self._workforce = Workforce(settings, count, self)
        self._ended_counts: dict[str, dict[str, float]] = {}
        self._told: dict[str, Any] = {}
        self._places = Places(settings, self._placed)
        self._server = RpcServer(
            settings.runtime / "proxy.sock",
            {
                "put_proxy": self.put_proxy,
                "proxies": self.proxies,
                "sessions": self.sessions,
                "stats": self.stats,
                "ping": self.ping,
            },
            on_connect=lambda: [{"topic": "proxies", "data": self._statuses()}],
        )

    async def run(self) -> None:
        """Until SIGTERM, which ends the workers too."""
        ended = asyncio.create_task(until_terminated())
        for spec in self._files.read():
            self._take(spec)
        self._places.start()
        await self._server.start()
        self._workforce.start()
        looking = asyncio.create_task(self._look())
        log.info("proxy.ready", proxies=len(self._specs))
        await ended
        looking.cancel()
        await self._server.stop()
        await self._places.stop()
        await self._workforce.stop()

    @property
    def _workers(self) -> list[WorkerSeen]:
        return list(self._workforce.seen.values())

    # What control asks

    async def put_proxy(self, params: Any) -> None:
        """As `ProxyHost.put_proxy`; every worker that answers has it when this returns, the others get it."""
        spec = spec_of(params)
        present = self._specs.get(spec.proxy_id)
        if present is not None and spec.generation <= present.generation:
            return
        if spec.absent:
            self._remove(spec.proxy_id)
        else:
            self._files.write(spec)
            self._take(spec)
        await asyncio.gather(*(self._give(worker, spec) for worker in self._workers))
        wanted = {(one.address, one.port) for kept in self._specs.values() for one in kept.listeners}
        self._workforce.close_sockets(wanted)  # workers have closed theirs

    async def _give(self, worker: WorkerSeen, spec: ProxySpec) -> None:
        if worker.rpc is None:
            return
        try:
            await worker.rpc.call("put_proxy", msgspec.to_builtins(spec), timeout_s=CALL_TIMEOUT_S)
        except MainstayError as error:  # it is told again when it is back
            log.warning("proxy.worker_not_told", worker=worker.number, proxy_id=spec.proxy_id, error=error.message)

    async def proxies(self, _params: Any) -> Any:
        """Every proxy's status."""
        await asyncio.gather(*(self._refresh(worker) for worker in self._workers))
        return self._statuses()

    async def _refresh(self, worker: WorkerSeen) -> None:
        if worker.rpc is not None:
            with suppress(MainstayError):
                found = await worker.rpc.call("proxies", timeout_s=CALL_TIMEOUT_S)
                self.noticed(worker, "proxies", found)

    async def sessions(self, params: Any) -> Any:
        """Client sessions of a proxy, of all workers."""
        return [one for found in await self._ask_all("sessions", params) for one in found]

    async def stats(self, params: Any) -> Any:
        """Counters and gauges of a proxy, of all workers together."""
        proxy_id = self._known(params)
        found = await self._ask_all("stats", params)
        return summed([*found, self._ended_counts.get(proxy_id, {})], self._allowed(proxy_id))

    async def ping(self, _params: Any) -> bool:
        """The process is alive, and so is a worker."""
        if not any(worker.settled for worker in self._workers):
            raise Transient("no worker is there yet", retry_after_s=0.2)
        return True

    async def _ask_all(self, method: str, params: Any) -> list[Any]:
        proxy_id = self._known(params)

        async def ask(rpc: RpcClient) -> Any:
            with suppress(MainstayError):  # it has just ended, or has not got the proxy yet
                return await rpc.call(method, {"proxy_id": proxy_id}, timeout_s=CALL_TIMEOUT_S)

        found = await asyncio.gather(*(ask(one.rpc) for one in self._workers if one.rpc is not None))
        return [one for one in found if one is not None]

    def _known(self, params: Any) -> str:
        proxy_id = params.get("proxy_id", "") if isinstance(params, dict) else ""
        if proxy_id not in self._specs:
            raise Permanent("there is no such proxy on this host")
        return str(proxy_id)

    def _allowed(self, proxy_id: str) -> int:
        lessor = self._lessors[proxy_id]
        return lessor.budget if lessor.max_connections else 0

    def _status(self, proxy_id: str) -> ProxyStatus:
        statuses = [one.statuses[proxy_id] for one in self._workers if proxy_id in one.statuses]
        metrics = [*(one.metrics for one in statuses), self._ended_counts.get(proxy_id, {})]
        return as_one(proxy_id, statuses, summed(metrics, self._allowed(proxy_id)))

    def _statuses(self) -> Any:
        return [msgspec.to_builtins(self._status(proxy_id)) for proxy_id in self._specs]

    def _tell_control(self, proxy_id: str) -> None:
        """What has changed, counters aside."""
        status = self._status(proxy_id)
        shown = msgspec.structs.replace(status, metrics={})
        if self._told.get(proxy_id) != shown:
            self._told[proxy_id] = shown
            self._server.notify("proxy", msgspec.to_builtins(status))

    # Specs

    def _take(self, spec: ProxySpec) -> None:
        self._specs[spec.proxy_id] = spec
        lessor = self._lessors.get(spec.proxy_id)
        if lessor is None:
            lessor = self._lessors[spec.proxy_id] = Lessor(spec.proxy_id, self._workforce.tell, self._numbers)
            lessor.known = not self._workforce.expected
            for worker in self._workers:
                if worker.settled:
                    lessor.joined(worker.number)
        self._place(lessor, spec)
        lessor.configure(spec.pool.max_connections_percent, spec.pool.max_idle_connections_percent)

    def _remove(self, proxy_id: str) -> None:
        self._files.remove(proxy_id)
        self._specs.pop(proxy_id, None)
        self._told.pop(proxy_id, None)
        self._ended_counts.pop(proxy_id, None)
        lessor = self._lessors.pop(proxy_id, None)
        if lessor is not None:
            lessor.close()
            self._closing.append(lessor)
        self._server.notify("gone", proxy_id)

    def _placed(self) -> None:
        for proxy_id, lessor in self._lessors.items():
            self._place(lessor, self._specs[proxy_id])

    def _place(self, lessor: Lessor, spec: ProxySpec) -> None:
        if self._places.known:
            place, epoch = self._places.of(spec.target) or (None, lessor.epoch)
            lessor.moved(place, epoch)

    # What becomes of workers: see `Overseer`

    def joined(self, worker: WorkerSeen) -> None:
        """See `Overseer`."""
        for lessor in self._lessors.values():
            lessor.joined(worker.number)

    def settled(self, worker: WorkerSeen) -> None:
        """See `Overseer`."""
        for lessor in self._lessors.values():
            lessor.settled(worker.number)

    def all_known(self) -> None:
        """See `Overseer`."""
        for lessor in self._lessors.values():
            lessor.known = True
            lessor.plan()

    async def connected(self, worker: WorkerSeen) -> None:
        """See `Overseer`."""
        if worker.rpc is None:
            return
        with suppress(MainstayError):
            await worker.rpc.call("keep_proxies", {"proxy_ids": list(self._specs)}, timeout_s=CALL_TIMEOUT_S)
        for spec in list(self._specs.values()):
            await self._give(worker, spec)

    def noticed(self, worker: WorkerSeen, topic: str, data: Any) -> None:
        """See `Overseer`."""
        if topic == "proxies":
            statuses = msgspec.convert(data, list[ProxyStatus])
        elif topic == "proxy":
            statuses = [msgspec.convert(data, ProxyStatus)]
        else:
            worker.statuses.pop(str(data), None)
            return
        for status in statuses:
            worker.statuses[status.proxy_id] = status
            if status.proxy_id in self._specs:
                self._tell_control(status.proxy_id)

    def died(self, worker: WorkerSeen) -> None:
        """See `Overseer`."""
        for proxy_id, status in worker.statuses.items():
            if proxy_id in self._specs:
                counts = [self._ended_counts.get(proxy_id, {}), counted(status.metrics)]
                self._ended_counts[proxy_id] = counted(summed(counts, 0))
        for lessor in (*self._lessors.values(), *self._closing):
            lessor.died(worker.number)

    def said(self, worker: WorkerSeen, message: Message, carried: socket.socket | None) -> None:
        """See `Overseer`."""
        number = worker.number
        if isinstance(message, Holds) and carried is not None:
            lessor = self._lessors.get(message.proxy_id)
            if lessor is None:  # of a proxy that is no more: only to see its end
                lessor = Lessor(message.proxy_id, self._workforce.tell, self._numbers)
                self._closing.append(lessor)
            lessor.adopt(number, message, carried)
            return
        for lessor in (*self._lessors.values(), *self._closing):
            if isinstance(message, Ended):
                lessor.ended(number, message)
            elif isinstance(message, Opened):
                lessor.opened(number, message)
            elif isinstance(message, Needs) and lessor.proxy_id == message.proxy_id:
                lessor.needs(number, message)
            elif isinstance(message, Knows) and lessor.proxy_id == message.proxy_id:
                lessor.known_limit(message)

    # Now and then

    async def _look(self) -> None:
        turn = 0
        while True:
            await asyncio.sleep(LOOK_S)
            turn += 1
            for lessor in (*self._lessors.values(), *self._closing):
                lessor.look()
            self._closing = [one for one in self._closing if not one.closed]
            self._workforce.tell_crowd()
            if turn % REFRESH_EVERY == 0:
                await asyncio.gather(*(self._refresh(worker) for worker in self._workers))
