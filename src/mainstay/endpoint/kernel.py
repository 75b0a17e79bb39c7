"""The kernel path: clients of an endpoint address are translated to the engine by nftables, no byte passes through us.

One private table holds everything and is replaced as a whole in one transaction, so there is never a moment with half
of a change. A flow keeps the translation it began with, even without the table; therefore each carries a mark for the
epoch and target it was made under. No packet of a flow whose mark is not live passes any more, in neither direction
(by rule), and its client's socket is reset at once (by `ss -K`). Marks are computed, not counted: a restarted process
knows those of its predecessor, and which there were (`carried`).

Only for clients on this machine: a loopback address cannot be reached from another one, and the kernel drops what it
would have to translate from outside to an engine's loopback address. IPv6, and endpoints of `endpoint_network`, are the
relay's. Needs root (CAP_NET_ADMIN), `nft`, `ss` and a kernel with NAT that can reset connections on request;
`unavailable()` finds out by doing. The number of connections is limited by the engine alone, and there is no wait for
a primary: while an endpoint has no target its clients reach the relay's listening socket, which stays open below.
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
from ipaddress import IPv4Address, IPv4Network, collapse_addresses, ip_address, ip_network
from pathlib import Path

import msgspec
import structlog

from mainstay.endpoint.carried import Carried, CarriedFile
from mainstay.endpoint.limits import COMMAND_TIMEOUT_S
from mainstay.model.errors import Transient
from mainstay.model.route import Route

_PROBE_ADDRESS = "127.95.255.254"  # outside the range of endpoints and that of engines
_PROBE_TIMEOUT_S = 2.0
_SS_OPTIONS = ("-H", "-t", "-n")
_SOCKETS_PER_RESET = 100  # what fits into one filter of the kernel's

_Place = tuple[str, int]

log = structlog.get_logger()


class Flow(msgspec.Struct, frozen=True):
    """One endpoint on the kernel path.

    `target` is the last known one. While the route has none, `open` is false: new clients reach the relay, which lets
    them wait, and the connections to the last target are kept.
    """

    address: str
    port: int
    target: tuple[str, int]
    open: bool
    mark: int
    admits: tuple[str, ...]


def mark_of(prefix: int, route: Route, target: tuple[str, int]) -> int:
    """Upper half: whose table; lower half: which endpoint, epoch and target. Never zero in the lower half."""
    text = f"{route.endpoint_id}\n{route.epoch}\n{target}"
    low = int.from_bytes(hashlib.sha256(text.encode()).digest()[:2], "big") or 1
    return prefix << 16 | low


def ruleset(table: str, prefix: int, flows: Iterable[Flow]) -> str:
    """The whole table as one nft transaction that replaces whatever stood under its name.

    Every packet of this machine pays for what it meets here. Whom to admit is therefore asked where the kernel asks a
    flow's first packet alone (`nat`), and `cut` asks first what a packet of no flow of ours answers soonest.
    """
    flows = tuple(flows)
    open_flows = [flow for flow in flows if flow.open]
    places = {flow: f"{flow.address} . {flow.port}" for flow in flows}
    targets = [f"{places[f]} : {f.target[0]} . {f.target[1]}" for f in open_flows]
    marks = [f"{places[f]} : {f.mark:#x}" for f in open_flows]
    admitted = [f"{places[f]} . {network}" for f in open_flows for network in _ipv4(f.admits)]
    return f"""add table ip {table}
