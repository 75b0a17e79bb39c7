"""Another machine in miniature: a network namespace that reaches this one over a veth pair, for clients to run in.

The namespace lives as long as one process that sleeps in it, and that process no longer than the bench, however the
bench ends. With the namespace the kernel removes both ends of the pair and every address on them: nothing can be left.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network
from pathlib import Path

import msgspec

NETWORK = IPv4Network("198.18.202.0/24")
"""Of what is set aside for measurements between networks (RFC 2544)."""
ENDPOINTS = IPv4Network("198.18.202.0/29")
"""What a service whose clients come over the link is to have as `endpoint_network`."""
SERVERS = ("198.18.202.9", "198.18.202.10")
"""Addresses of this machine for what is to be compared with an endpoint."""
CLIENT = "198.18.202.200"
HERE, THERE = "mainstay-bench", "eth0"
START_TIMEOUT_S = 5.0


class Link(msgspec.Struct, frozen=True):
    """A way into the namespace."""

    inside: tuple[str, ...]
    """What a command begins with to run there."""


def unavailable() -> str | None:
    """Why there can be no link here, None if there can."""
    if os.geteuid() != 0:
        return "a network namespace needs root"
    for program, package in (("ip", "iproute2"), ("unshare", "util-linux"), ("nsenter", "util-linux")):
        if shutil.which(program) is None:
            return f"the program {program} is not installed (package {package})"
    for route in json.loads(_ip("-json", "route", "show", "table", "all") or "[]"):
        if route["dst"] != "default" and ":" not in route["dst"] and NETWORK.overlaps(IPv4Network(route["dst"])):
            return f"this machine has a route to {route['dst']} already"  # its own addresses must not become ours
    return None


@contextmanager
def link() -> Iterator[Link]:
    """The namespace for the time of the block. Raises `RuntimeError`, changing nothing, when `unavailable`."""
    if (reason := unavailable()) is not None:
        raise RuntimeError(reason)
    sleeper = subprocess.Popen(["setpriv", "--pdeathsig=KILL", "unshare", "--net", "sleep", "infinity"])
    try:
        _await_namespace(sleeper.pid)
        inside = ("nsenter", f"--net=/proc/{sleeper.pid}/ns/net")
        _ip("link", "add", HERE, "type", "veth", "peer", "name", THERE, "netns", str(sleeper.pid))
        for address in (*map(str, ENDPOINTS.hosts()), *SERVERS):
            _ip("address", "add", f"{address}/{NETWORK.prefixlen}", "dev", HERE)
        _ip("link", "set", HERE, "up")
        _ip("address", "add", f"{CLIENT}/{NETWORK.prefixlen}", "dev", THERE, inside=inside)
        for device in ("lo", THERE):
            _ip("link", "set", device, "up", inside=inside)
        yield Link(inside)
    finally:
        sleeper.kill()
        sleeper.wait()


def _await_namespace(pid: int) -> None:
    own = os.stat("/proc/self/ns/net").st_ino
    deadline = time.monotonic() + START_TIMEOUT_S
    while Path(f"/proc/{pid}/ns/net").stat().st_ino == own:
        if time.monotonic() > deadline:
            raise TimeoutError(f"no network namespace within {START_TIMEOUT_S} s")
        time.sleep(0.01)


def _ip(*arguments: str, inside: tuple[str, ...] = ()) -> str:
    return subprocess.run([*inside, "ip", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout
