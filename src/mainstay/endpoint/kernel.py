"""The kernel path: clients of an endpoint address are translated to the engine by nftables, no byte passes through us.

One private table holds everything and is replaced as a whole in one transaction, so there is never a moment with half
of a change. A flow keeps the translation it began with; therefore each carries a mark for the epoch and target it was
made under. A flow whose mark is not live any more is reset at its next packet (by rule), and both of its ends on
this machine at once (by `ss -K`). Marks are computed, not counted: a restarted process knows those of its predecessor.

Needs root (CAP_NET_ADMIN), `nft` and a kernel with NAT; `unavailable()` finds out by doing. Limits on the number of
connections and the wait for a primary do not exist here: while an endpoint has no target its clients reach the relay's
listening socket, which stays open below. Verified in tests/unit/endpoint/test_kernel.py.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import socket
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv4Network, collapse_addresses, ip_address, ip_network

import msgspec
import structlog

from mainstay.endpoint.limits import COMMAND_TIMEOUT_S
from mainstay.model.errors import Transient
from mainstay.model.route import Route

_PROBE_ADDRESS = "127.95.255.254"  # outside the range of endpoints and that of engines
_PROBE_TIMEOUT_S = 2.0

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
    """The whole table as one nft transaction that replaces whatever stood under its name."""
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
  chain admit {{
    ct direction original ct state new ip daddr . tcp dport @endpoints \
ip daddr . tcp dport . ip saddr != @admitted reject with tcp reset
  }}
  chain translate {{
    ct mark set ip daddr . tcp dport map @marks dnat ip to ip daddr . tcp dport map @targets
  }}
  chain cut {{
    meta l4proto tcp ct direction original ct status dnat ct mark & 0xffff0000 == {prefix << 16:#x} \
ct mark != @live reject with tcp reset
  }}
  chain leave_admit {{ type filter hook output priority -110; jump admit; }}
  chain leave_translate {{ type nat hook output priority -100; jump translate; }}
  chain leave_cut {{ type filter hook output priority 0; jump cut; }}
  chain arrive_admit {{ type filter hook prerouting priority -110; jump admit; }}
  chain arrive_translate {{ type nat hook prerouting priority -100; jump translate; }}
  chain arrive_cut {{ type filter hook input priority 0; jump cut; }}
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

    def __init__(self, identity: str) -> None:
        """`identity` tells this service from others on the machine, for example its home directory."""
        digest = hashlib.sha256(identity.encode()).digest()
        self.table = f"mainstay_{digest.hex()[:10]}"
        self._prefix = int.from_bytes(digest[:2], "big") | 0x8000  # set, so that it never equals an unmarked flow
        self._flows: dict[str, Flow] = {}

    async def unavailable(self) -> str | None:
        """Why the kernel path cannot be used here, None when a trial connection went through it."""
        if os.geteuid() != 0:
            return "needs root"
        if shutil.which("nft") is None:
            return "the program nft is not installed (package nftables)"
        try:
            await self._probe()
        except (Transient, OSError, TimeoutError) as error:
            return f"a trial connection through nftables failed: {error or 'no answer'}"
        return None

    async def apply(self, routes: Iterable[Route]) -> None:
        """Makes the table serve exactly these routes and cuts flows that do not survive. Raises `Transient`."""
        before = self._flows
        possible = ((route.endpoint_id, self._flow(route)) for route in routes if _possible(route))
        flows = {endpoint_id: flow for endpoint_id, flow in possible if flow is not None}
        await _run(["nft", "-f", "-"], ruleset(self.table, self._prefix, flows.values()))
        self._flows = flows
        for endpoint_id, old in before.items():
            new = flows.get(endpoint_id)
            if new is None or new.mark != old.mark:
                await self._destroy(old)

    async def clear(self) -> None:
        """Takes the table away; clients reach the relay from then on. Raises `Transient`."""
        await _run(["nft", "-f", "-"], f"add table ip {self.table}\ndelete table ip {self.table}\n")
        flows, self._flows = self._flows, {}
        for flow in flows.values():
            await self._destroy(flow)

    def carries(self, endpoint_id: str) -> bool:
        """Whether new clients of the endpoint bypass this process."""
        flow = self._flows.get(endpoint_id)
        return flow is not None and flow.open

    def _flow(self, route: Route) -> Flow | None:
        """None: the endpoint has no target and no connections made here that may live on."""
        if route.target is not None:
            mark = mark_of(self._prefix, route, route.target)
            return Flow(route.address, route.port, route.target, True, mark, route.admits)
        old = self._flows.get(route.endpoint_id)
        if old is None or old.mark != mark_of(self._prefix, route, old.target):
            return None
        return msgspec.structs.replace(old, open=False)

    async def _destroy(self, flow: Flow) -> None:
        """Resets both ends at once instead of at the next packet; without `ss` the rule alone must do."""
        command = ["ss", "-K", "-H", "-t", "-n", "dst", "=", flow.address, "and", "dport", "=", str(flow.port)]
        try:
            await _run(command, "")
        except (Transient, OSError) as error:
            log.warning("endpoint.prompt_cut_failed", address=flow.address, port=flow.port, reason=str(error))

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
                accepted.close()
            finally:
                with suppress(Transient):
                    await _run(["nft", "-f", "-"], f"add table ip {table}\ndelete table ip {table}\n")


def _possible(route: Route) -> bool:
    return route.path == "kernel" and all(
        address is None or ip_address(address).version == 4 for address in (route.address, route.target_address)
    )


async def _run(command: list[str], text: str) -> None:
    """Runs a system tool with `text` as its input. Raises `Transient` with what it complained about."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            _, complaint = await process.communicate(text.encode())
    except TimeoutError as error:
        raise Transient(f"{command[0]} did not end within {COMMAND_TIMEOUT_S} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise Transient(f"{command[0]} failed: {complaint.decode(errors='replace').strip()[:500]}")
