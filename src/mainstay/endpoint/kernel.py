"""The kernel path: clients of an endpoint address are translated to the engine by nftables, no byte passes through us.

One private table holds everything (`nftables`). A change of it is one transaction, so there is never a moment with half
of one, and leaves alone what it is not about. Whom it does not lead to an engine, because the access list or a change
that is just being made says so, reaches the relay's listening socket, which stays open below and judges for itself.

A flow keeps the translation it began with, even without the table; therefore each carries a mark for the epoch and
target it was made under. No packet of a flow whose mark is not live passes any more, in neither direction
(by rule), and its client's socket is reset at once (by `ss -K`). Marks are computed, not counted: a restarted process
knows those of its predecessor, and which there were (`carried`).

Only for clients on this machine: a loopback address cannot be reached from another one, and the kernel drops what it
would have to translate from outside to an engine's loopback address. IPv6, and endpoints of `endpoint_network`, are the
relay's. Needs root (CAP_NET_ADMIN), `nft`, `ss` and a kernel with NAT that can reset connections on request;
`unavailable()` finds out by doing. The number of connections is limited by the engine alone, and there is no wait for
a primary: while an endpoint has no target its clients reach the relay.
Verified in tests/unit/endpoint/test_kernel.py.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import socket
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import structlog

from mainstay.endpoint.carried import Carried, CarriedFile
from mainstay.endpoint.commands import run
from mainstay.endpoint.nftables import Flow, NftablesTable
from mainstay.model.errors import Transient
from mainstay.model.route import Route

_PROBE_ADDRESS = "127.95.255.254"  # outside the range of endpoints and that of engines
_PROBE_TIMEOUT_S = 2.0
_SS_OPTIONS = ("-H", "-t", "-n")
_SOCKETS_PER_RESET = 100  # what fits into one filter of the kernel's

_Place = tuple[str, int]

log = structlog.get_logger()


def mark_of(prefix: int, route: Route, target: tuple[str, int]) -> int:
    """Upper half: whose table; lower half: which endpoint, epoch and target. Never zero in the lower half."""
    text = f"{route.endpoint_id}\n{route.epoch}\n{target}"
    low = int.from_bytes(hashlib.sha256(text.encode()).digest()[:2], "big") or 1
    return prefix << 16 | low


class Kernel:
    """The table of one endpoint process. Calls must not overlap."""

    def __init__(self, identity: str, file: Path | None = None) -> None:
        """`identity` tells this service from others on the machine, for example its home directory."""
        digest = hashlib.sha256(identity.encode()).digest()
        self._prefix = int.from_bytes(digest[:2], "big") | 0x8000  # set, so that it never equals an unmarked flow
        self._table = NftablesTable(f"mainstay_{digest.hex()[:10]}", self._prefix)
        self._flows: dict[str, Flow] = {}
        self._file = CarriedFile(file)
        self._carried: frozenset[Carried] = frozenset()  # all that may have connections, as the file says
        self._unreset: frozenset[Carried] = frozenset()  # of those: cut by the rule, but not reset
        self._in_force = False  # the table is one that this process wrote

    @property
    def table(self) -> str:
        """Its name."""
        return self._table.name

    def load(self, routes: Iterable[Route]) -> None:
        """Learns what a predecessor left in the kernel; `routes` are its last ones."""
        self._carried = self._file.load(routes)

    async def unavailable(self) -> str | None:
        """Why the kernel path cannot be used here, None when a trial connection went through it and could be cut."""
        if os.geteuid() != 0:
            return "needs root"
        for program, package in (("nft", "nftables"), ("ss", "iproute2")):
            if shutil.which(program) is None:
                return f"the program {program} is not installed (package {package})"
        try:
            await self._probe()
        except (Transient, OSError, TimeoutError) as error:
            return f"a trial connection through nftables failed: {error or 'no answer'}"
        return None

    async def apply(self, routes: Iterable[Route]) -> None:
        """Makes the table serve exactly these routes and cuts flows that do not survive. Raises `Transient`."""
        possible = ((route.endpoint_id, self._flow(route)) for route in routes if _possible(route))
        flows = {endpoint_id: flow for endpoint_id, flow in possible if flow is not None}
        live = frozenset(_carried(endpoint_id, flow) for endpoint_id, flow in flows.items())
        self._carried |= live
        await self._file.save(self._carried)
        await self._table.agree(flows.values())
        self._flows, self._in_force = flows, True
        self._unreset -= live
        await self._forget(self._carried - live - self._unreset)  # a second try would meet connections made since

    async def clear(self) -> None:
        """Ends all that went through the kernel and takes the table away; clients reach the relay from then on.

        Raises `Transient` while the table may still be at work.
        """
        if self._carried:
            await self._table.agree(())  # none of them passes a byte any more
        self._flows, self._in_force = {}, True
        await self._forget(self._carried)
        if not self._carried:  # else the empty table must stay: it is what cuts them
            await self._table.remove()

    def carries(self, endpoint_id: str) -> bool:
        """Whether new clients of the endpoint bypass this process."""
        flow = self._flows.get(endpoint_id)
        return flow is not None and flow.open

    def is_astray(self, endpoint_id: str) -> bool:
        """Whether a predecessor's table may lead clients of the endpoint past us, or its connections be alive."""
        return not self._in_force and any(one.endpoint_id == endpoint_id for one in self._carried)

    def _flow(self, route: Route) -> Flow | None:
        """None: the endpoint has no target and no connections made here that may live on."""
        if route.target is not None:
            mark = mark_of(self._prefix, route, route.target)
            return Flow(route.address, route.port, route.target, True, mark, route.admits)
        for one in self._carried:
            if one.endpoint_id == route.endpoint_id and one.mark == mark_of(self._prefix, route, one.target):
                return Flow(route.address, route.port, one.target, False, one.mark, route.admits)
        return None

    async def _forget(self, doomed: frozenset[Carried]) -> None:
        """Resets what was made under these translations; those for which that failed are kept in mind."""
        gone = {one for one in doomed if await self._destroy(one)}
        self._carried -= gone
        self._unreset = self._unreset - gone | doomed - gone
        await self._file.save(self._carried)

    async def _destroy(self, one: Carried) -> bool:
        """Resets at once, instead of at the next packet, what the rule cuts anyway."""
        try:
            await _reset_clients(one.address, one.port)
        except Transient as error:
            log.warning("endpoint.prompt_cut_failed", address=one.address, port=one.port, reason=error.message)
            return False
        return True

    async def _probe(self) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as listener, socket.socket() as client:
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
            listener.setblocking(False)
            client.setblocking(False)
            target = ("127.0.0.1", listener.getsockname()[1])
            place = (_PROBE_ADDRESS, target[1])  # the kernel gave us this port, so no other trial has the same place
            prefix = self._prefix & 0x3FFF | 0x4000  # not ours: a predecessor's table would cut a mark it does not know
            flow = Flow(*place, target, True, prefix << 16 | 1, ("127.0.0.0/8",))
            table = NftablesTable(f"{self._table.name}_probe", prefix)
            try:
                await table.agree([flow])
                async with asyncio.timeout(_PROBE_TIMEOUT_S):
                    await loop.sock_connect(client, place)
                    accepted, _ = await loop.sock_accept(listener)
                with accepted:
                    await _reset_clients(*place)
                    if client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                        raise Transient("ss -K resets nothing here; the kernel may lack CONFIG_INET_DIAG_DESTROY")
            finally:
                with suppress(Transient):
                    await table.remove()


