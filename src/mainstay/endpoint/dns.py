"""The sockets of the DNS server: UDP and TCP (RFC 7766) on one address and port; what is said is `names`' business.

Guarantees, tested in tests/unit/endpoint/test_dns.py: a place that cannot be had is reported, tried again, and never
keeps the endpoints from being served; a flood is dropped beyond `DNS_QUERIES_PER_S_MAX`; a TCP client that says
nothing, takes nothing or sends garbage is closed, and never more than `DNS_TCP_CONNECTIONS_MAX` are open.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from contextlib import suppress
from typing import Any

import structlog

from mainstay.endpoint import limits
from mainstay.endpoint.listeners import explained, family_of, listen
from mainstay.endpoint.names import Names
from mainstay.model.errors import MainstayError

_LENGTH_BYTES = 2  # before each message over TCP
_BURST_S = 0.1

log = structlog.get_logger()


class _Pace:
    """Lets `per_s` queries through each second, and no more than a tenth of that at once."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._room = self._room_max = per_s * _BURST_S
        self._at_s = 0.0

    def passes(self, now_s: float) -> bool:
        """Counts one query; False: there is no room for it now."""
        self._room = min(self._room_max, self._room + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        if self._room < 1:
            return False
        self._room -= 1
        return True


class DnsServer:
    """Serves a zone. Must be used from one event loop."""

    def __init__(
        self,
        names: Names,
        place: tuple[str, int],
        *,
        queries_per_s: float = limits.DNS_QUERIES_PER_S_MAX,
        idle_s: float = limits.DNS_TCP_IDLE_S,
        retry_interval_s: float = limits.DNS_BIND_RETRY_INTERVAL_S,
    ) -> None:
        self._names = names
        self._place = place
        self._pace = _Pace(queries_per_s)
        self._idle_s = idle_s
        self._retry_interval_s = retry_interval_s
        self._reason: str | None = "not started"
        self._counters: Counter[str] = Counter()
        self._gate = limits.LogGate()
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._retrying: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Serves from now on, or as soon as the place can be had."""
        if not await self._try():
            self._retrying = asyncio.create_task(self._keep_trying())

    async def stop(self) -> None:
        """Closes every socket."""
        if self._retrying is not None:
            self._retrying.cancel()
        if self._udp is not None:
            self._udp.close()
        if self._tcp is not None:
            self._tcp.close()
        clients = [*self._clients]
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        self._reason = "stopped"

    def state(self) -> dict[str, Any]:
        """Where it serves, why not (None: it does), and counters since start."""
        address, port = self._place
        return {"address": address, "port": port, "unavailable": self._reason, **self._counters}

    @property
    def open_streams(self) -> int:
        """TCP connections."""
        return len(self._clients)

    async def _try(self) -> bool:
        try:
            await self._bind()
        except MainstayError as error:
            if error.message != self._reason:
                log.error("endpoint.dns_cannot_listen", reason=error.message, hint=error.hint)
            self._reason = error.message
            return False
        self._reason = None
        log.info("endpoint.dns_ready", address=self._place[0], port=self._place[1])
        return True

    async def _keep_trying(self) -> None:
        while True:
            await asyncio.sleep(self._retry_interval_s)
            if await self._try():
                return

    async def _bind(self) -> None:
        """Both sockets or none. Raises `Permanent` or `Transient`."""
        loop = asyncio.get_running_loop()
        udp = _bound_udp(*self._place)
        try:
            tcp = listen(*self._place)
        except BaseException:
            udp.close()
            raise
        self._udp, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=udp)
        self._tcp = await asyncio.start_server(self._accept, sock=tcp, limit=limits.DNS_QUERY_BYTES_MAX)

    def on_datagram(self, message: bytes, sender: Any) -> None:
        """One query over UDP."""
        if self._udp is None or not self._paced():
            return
        answer = self._answer(message, udp=True)
        if answer is not None:
            self._udp.sendto(answer, sender)

    def _paced(self) -> bool:
        if self._pace.passes(asyncio.get_running_loop().time()):
            return True
        self._complain("over_the_rate")
        return False

    def _answer(self, message: bytes, *, udp: bool) -> bytes | None:
        try:
            answer = self._names.answer(message, udp=udp)
        except Exception:  # the outermost loop of a query: a defect must cost one answer, not the server
            log.exception("endpoint.dns_failed", query=message[: limits.DNS_UDP_BYTES_WITHOUT_EDNS].hex())
            answer = None
        self._counters["unanswered" if answer is None else "answered"] += 1
        return answer

    def _complain(self, name: str) -> None:
        self._counters[name] += 1
        held = self._gate.passes(name, "", asyncio.get_running_loop().time())
        if held is not None:
            log.warning(f"endpoint.dns_{name}", suppressed=held)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._clients) >= limits.DNS_TCP_CONNECTIONS_MAX:
            self._complain("connections_full")
            writer.close()
            return
        task = asyncio.current_task()
        if task is not None:
            self._clients.add(task)
            task.add_done_callback(self._clients.discard)
        try:
            # What it says is read only after it took what we said: a client that does not read fills no memory.
            while await self._converse(reader, writer):
                pass
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
            writer.transport.abort()  # gone, or idle for too long: what it did not take is not kept for it
        finally:
            writer.close()
            with suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(self._idle_s):
                    await writer.wait_closed()
            writer.transport.abort()  # else what it does not take of our last answer would be kept for ever

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One query over TCP; False: the client does not speak DNS, or there is no room for its query."""
        async with asyncio.timeout(self._idle_s):
            length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
            if length > limits.DNS_QUERY_BYTES_MAX:
                return False
            message = await reader.readexactly(length)
            answer = self._answer(message, udp=False) if self._paced() else None
            if answer is None:
                return False
            writer.write(len(answer).to_bytes(_LENGTH_BYTES, "big") + answer)
            await writer.drain()
        return True


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._server.on_datagram(data, addr)

    def error_received(self, exc: Exception) -> None:
        """A client that went away before its answer came; nothing to do."""


def _bound_udp(address: str, port: int) -> socket.socket:
    """Without SO_REUSEADDR: with it, another process of this user could bind the same place and take our queries."""
    bound = socket.socket(family_of(address), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        bound.bind((address, port))
    except OSError as error:
        with suppress(OSError):
            bound.close()
        raise explained(error, address, port, "udp") from error
    return bound
