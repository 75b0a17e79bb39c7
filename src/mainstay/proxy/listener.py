"""One endpoint of a proxy: who is at its door, and whom it lets in. What logins need of their proxy they ask here."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable, Coroutine
from functools import lru_cache
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from mainstay.host.files import make_private_directory, write_atomically
from mainstay.model.proxy import ProxyListener, ProxyUser
from mainstay.protocol.postgres.packets import CancelRequest
from mainstay.protocol.postgres.scram import end_point_hash
from mainstay.proxy.accepting import Acceptor
from mainstay.proxy.login import ALPN, Login, VerifyToken
from mainstay.proxy.loop import running_poller
from mainstay.proxy.metrics import Metrics
from mainstay.proxy.pool import Pool
from mainstay.proxy.session import ClientSession

if TYPE_CHECKING:
    from mainstay.proxy.service import Proxy

LOGINS_MAX = 1000
"""Connections of one endpoint that are not logged in yet; beyond it the longest known one goes."""


class Listener:
    """One endpoint of a proxy."""

    def __init__(self, proxy: Proxy, spec: ProxyListener, directory: Path) -> None:
        self.spec = spec
        self._logins: dict[Login, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.verify_token: VerifyToken = proxy.verify_token
        self._proxy = proxy
        self._acceptor: Acceptor | None = None
        self.tls, self.end_point = secured(spec, directory)

    @property
    def name(self) -> str:
        """For log lines."""
        return self.spec.endpoint_id

    @property
    def metrics(self) -> Metrics:
        """The proxy's."""
        return self._proxy.metrics

    @property
    def proxy_id(self) -> str:
        """What IAM policies name."""
        return self._proxy.spec.proxy_id

    @property
    def region(self) -> str:
        """The proxy's."""
        return self._proxy.spec.region

    @property
    def require_tls(self) -> bool:
        """Whether plain connections are refused."""
        return self._proxy.spec.require_tls

    @property
    def read_only(self) -> bool:
        """Whether its sessions begin with transactions that only read."""
        return self.spec.read_only

    def start(self, listening: socket.socket, crowded: Callable[[], bool] | None = None) -> None:
        """Takes clients in. `crowded`: others listen there too, and should take the next one if it says so."""
        poller = running_poller()
        self._acceptor = Acceptor(poller, listening, lambda fd, address: Login(self, poller, fd, address), crowded)

    def stop(self) -> None:
        """Takes no one in any more."""
        if self._acceptor is not None:
            self._acceptor.close()
        for login in list(self._logins):
            login.abort()

    def arrived(self, login: Login) -> None:
        """A connection that nobody knows yet; there are at most `LOGINS_MAX` of them."""
        self.metrics.add("ClientConnectionsReceived")
        if len(self._logins) >= LOGINS_MAX:
            oldest = next(iter(self._logins))
            del self._logins[oldest]
            oldest.abort()
        self._logins[login] = None

    def known(self, login: Login) -> None:
        """It has said who it is, or is gone."""
        self._logins.pop(login, None)

    def tidy(self) -> None:
        """Ends logins that take too long."""
        now = monotonic()
        for login in list(self._logins):
            if login.deadline_at <= now:
                login.abort()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """What a login must ask of others."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def admits(self, address: str) -> bool:
        """Whether the security groups let this client in."""
        return _admits(self.spec.admits, address)

    def user(self, name: str) -> ProxyUser | None:
        """The user of this name, if a secret has its password."""
        return self._proxy.users.get(name)

    def pool(self, user: ProxyUser, database: str) -> Pool:
        """Where its sessions get their connections."""
        return self._proxy.target.pool(user, database)

    def present_pool(self, user: ProxyUser, database: str) -> Pool | None:
        """That one, if it has been made."""
        return self._proxy.target.pools.get((user.username, database))

    def new_key(self, secret_bytes: int) -> tuple[int, bytes]:
        """A cancel key."""
        return self._proxy.keys.new(secret_bytes)

    async def cancel(self, request: CancelRequest) -> None:
        """See `Keys.cancel`."""
        await self._proxy.keys.cancel(request)

    def entered(self, session: ClientSession) -> None:
        """A client was let in."""
        session.pool.target.entered(session)


@lru_cache(maxsize=256)
def _networks(admits: tuple[str, ...]) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.ip_network(cidr, strict=False) for cidr in admits)


@lru_cache(maxsize=4096)
def _admits(admits: tuple[str, ...], address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return any((mapped or found) in network for network in _networks(admits))


def secured(spec: ProxyListener, directory: Path) -> tuple[ssl.SSLContext, bytes]:
    """One context for all clients of a listener, and the hash of its certificate for channel binding."""
    make_private_directory(directory)
    certificate, key = directory / f"{spec.endpoint_id}.crt", directory / f"{spec.endpoint_id}.key"
    write_atomically(certificate, spec.certificate.certificate_pem.encode())
    write_atomically(key, spec.certificate.private_key_pem.encode())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    finally:
        for path in (certificate, key):  # the spec has them; a key that nobody needs is not left lying about
            path.unlink()
    context.set_alpn_protocols([ALPN])
    context.num_tickets = 0  # as PostgreSQL: no client resumes a session
    parsed = x509.load_pem_x509_certificate(spec.certificate.certificate_pem.encode())
    algorithm = parsed.signature_hash_algorithm
    der = parsed.public_bytes(serialization.Encoding.DER)
    return context, end_point_hash(der, "sha256" if algorithm is None else algorithm.name)
