"""Wiring of the proxy process: specs come from control, the place of each database from the agent."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import structlog

from mainstay.host.files import make_private_directory, write_atomically
from mainstay.host.rpc import RpcClient, RpcServer
from mainstay.model.errors import MainstayError, Permanent
from mainstay.model.node import NodePhase, NodeRole, NodeStatus
from mainstay.model.proxy import ProxySpec, ProxyUser
from mainstay.proxy.service import Keys, Listener, Proxy
from mainstay.settings import Settings

TIDY_S = 0.1
SLOWLY = 10
RETRY_S = 1.0
VERIFY_TIMEOUT_S = 10.0
log = structlog.get_logger()


class ProxyProcess:
    """Every RDS Proxy of this host. It serves its last specs again after a restart, with nobody else alive."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._directory = settings.home / "proxy"
        make_private_directory(self._directory)
        self._keys = Keys()
        self._proxies: dict[str, Proxy] = {}
        self._nodes: dict[str, NodeStatus] = {}
        self._told: dict[str, Any] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._agent = RpcClient(settings.runtime / "agent.sock", on_notice=self._agent_notice)
        self._control = RpcClient(settings.runtime / "control.sock")
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
        """Until SIGTERM."""
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        for path in sorted(self._directory.glob("*.json")):
            self._keep(msgspec.json.decode(path.read_bytes(), type=ProxySpec))
        self._agent.start()
        self._control.start()
        await self._server.start()
        tidying = asyncio.create_task(self._tidy())
        log.info("proxy.ready", proxies=len(self._proxies))
        await ended.wait()
        tidying.cancel()
        await self._server.stop()
        await self._agent.stop()
        await self._control.stop()
        for proxy in self._proxies.values():
            proxy.stop()

    # What control asks

    async def put_proxy(self, params: Any) -> None:
        """Takes a spec: remembered durably, in force or being brought into force when this returns."""
        try:
            spec = msgspec.convert(params, ProxySpec)
        except msgspec.ValidationError as error:
            raise Permanent(f"not a proxy spec: {error}") from error
        present = self._proxies.get(spec.proxy_id)
        if present is not None and spec.generation <= present.spec.generation:
            return
        if spec.absent:
            self._remove(spec.proxy_id)
            return
        write_atomically(self._path(spec.proxy_id), msgspec.json.encode(spec))
        self._keep(spec)

    async def proxies(self, _params: Any) -> Any:
        """Every proxy's status."""
        return self._statuses()

    async def sessions(self, params: Any) -> Any:
        """Client sessions of a proxy."""
        return self._known(params).sessions_shown()

    async def stats(self, params: Any) -> Any:
        """Counters and gauges of a proxy."""
        return self._known(params).stats()

    async def ping(self, _params: Any) -> bool:
        """The process is alive."""
        return True

    def _known(self, params: Any) -> Proxy:
        proxy = self._proxies.get(params.get("proxy_id", "")) if isinstance(params, dict) else None
        if proxy is None:
            raise Permanent("there is no such proxy on this host")
        return proxy

    def _statuses(self) -> Any:
        return [msgspec.to_builtins(proxy.status()) for proxy in self._proxies.values()]

    def _keep(self, spec: ProxySpec) -> None:
        proxy = self._proxies.get(spec.proxy_id)
        if proxy is None:
            proxy = Proxy(spec, self._directory / "tls", self._keys, self._verify_token)
            self._proxies[spec.proxy_id] = proxy
        task = asyncio.create_task(self._apply(proxy, spec))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _apply(self, proxy: Proxy, spec: ProxySpec) -> None:
        while self._proxies.get(spec.proxy_id) is proxy and proxy.spec.generation <= spec.generation:
            try:
                await proxy.apply(spec)
            except (MainstayError, OSError) as error:
                proxy.failure = str(error)
                log.error("proxy.spec_failed", proxy_id=spec.proxy_id, error=str(error))
                await asyncio.sleep(RETRY_S)
                continue
            break
        self._look_for_database(proxy)
        self._tell(proxy)

    def _remove(self, proxy_id: str) -> None:
        proxy = self._proxies.pop(proxy_id, None)
        if proxy is not None:
            proxy.stop()
        for path in (self._path(proxy_id), *(self._directory / "tls").glob(f"{proxy_id}.*")):
            path.unlink(missing_ok=True)
        self._told.pop(proxy_id, None)
        self._server.notify("gone", proxy_id)

    def _path(self, proxy_id: str) -> Path:
        return self._directory / f"{proxy_id}.json"

    # What the agent tells

    def _agent_notice(self, topic: str, data: Any) -> None:
        if topic == "nodes":
            self._nodes = {status.node_id: status for status in msgspec.convert(data, list[NodeStatus])}
        elif topic == "node":
            status = msgspec.convert(data, NodeStatus)
            self._nodes[status.node_id] = status
        elif topic == "gone":
            self._nodes.pop(str(data), None)
        for proxy in self._proxies.values():
            self._look_for_database(proxy)

    def _look_for_database(self, proxy: Proxy) -> None:
        """The socket of the node that leads the target now; nowhere while none is ready."""
        target = proxy.spec.target
        for node in self._nodes.values():
            leads = node.role is NodeRole.PRIMARY and node.phase is NodePhase.RUNNING
            if node.dbi_resource_id == target and leads and (node.pair is None or node.pair.primary == node.node_id):
                epoch = 1 if node.pair is None else node.pair.epoch
                path = self._settings.runtime / "nodes" / node.node_id / f".s.PGSQL.{node.port}"
                proxy.target.moved(str(path), epoch)
                return
        proxy.target.moved(None, proxy.target.database.epoch)

    # Tokens

    async def _verify_token(self, token: str, user: ProxyUser, listener: Listener) -> bool:
        """Asks control, which knows the keys and the policies. Without it nobody logs in with a token."""
        question = {
            "token": token,
            "username": user.username,
            "resource_id": listener.proxy_id,
            "hosts": [listener.spec.address, listener.spec.name],
            "port": listener.spec.port,
            "region": listener.region,
        }
        try:
            answer = await self._control.call("verify_database_token", question, timeout_s=VERIFY_TIMEOUT_S)
        except MainstayError as error:
            log.error("proxy.token_not_verified", user=user.username, error=error.message)
            return False
        if not answer["allowed"]:
            log.info("proxy.token_refused", user=user.username, reason=answer["reason"])
        return bool(answer["allowed"])

    # Now and then

    async def _tidy(self) -> None:
        turn = 0
        while True:
            await asyncio.sleep(TIDY_S)
            turn += 1
            for proxy in list(self._proxies.values()):
                with suppress(Exception):
                    proxy.tidy()
                    if turn % SLOWLY == 0:
                        proxy.tidy_slowly()
                        self._tell(proxy)

    def _tell(self, proxy: Proxy) -> None:
        """Tells control what has changed, counters aside."""
        status = proxy.status()
        shown = msgspec.structs.replace(status, metrics={})
        if self._told.get(status.proxy_id) != shown:
            self._told[status.proxy_id] = shown
            self._server.notify("proxy", msgspec.to_builtins(status))
