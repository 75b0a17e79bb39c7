"""What serves proxies: one process that is alone, or a worker of several (`worker.py`). Specs come from control, or
from the coordinator that has them from control.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import structlog

from mainstay.host.files import make_private_directory, write_atomically
from mainstay.host.rpc import Method, RpcClient, RpcServer
from mainstay.model.errors import MainstayError, Permanent
from mainstay.model.proxy import ProxySpec, ProxyUser
from mainstay.proxy.cancel_keys import Keys
from mainstay.proxy.listener import Listener
from mainstay.proxy.places import Places
from mainstay.proxy.service import Proxy, Sockets
from mainstay.settings import Settings

TIDY_S, QUIET_TIDY_S = 0.1, 0.25
"""While nobody waits for a connection nothing is due to the tenth of a second, and a look costs as much as a login."""

SLOWLY_S = 1.0
RETRY_S = 1.0
VERIFY_TIMEOUT_S = 10.0
log = structlog.get_logger()


class SpecFiles:
    """The specs of this host's proxies on disk, where a successor finds them with nobody else alive."""

    def __init__(self, settings: Settings) -> None:
        self.directory = settings.home / "proxy"
        make_private_directory(self.directory)

    def read(self) -> list[ProxySpec]:
        """All of them."""
        return [
            msgspec.json.decode(path.read_bytes(), type=ProxySpec) for path in sorted(self.directory.glob("*.json"))
        ]

    def write(self, spec: ProxySpec) -> None:
        """Durably."""
        write_atomically(self._path(spec.proxy_id), msgspec.json.encode(spec))

    def remove(self, proxy_id: str) -> None:
        """Nothing of it is left."""
        for path in (self._path(proxy_id), *self.directory.glob(f"tls*/{proxy_id}.*")):
            path.unlink(missing_ok=True)

    def _path(self, proxy_id: str) -> Path:
        return self.directory / f"{proxy_id}.json"


def spec_of(params: Any) -> ProxySpec:
    """A spec that came over a socket. Raises `Permanent` if it is none."""
    try:
        return msgspec.convert(params, ProxySpec)
    except msgspec.ValidationError as error:
        raise Permanent(f"not a proxy spec: {error}") from error


async def until_terminated() -> None:
    """Returns at SIGTERM or SIGINT."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await ended.wait()


class ProxyHost:
    """Proxies served by this process. `name` is its socket's; `tls` a directory of its own."""

    def __init__(self, settings: Settings, name: str, tls: Path, keys: Keys, sockets: Sockets) -> None:
        self._tls = tls
        self._keys = keys
        self._sockets = sockets
        self._proxies: dict[str, Proxy] = {}
        self._told: dict[str, Any] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._control = RpcClient(settings.runtime / "control.sock")
        self._server = RpcServer(
            settings.runtime / f"{name}.sock",
            self._methods(),
            on_connect=lambda: [{"topic": "proxies", "data": self._statuses()}],
        )

    def _methods(self) -> dict[str, Method]:
        return {
            "put_proxy": self.put_proxy,
            "proxies": self.proxies,
            "sessions": self.sessions,
            "stats": self.stats,
            "ping": self.ping,
        }

    async def run(self) -> None:
        """Until SIGTERM."""
        ended = asyncio.create_task(until_terminated())
        self._control.start()
        await self._server.start()
        tidying = asyncio.create_task(self._tidy())
        log.info("proxy.ready", proxies=len(self._proxies))
        await ended
        tidying.cancel()
        await self._server.stop()
        await self._control.stop()
        for proxy in self._proxies.values():
            proxy.stop()

    # What control asks

    async def put_proxy(self, params: Any) -> None:
        """Takes a spec: remembered durably, in force or being brought into force when this returns."""
        spec = spec_of(params)
        present = self._proxies.get(spec.proxy_id)
        if present is not None and spec.generation <= present.spec.generation:
            return
        if spec.absent:
            self._remove(spec.proxy_id)
            return
        self._remember(spec)
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
            proxy = Proxy(spec, self._tls, self._keys, self._verify_token, self._sockets)
            self._proxies[spec.proxy_id] = proxy
            self._made(proxy)
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
        self._applied(proxy)
        self._tell(proxy)

    def _remove(self, proxy_id: str) -> None:
        proxy = self._proxies.pop(proxy_id, None)
        if proxy is not None:
            proxy.stop()
        self._forget(proxy_id)
        self._told.pop(proxy_id, None)
        self._server.notify("gone", proxy_id)

    # What one that is alone and a worker do each in its own way

    def _remember(self, spec: ProxySpec) -> None:
        """Durably, if that is its part."""

    def _forget(self, proxy_id: str) -> None:
        """The proxy is deleted."""

    def _made(self, proxy: Proxy) -> None:
        """It is new here."""

    def _applied(self, proxy: Proxy) -> None:
        """Its spec is in force."""

    def _look(self) -> None:
        """Something else to do, about ten times a second while `_hurries`."""

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
        clock = asyncio.get_running_loop().time
        slowly_at = clock() + SLOWLY_S
        while True:
            await asyncio.sleep(TIDY_S if self._hurries() else QUIET_TIDY_S)
            slowly = clock() >= slowly_at
            for proxy in list(self._proxies.values()):
                with suppress(Exception):
                    proxy.tidy()
                    if slowly:
                        proxy.tidy_slowly()
                        self._tell(proxy)
            if slowly:
                slowly_at = clock() + SLOWLY_S
            self._look()

    def _hurries(self) -> bool:
        """Whether something may be due soon."""
        return any(proxy.target.waiters for proxy in self._proxies.values())

    def _tell(self, proxy: Proxy) -> None:
        """Tells control what has changed, counters aside."""
        status = proxy.status()
        shown = msgspec.structs.replace(status, metrics={"connected": bool(status.metrics["DatabaseConnections"])})
        if self._told.get(status.proxy_id) != shown:
            self._told[status.proxy_id] = shown
            self._server.notify("proxy", msgspec.to_builtins(status))


class ProxyProcess(ProxyHost):
    """Every RDS Proxy of this host. It serves its last specs again after a restart, with nobody else alive."""

    def __init__(self, settings: Settings) -> None:
        self._files = SpecFiles(settings)
        self._places = Places(settings, self._look_for_databases)
        super().__init__(settings, "proxy", self._files.directory / "tls", Keys(), Sockets())

    async def run(self) -> None:
        """See `ProxyHost.run`."""
        for spec in self._files.read():
            self._keep(spec)
        self._places.start()
        await super().run()
        await self._places.stop()

    def _remember(self, spec: ProxySpec) -> None:
        self._files.write(spec)

    def _forget(self, proxy_id: str) -> None:
        self._files.remove(proxy_id)

    def _applied(self, proxy: Proxy) -> None:
        self._look_for_database(proxy)

    def _look_for_databases(self) -> None:
        for proxy in self._proxies.values():
            self._look_for_database(proxy)

    def _look_for_database(self, proxy: Proxy) -> None:
        place, epoch = self._places.of(proxy.spec.target) or (None, proxy.target.database.epoch)
        proxy.target.moved(place, epoch)
