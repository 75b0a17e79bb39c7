"""The private nftables table of the kernel path: its rules, and what its sets and maps hold.

Guarantees, tested in tests/unit/endpoint/test_nftables.py and test_kernel.py:
- A change is one transaction, and touches the elements that it is about and no others. A table that is replaced as a
  whole has moments in which packets that are under way meet its new rules with sets that are still empty: connections
  of endpoints that nothing happens to were refused then.
- Whom the rules find in no set is not turned away by them but reaches the relay, which knows whom to admit.
- The table is written anew where it is not known, or is not in the form that this version gives it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv4Network, collapse_addresses, ip_network
from typing import Any

import msgspec
import structlog

from mainstay.endpoint.commands import run
from mainstay.model.errors import Transient

Elements = dict[str, str]
"""What a set has as keys, with what a map gives for each ("" in a set), in nft's own words."""

Contents = dict[str, Elements]

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


class NftablesTable:
    """One table; `prefix` is the upper half of all its marks. Calls must not overlap, and raise `Transient`."""

    def __init__(self, name: str, prefix: int) -> None:
        self.name = name
        self._rules = _rules(prefix)
        form = "".join([*_SETS.values(), self._rules])
        self._form = f"form_{hashlib.sha256(form.encode()).hexdigest()[:12]}"
        self._known: Contents | None = None

    async def agree(self, flows: Iterable[Flow]) -> None:
        """Makes the table hold exactly these."""
        wanted, known = contents(flows), self._known
        self._known = None  # until it is known what became of this
        if known is None:
            known = await self._listed()
        if known is not None:
            try:
                await self._write(_changes(self.name, known, wanted))
            except Transient as error:  # somebody else has been at it: a firewall that was loaded anew, for example
                log.warning("endpoint.kernel_table_rewritten", table=self.name, reason=error.message)
                known = None
        if known is None:
            await self._write(self._whole(wanted))
        self._known = wanted

    async def remove(self) -> None:
        """Takes the table away."""
        self._known = None
        await self._write(self._none())

    async def _write(self, text: str) -> None:
        if text:
            await run(["nft", "-f", "-"], text)

    def _none(self) -> str:
        return f"add table ip {self.name}\ndelete table ip {self.name}\n"

    def _whole(self, wanted: Contents) -> str:
        sets = "".join(f"  {head} {_elements(wanted[name])}\n  }}\n" for name, head in _SETS.items())
        # The chain without rules tells a successor in which form the others are.
        return f"{self._none()}table ip {self.name} {{\n{sets}{self._rules}  chain {self._form} {{\n  }}\n}}\n"

    async def _listed(self) -> Contents | None:
        """What the kernel has; None if there is no such table, or none that is known to be in our form."""
        with suppress(Transient, msgspec.DecodeError, KeyError, TypeError, ValueError):
            listed = msgspec.json.decode(await run(["nft", "-j", "list", "table", "ip", self.name]))["nftables"]
            if any(one.get("chain", {}).get("name") == self._form for one in listed):
                return _parsed(listed)
        return None


_SETS = {
    "targets": "map targets { type ipv4_addr . inet_service : ipv4_addr . inet_service;",
    "marks": "map marks { type ipv4_addr . inet_service : mark;",
    "admitted": "set admitted { type ipv4_addr . inet_service . ipv4_addr; flags interval;",
    "live": "set live { type mark;",
}


def contents(flows: Iterable[Flow]) -> Contents:
    """What the sets and maps hold for these flows."""
    held: Contents = {name: {} for name in _SETS}
    for flow in flows:
        held["live"][f"{flow.mark:#x}"] = ""
        if flow.open:
            place = f"{flow.address} . {flow.port}"
            held["targets"][place] = f"{flow.target[0]} . {flow.target[1]}"
            held["marks"][place] = f"{flow.mark:#x}"
            held["admitted"] |= {f"{place} . {_words(network)}": "" for network in _ipv4(flow.admits)}
    return held


def _rules(prefix: int) -> str:
    """Every packet of this machine pays for what it meets here: `cut` asks first what a packet of no flow of ours
    answers soonest, and whom to admit is asked where the kernel asks a flow's first packet alone (`nat`).
    """
    return f"""  chain translate {{
    type nat hook output priority -100;
    ip daddr . tcp dport . ip saddr @admitted ct mark set ip daddr . tcp dport map @marks \
dnat ip to ip daddr . tcp dport map @targets
  }}
  chain cut {{
    type filter hook output priority 0;
    ct mark & 0xffff0000 == {prefix << 16:#x} ct mark != @live \
meta l4proto tcp ct status dnat tcp flags & rst == 0 reject with tcp reset
  }}
"""


def _changes(table: str, known: Contents, wanted: Contents) -> str:
    """What makes the one into the other, "" if they are the same."""
    lines = []
    for name in _SETS:
        before, after = known[name], wanted[name]
        gone = {key: before[key] for key in before if after.get(key) != before[key]}
        come = {key: after[key] for key in after if before.get(key) != after[key]}
        lines += [f"delete element ip {table} {name} {{ {_listed(dict.fromkeys(gone, ''))} }}\n"] if gone else []
        lines += [f"add element ip {table} {name} {{ {_listed(come)} }}\n"] if come else []
    return "".join(lines)


def _elements(elements: Elements) -> str:
    return f"elements = {{ {_listed(elements)} }}" if elements else ""


def _listed(elements: Elements) -> str:
    return ", ".join(f"{key} : {value}" if value else key for key, value in sorted(elements.items()))


def _ipv4(admits: tuple[str, ...]) -> Iterable[IPv4Network]:
    """Ranges of one set must not overlap; IPv6 clients never reach an IPv4 endpoint."""
    networks = (ip_network(cidr, strict=False) for cidr in admits)
    return collapse_addresses(network for network in networks if isinstance(network, IPv4Network))


def _words(network: IPv4Network) -> str:
    return str(network.network_address) if network.prefixlen == 32 else str(network)


def _parsed(listed: list[dict[str, Any]]) -> Contents:
    """From what `nft -j` says of a table (libnftables-json(5)). Raises `KeyError`, `TypeError`, `ValueError`."""
    found: Contents = {}
    for one in listed:
        held = one.get("set") or one.get("map")
        if held is not None:
            found[held["name"]] = dict(_pair(element, "map" in held) for element in held.get("elem", ()))
    if found.keys() != _SETS.keys():
        raise ValueError("other sets than ours")
    return found


def _pair(element: Any, mapped: bool) -> tuple[str, str]:
    key, value = element if mapped else (element, None)
    return _word(key), "" if value is None else _word(value)


def _word(said: Any) -> str:
    match said:
        case int():
            return f"{said:#x}"
        case str():
            return said
        case {"concat": [address, int(port), *rest]}:
            return " . ".join([_word(address), str(port), *map(_word, rest)])
        case {"prefix": {"addr": address, "len": length}}:
            return f"{address}/{length}"
    raise ValueError(f"not an element of ours: {said}")
