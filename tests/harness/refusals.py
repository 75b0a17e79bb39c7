"""What can be told of an endpoint that has refused a connection, at the moment in which a test fails on that."""

from __future__ import annotations

import subprocess
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from harness.service import Service
from mainstay.endpoint.kernel import Kernel
from mainstay.model.route import Route

WORDS = ("Connection refused", "connection refused", "ECONNREFUSED")
LINES = 40
CONNECTIONS = Path("/proc/net/nf_conntrack")


def about(failure: str) -> str:
    """The endpoints of every service that runs, "" if the failure has nothing to do with that."""
    if not any(word in failure for word in WORDS):
        return ""
    return "\n".join(_told(service) for service in [*Service.running])


def _told(service: Service) -> str:
    """Routes, the kernel's table, sockets, translations and the ends of the logs."""
    home, addresses = service.home, _prefixes(service.home)
    parts = [f"== {home} at {time.strftime('%H:%M:%S', time.gmtime())}"]
    parts += [f"-- {path.name}\n{_text(path)}" for path in sorted((home / "endpoint").glob("*.json"))]
    parts += ["-- nft", _said("nft", "list", "table", "ip", Kernel(str(home)).table)]
    parts += ["-- ss", _only(_said("ss", "-Htan"), addresses), "-- conntrack", _only(_text(CONNECTIONS), addresses)]
    for log in sorted((home / "logs").glob("*.log")):
        parts += [f"-- {log.name}", "\n".join(_text(log).splitlines()[-LINES:])]
    return "\n".join(parts)


def _prefixes(home: Path) -> list[str]:
    """The addresses of endpoints and of engines, as far as their first three bytes."""
    with suppress(msgspec.DecodeError):
        routes = msgspec.json.decode(_text(home / "endpoint" / "routes.json"), type=list[Route])
        used = [address for route in routes for address in (route.address, route.target_address) if address]
        return sorted({f"{address.rpartition('.')[0]}." for address in used})
    return []


def _only(text: str, words: list[str]) -> str:
    return "\n".join(line for line in text.splitlines() if any(word in line for word in words))


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(errors="replace")
    return "(not to be read)"


def _said(*command: str) -> str:
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout
    return "(no answer)"
