"""Volumes for tests: which kinds this host can have, places for them, and what is left of them on the machine."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from harness.service import Service
from mainstay.host.processes import User
from mainstay.host.rpc import RpcClient
from mainstay.host.volumes import DRIVERS, VolumeDriver, VolumePlace, examine_drivers
from mainstay.host.volumes.detection import KINDS
from mainstay.host.volumes.loops import devices_of
from mainstay.host.volumes.mounts import mounts_below
from mainstay.model.volume import VolumeDriverReport, VolumeSpec

MIB = 1 << 20
KEY = "5c" * 32
OURSELVES = User("self", os.geteuid(), os.getegid())
KIND_NAMES = [f"{driver}{'-encrypted' if encrypted and driver != 'gocryptfs' else ''}" for driver, encrypted in KINDS]


@cache
def reports() -> dict[tuple[str, bool], VolumeDriverReport]:
    """What this host can do, by driver and encryption."""
    return {(one.driver, one.encrypted): one for one in examine_drivers(Path("/var/tmp"))}


def why_not(driver: str, encrypted: bool) -> str:
    """Why this host has no such volumes, "" if it has."""
    report = reports()[driver, encrypted]
    return "" if report.usable else report.reason


class Volume:
    """One volume in a place of its own."""

    def __init__(self, root: Path, driver: str, encrypted: bool) -> None:
        self.place = VolumePlace(root)
        self.driver: VolumeDriver = DRIVERS[driver]
        key = KEY if encrypted else ""
        self.spec = VolumeSpec(driver=driver, size_bytes=64 * MIB, encrypted=encrypted, data_key=key)

    async def made(self) -> None:
        """Made and open."""
        await self.driver.create(self.place, self.spec, OURSELVES)
        await self.driver.open(self.place, self.spec, OURSELVES)

    def left(self) -> list[str]:
        """What is there of it: files, mounts, devices."""
        found = sorted(str(path.relative_to(self.place.root)) for path in self.place.root.rglob("*"))
        found += [str(mount.point) for mount in mounts_below(self.place.root)]
        return found + [str(device) for device in self.devices()]

    def devices(self) -> list[Path]:
        """Loop devices that show its images."""
        return [one for image in (self.place.image, self.place.unfinished) for one in devices_of(image)]


@contextmanager
def scratch(driver: str, encrypted: bool) -> Iterator[Volume]:
    """A volume that is destroyed at the end, and that must leave nothing then."""
    root = Path(tempfile.mkdtemp(prefix="mainstay-volume-", dir="/var/tmp"))
    root.chmod(0o711)
    volume = Volume(root, driver, encrypted)
    try:
        yield volume
    finally:
        asyncio.run(volume.driver.destroy(volume.place))
        assert volume.left() == []
        root.rmdir()


async def ask_agent(service: Service, method: str, **params: str) -> object:
    """One call to the service's agent."""
    client = RpcClient(service.settings.runtime / "agent.sock")
    client.start()
    try:
        return await client.call(method, params)
    finally:
        await client.stop()
