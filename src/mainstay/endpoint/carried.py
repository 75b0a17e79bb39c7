"""Which translations the kernel may still hold connections of, kept on disk for a successor of this process.

A translated connection outlives the process and even the table that made it. What is written here before the kernel
learns of it is always at least what the kernel has; a successor that cannot use the kernel path any more still knows
which connections there may be, and must not say that they are gone before they are.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec
import structlog

from mainstay.host.files import write_atomically
from mainstay.model.route import Route

log = structlog.get_logger()


class Carried(msgspec.Struct, frozen=True):
    """Clients of `address` and `port` were or are led to `target`; their connections have `mark`."""

    endpoint_id: str
    address: str
    port: int
    target: tuple[str, int]
    mark: int


class _Content(msgspec.Struct, frozen=True):
    kernel: str
    carried: tuple[Carried, ...]


class CarriedFile:
    """The file. Without a path nothing is kept."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._written: frozenset[Carried] = frozenset()

    def load(self, routes: Iterable[Route]) -> frozenset[Carried]:
        """What a predecessor left in this kernel. If the file cannot be read: all that these routes may have led to."""
        if self._path is None:
            return frozenset()
        try:
            content = msgspec.json.decode(self._path.read_bytes(), type=_Content)
        except FileNotFoundError:
            return frozenset()  # the kernel path was never used
        except msgspec.DecodeError as error:
            log.error("endpoint.carried_unreadable", file=str(self._path), reason=str(error))
            return frozenset(
                Carried(route.endpoint_id, route.address, route.port, route.target, 0)
                for route in routes
                if route.path == "kernel" and route.target is not None
            )
        if content.kernel != _kernel():
            return frozenset()
        self._written = frozenset(content.carried)
        return self._written

    async def save(self, carried: Iterable[Carried]) -> None:
        """Returns when this is on disk."""
        wanted = frozenset(carried)
        if self._path is None or wanted == self._written:
            return
        content = msgspec.json.encode(_Content(_kernel(), tuple(sorted(wanted, key=lambda one: one.endpoint_id))))
        await asyncio.to_thread(write_atomically, self._path, content)
        self._written = wanted


def _kernel() -> str:
    """Names this boot and this network: another one holds none of these connections."""
    network = os.stat("/proc/self/ns/net")
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {network.st_dev}:{network.st_ino}"