def _possible(route: Route) -> bool:
    return route.path == "kernel" and all(
        address is None or (isinstance(parsed := ip_address(address), IPv4Address) and parsed.is_loopback)
        for address in (route.address, route.target_address)
    )


def _carried(endpoint_id: str, flow: Flow) -> Carried:
    return Carried(endpoint_id, flow.address, flow.port, flow.target, flow.mark)


async def _reset_clients(address: str, port: int) -> None:
    """Resets every socket of this machine that the kernel led away from this place. Raises `Transient`.

    Those that reached the relay's listener, perhaps to wait for a primary, have their other end there: left alone.
    """
    clients = {local for local, _ in await _connections("dst", address, "dport", port)}
    relayed = {peer for _, peer in await _connections("src", address, "sport", port)}
    doomed = sorted(clients - relayed)
    for first in range(0, len(doomed), _SOCKETS_PER_RESET):
        some = doomed[first : first + _SOCKETS_PER_RESET]
        choice = " or ".join(f"( src = {host} and sport = {number} )" for host, number in some)
        # With the place they lead to: the kernel gives one local port to several connections with different other ends.
        only = f"dst = {address} and dport = {port} and ( {choice} )"
        await run(["ss", *_SS_OPTIONS, "-K", *only.split()])


async def _connections(side: str, address: str, port_side: str, port: int) -> list[tuple[_Place, _Place]]:
    """Local and peer place of every TCP connection whose one side is here."""
    listed = await run(["ss", *_SS_OPTIONS, side, "=", address, "and", port_side, "=", str(port)])
    return [(_place(words[3]), _place(words[4])) for words in map(str.split, listed.splitlines())]


def _place(text: str) -> _Place:
    """From `127.0.0.1:5` or, for a socket that speaks both IP versions, `[::ffff:127.0.0.1]:5`."""
    host, _, port = text.rpartition(":")
    return host.strip("[]").removeprefix("::ffff:"), int(port)