delete table ip {table}
table ip {table} {{
  map targets {{ type ipv4_addr . inet_service : ipv4_addr . inet_service
    {_elements(targets)} }}
  map marks {{ type ipv4_addr . inet_service : mark
    {_elements(marks)} }}
  set endpoints {{ type ipv4_addr . inet_service
    {_elements(places[f] for f in open_flows)} }}
  set admitted {{ type ipv4_addr . inet_service . ipv4_addr; flags interval
    {_elements(admitted)} }}
  set live {{ type mark
    {_elements(sorted({f"{f.mark:#x}" for f in flows}))} }}
  chain translate {{
    type nat hook output priority -100;
    ip daddr . tcp dport @endpoints ip daddr . tcp dport . ip saddr != @admitted reject with tcp reset
    ct mark set ip daddr . tcp dport map @marks dnat ip to ip daddr . tcp dport map @targets
  }}
  chain cut {{
    type filter hook output priority 0;
    ct mark & 0xffff0000 == {prefix << 16:#x} ct mark != @live \
meta l4proto tcp ct status dnat tcp flags & rst == 0 reject with tcp reset
  }}
}}
"""


def _elements(elements: Iterable[str]) -> str:
    listed = ", ".join(elements)
    return f"elements = {{ {listed} }}" if listed else ""


def _ipv4(admits: tuple[str, ...]) -> Iterable[IPv4Network]:
    """Ranges of one set must not overlap; IPv6 clients never reach an IPv4 endpoint."""
    networks = (ip_network(cidr, strict=False) for cidr in admits)
    return collapse_addresses(network for network in networks if isinstance(network, IPv4Network))


class Kernel:
    """The table of one endpoint process. Calls must not overlap."""

    def __init__(self, identity: str, file: Path | None = None) -> None:
        """`identity` tells this service from others on the machine, for example its home directory."""
        digest = hashlib.sha256(identity.encode()).digest()
        self.table = f"mainstay_{digest.hex()[:10]}"
        self._prefix = int.from_bytes(digest[:2], "big") | 0x8000  # set, so that it never equals an unmarked flow
        self._flows: dict[str, Flow] = {}
        self._file = CarriedFile(file)
        self._carried: frozenset[Carried] = frozenset()  # all that may have connections, as the file says
        self._unreset: frozenset[Carried] = frozenset()  # of those: cut by the rule, but not reset
        self._in_force = False  # the table is one that this process wrote

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
        await _run(["nft", "-f", "-"], ruleset(self.table, self._prefix, flows.values()))
        self._flows, self._in_force = flows, True
        self._unreset -= live
        await self._forget(self._carried - live - self._unreset)  # a second try would meet connections made since

    async def clear(self) -> None:
        """Ends all that went through the kernel and takes the table away; clients reach the relay from then on.

        Raises `Transient` while the table may still be at work.
        """
        if self._carried:
            await _run(["nft", "-f", "-"], ruleset(self.table, self._prefix, ()))  # none of them passes a byte any more
        self._flows, self._in_force = {}, True
        await self._forget(self._carried)
        if not self._carried:  # else the empty table must stay: it is what cuts them
            await _run(["nft", "-f", "-"], f"add table ip {self.table}\ndelete table ip {self.table}\n")

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
            table, target = f"{self.table}_probe", ("127.0.0.1", listener.getsockname()[1])
            place = (_PROBE_ADDRESS, target[1])  # the kernel gave us this port, so no other trial has the same place
            prefix = self._prefix & 0x3FFF | 0x4000  # not ours: a predecessor's table would cut a mark it does not know
            flow = Flow(*place, target, True, prefix << 16 | 1, ("127.0.0.0/8",))
            try:
                await _run(["nft", "-f", "-"], ruleset(table, prefix, [flow]))
                async with asyncio.timeout(_PROBE_TIMEOUT_S):
                    await loop.sock_connect(client, place)
                    accepted, _ = await loop.sock_accept(listener)
                with accepted:
                    await _reset_clients(*place)
                    if client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                        raise Transient("ss -K resets nothing here; the kernel may lack CONFIG_INET_DIAG_DESTROY")
            finally:
                with suppress(Transient):
                    await _run(["nft", "-f", "-"], f"add table ip {table}\ndelete table ip {table}\n")


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
        await _run(["ss", *_SS_OPTIONS, "-K", *only.split()])


async def _connections(side: str, address: str, port_side: str, port: int) -> list[tuple[_Place, _Place]]:
    """Local and peer place of every TCP connection whose one side is here."""
    listed = await _run(["ss", *_SS_OPTIONS, side, "=", address, "and", port_side, "=", str(port)])
    return [(_place(words[3]), _place(words[4])) for words in map(str.split, listed.splitlines())]


def _place(text: str) -> _Place:
    """From `127.0.0.1:5` or, for a socket that speaks both IP versions, `[::ffff:127.0.0.1]:5`."""
    host, _, port = text.rpartition(":")
    return host.strip("[]").removeprefix("::ffff:"), int(port)


async def _run(command: list[str], text: str = "") -> str:
    """What a system tool says with `text` as its input. Raises `Transient` with what it complained about."""
    with os.fdopen(os.memfd_create(command[0]), "w+") as given:  # not a pipe: the tool may end before it has read all
        given.write(text)
        given.seek(0)
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=given, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
        except OSError as error:
            raise Transient(f"{command[0]} cannot be run: {error.strerror}") from error
    try:
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            output, complaint = await process.communicate()
    except TimeoutError as error:
        raise Transient(f"{command[0]} did not end within {COMMAND_TIMEOUT_S} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise Transient(f"{command[0]} failed: {complaint.decode(errors='replace').strip()[:500]}")
    return output.decode()
