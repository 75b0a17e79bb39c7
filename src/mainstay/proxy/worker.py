"""One of several processes that serve the proxies of a host; see `coordinator.py`."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from typing import Any

import structlog

from mainstay.host.layout import down_marker, has_specs, worker_name
from mainstay.host.rpc import Method, RpcClient
from mainstay.model.errors import MainstayError
from mainstay.protocol.postgres.packets import CancelRequest
from mainstay.proxy.cancel_keys import Keys
from mainstay.proxy.lessee import Lessee
from mainstay.proxy.process import ProxyHost, SpecFiles
from mainstay.proxy.service import Proxy, Sockets
from mainstay.settings import Settings

CANCEL_TIMEOUT_S = 10.0
ORPHANED_S = 10.0
"""A worker without coordinator ends after so long if the service is down or there is no proxy any more."""

COORDINATOR_SOCKET = "proxy-leases.sock"
log = structlog.get_logger()


class _SharedSockets(Sockets):
    """Listening sockets that all workers share; the coordinator makes them."""

    def __init__(self, lessee: Lessee) -> None:
        self._lessee = lessee
        self.crowded = lambda: lessee.crowded

    async def listening(self, address: str, port: int) -> socket.socket:
        """See `Sockets`."""
        return await self._lessee.listening(address, port)

    def listens_no_more(self, address: str, port: int) -> None:
        """See `Sockets`."""
        self._lessee.listens_no_more(address, port)


class Worker(ProxyHost):
    """Serves every proxy of the host, with its share of their connections. `number` counts from 1."""

    def __init__(self, settings: Settings, number: int) -> None:
        self._settings = settings
        self._number = number
        self._others: dict[int, RpcClient] = {}
        keys = Keys(number, self._hand_on)
        self._lessee = Lessee(settings.runtime / COORDINATOR_SOCKET, number, lambda: len(keys.sessions))
        tls = SpecFiles(settings).directory / f"tls-{number}"
        super().__init__(settings, worker_name("proxy", number), tls, keys, _SharedSockets(self._lessee))

    def _methods(self) -> dict[str, Method]:
        return {**super()._methods(), "keep_proxies": self.keep_proxies, "cancel": self.cancel}

    async def run(self) -> None:
        """See `ProxyHost.run`."""
        keeping = asyncio.create_task(self._lessee.keep())
        await super().run()
        keeping.cancel()
        for client in self._others.values():
            await client.stop()

    async def keep_proxies(self, params: Any) -> None:
        """Which proxies there are: others go."""
        for proxy_id in [one for one in self._proxies if one not in params["proxy_ids"]]:
            self._remove(proxy_id)

    async def sessions(self, params: Any) -> Any:
        """See `ProxyHost`; each with this worker's number."""
        return [{**shown, "worker": self._number} for shown in await super().sessions(params)]

    async def cancel(self, params: Any) -> None:
        """A cancel request that came to another worker."""
        await self._keys.cancel(CancelRequest(process_id=params["process_id"], secret=bytes.fromhex(params["secret"])))

    async def _hand_on(self, worker: int, request: CancelRequest) -> None:
        """To the worker whose session it may mean. One that does not answer has no session that could be cancelled."""
        client = self._others.get(worker)
        if client is None:
            path = self._settings.runtime / f"{worker_name('proxy', worker)}.sock"
            if not path.exists():
                return
            client = self._others[worker] = RpcClient(path)
            client.start()
        params = {"process_id": request.process_id, "secret": request.secret.hex()}
        log.info("proxy.cancel_handed_on", to=worker)
        try:
            await client.call("cancel", params, timeout_s=CANCEL_TIMEOUT_S)
        except MainstayError as error:
            log.warning("proxy.cancel_not_handed_on", worker=worker, error=error.message)

    def _made(self, proxy: Proxy) -> None:
        self._lessee.share(proxy.target, proxy.spec.proxy_id)

    def _forget(self, proxy_id: str) -> None:
        self._lessee.forget(proxy_id)

    def _hurries(self) -> bool:
        return True  # what it needs and leaves of the connections that all share is told at once

    def _look(self) -> None:
        self._lessee.tell()
        since = self._lessee.away_since
        if since is None or asyncio.get_running_loop().time() - since < ORPHANED_S:
            return
        if down_marker(self._settings).exists() or not has_specs(self._settings, "proxy"):
            log.warning("proxy.worker_orphaned", worker=self._number)
            os.kill(os.getpid(), signal.SIGTERM)
