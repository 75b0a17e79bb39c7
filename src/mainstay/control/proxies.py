"""The proxy process as control sees it, and the loop that keeps it to what the records say.

The process runs only while there is a proxy: control starts it for the first spec, the supervisor whenever it is
missing and has specs on disk, and control tells it to end when the last proxy has gone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import structlog

from mainstay.host.layout import SUPERVISOR, down_marker, has_specs, lock_path, spawn
from mainstay.host.locks import holder
from mainstay.host.rpc import RpcClient
from mainstay.model.db_proxy import DBProxy, GivenProxySpec
from mainstay.model.errors import MainstayError, Transient
from mainstay.model.proxy import ProxySpec, ProxyStatus
from mainstay.settings import Settings
from mainstay.store import Reader
from mainstay.workflows.db_proxy import CONVERGE_PROXY, request_convergence_in
from mainstay.workflows.engine import Tools
from mainstay.workflows.proxy_specs import wanted_spec

PROCESS = "proxy"
PUT_TIMEOUT_S = 10.0
SPAWN_AGAIN_S = 5.0
LOOK_INTERVAL_S = 5.0
DEBOUNCE_S = 0.1
REST_FACTOR = 10.0
"""After a look the keeper rests this many times as long as it took, so that many secrets never keep control busy."""

RETIRE_AFTER_S = 5.0
DEBUG_LOGGING_S = 24 * 3600.0
"""Debug logging switches itself off after so long (RDS user guide, "Creating an RDS Proxy")."""

log = structlog.get_logger()


class RpcProxies:
    """`ProxyFleet`. `on_change(proxy_id)` is called whenever something new is seen of a proxy."""

    def __init__(self, settings: Settings, on_change: Callable[[str], None]) -> None:
        self._settings = settings
        self._on_change = on_change
        self._seen: dict[str, ProxyStatus] = {}
        self._complete = False
        self._client: RpcClient | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._retired: list[subprocess.Popen[bytes]] = []  # told to end: their lock says whether they still serve
        self._spawned_at = float("-inf")

    @property
    def connected(self) -> bool:
        """Whether what is seen is seen now."""
        return self._complete

    def ensure(self) -> RpcClient:
        """Starts the process if nobody runs it or will, and keeps a connection to it from now on."""
        self._reap()
        now = asyncio.get_running_loop().time()
        if self._child is None and now - self._spawned_at > SPAWN_AGAIN_S and self._is_ours_to_start():
            self._spawned_at = now
            self._child = spawn(self._settings, PROCESS)
            log.info("proxy.started", pid=self._child.pid)
        if self._client is None:
            socket = self._settings.runtime / "proxy.sock"
            self._client = RpcClient(socket, on_notice=self._notice, on_state=self._state)
            self._client.start()
        return self._client

    async def retire(self) -> None:
        """Ends the process and the connection; without either it does nothing."""
        await self.stop()
        pid = holder(lock_path(self._settings, PROCESS))
        if pid is not None:
            log.info("proxy.retired", pid=pid)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            if self._child is not None and self._child.pid == pid:
                self._retired.append(self._child)
                self._child = None
        self._spawned_at = float("-inf")
        self._reap()

    async def stop(self) -> None:
        """Ends the connection; the process goes on."""
        client, self._client = self._client, None
        if client is not None:
            await client.stop()
        self._complete = False
        self._seen.clear()

    async def put_proxy(self, spec: ProxySpec) -> None:
        await self.ensure().call("put_proxy", msgspec.to_builtins(spec), timeout_s=PUT_TIMEOUT_S)

    def observe(self, proxy_id: str) -> ProxyStatus | None:
        if not self._complete:
            raise Transient("the proxy process is not connected", retry_after_s=0.2)
        return self._seen.get(proxy_id)

    def last_seen(self, proxy_id: str) -> ProxyStatus | None:
        return self._seen.get(proxy_id)

    def _is_ours_to_start(self) -> bool:
        settings = self._settings
        if down_marker(settings).exists() or holder(lock_path(settings, PROCESS)) is not None:
            return False
        return not has_specs(settings, PROCESS) or holder(lock_path(settings, SUPERVISOR)) is None

    def _reap(self) -> None:
        self._retired = [child for child in self._retired if child.poll() is None]
        if self._child is not None and self._child.poll() is not None:
            self._child = None

    def _state(self, connected: bool) -> None:
        if not connected:
            self._complete = False

    def _notice(self, topic: str, data: Any) -> None:
        if topic == "proxies":
            statuses = {status.proxy_id: status for status in msgspec.convert(data, list[ProxyStatus])}
            changed = {*statuses, *self._seen}
            self._seen, self._complete = statuses, True
            for proxy_id in changed:
                self._on_change(proxy_id)
        elif topic == "proxy":
            status = msgspec.convert(data, ProxyStatus)
            self._seen[status.proxy_id] = status
            self._on_change(status.proxy_id)
        elif topic == "gone" and self._seen.pop(str(data), None) is not None:
            self._on_change(str(data))


class ProxyKeeper:
    """Looks after every API call, and every few seconds, whether each proxy is given what its records say.

    So a rotated secret, a changed role, policy or security group, a deleted instance and a proxy process that lost its
    specs all end in a new spec, without any of them knowing of proxies.
    """

    def __init__(self, tools: Tools, proxies: RpcProxies, wake: Callable[[], None]) -> None:
        self._tools = tools
        self._proxies = proxies
        self._wake = wake
        self._poke = asyncio.Event()
        self._unused_since: float | None = None

    def poke(self) -> None:
        """Something may have changed."""
        self._poke.set()

    async def run(self) -> None:
        """Forever."""
        while True:
            self._poke.clear()
            started = asyncio.get_running_loop().time()
            try:
                await self._look()
            except MainstayError as error:
                log.error("proxies.not_kept", error=error.message)
            except Exception:  # the outermost loop: whatever it was is tried again, visibly
                log.exception("proxies.unexpected")
            lasted_s = asyncio.get_running_loop().time() - started
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_INTERVAL_S):
                    await self._poke.wait()
            await asyncio.sleep(max(DEBOUNCE_S, REST_FACTOR * lasted_s))

    async def _look(self) -> None:
        with self._tools.store.read() as view:
            proxies = view.scan(DBProxy)
        drifted = []
        for proxy in proxies:
            await asyncio.sleep(0)  # requests come between
            try:
                with self._tools.store.read() as view:
                    present = view.get(DBProxy, proxy.scope, proxy.db_proxy_id)
                    if present is not None and self._drifted(view, present):
                        drifted.append(present)
            except MainstayError as error:  # its trouble must not leave the others alone
                log.error("proxies.not_kept", proxy=proxy.db_proxy_name, error=error.message)
        now = self._tools.clock.wall()
        loud = [one for one in proxies if one.debug_logging and now - one.debug_logging_since > DEBUG_LOGGING_S]
        if proxies:
            self._proxies.ensure()
        await self._retire_unused(bool(proxies))
        if not drifted and not loud:
            return
        with self._tools.store.transaction() as tx:
            for proxy in loud:
                present = tx.get(DBProxy, proxy.scope, proxy.db_proxy_id)
                if present is not None:
                    tx.put(msgspec.structs.replace(present, debug_logging=False, debug_logging_since=0.0))
            for proxy in (*drifted, *loud):
                present = tx.get(DBProxy, proxy.scope, proxy.db_proxy_id)
                if present is not None:
                    request_convergence_in(tx, now, present)
        self._wake()

    def _drifted(self, view: Reader, proxy: DBProxy) -> bool:
        """Whether the proxy needs a workflow and has none; one under way looks at the records by itself."""
        if any(job.program == CONVERGE_PROXY.name for job in view.jobs(proxy.subject)):
            return False
        given = view.get(GivenProxySpec, proxy.scope, proxy.db_proxy_id)
        if proxy.change or given is None or wanted_spec(view, self._tools, proxy, given) != given:
            return True
        if not self._proxies.connected:
            return False
        seen = self._proxies.last_seen(proxy.db_proxy_id)
        if seen is None:
            return True
        in_effect = seen.generation >= given.spec.generation
        return not seen.failure and (not in_effect or bool(proxy.failure))

    async def _retire_unused(self, used: bool) -> None:
        now = asyncio.get_running_loop().time()
        if used:
            self._unused_since = None
        elif self._unused_since is None:
            self._unused_since = now
        elif now - self._unused_since >= RETIRE_AFTER_S:
            await self._proxies.retire()
