"""The volume of one node: the driver that has it, and its key, which is nowhere but in this process and in the kernel.

Guarantees: after `lock` nothing in this process can open the volume again until `unlock`, or a newer spec that brings
the key; an agent that was started anew knows no key, and needs none for a volume that is open.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog

from mainstay.host.processes import User
from mainstay.host.volumes import DRIVERS, VolumeDriver, VolumePlace
from mainstay.host.volumes.base import Frozen
from mainstay.model.errors import MainstayError, Permanent
from mainstay.model.node import NodeSpec
from mainstay.model.volume import DATA_KEY_BYTES, VolumePhase, VolumeSpec, VolumeUsage

PLAIN = VolumeSpec(driver="directory")
UNKNOWN_KEY = (
    "the volume is locked: its key is not known to this host. It opens as soon as the KMS key can be used again."
)
FULL = "the storage is full. Give the instance more AllocatedStorage; it comes back by itself then."
GIB = 1 << 30

log = structlog.get_logger()


class NodeVolume:
    """One node's volume. Its own methods take turns."""

    def __init__(self, spec: NodeSpec, root: Path, user: User) -> None:
        self.place = VolumePlace(root)
        self._user = user
        self._turn = asyncio.Lock()
        self.wanted = PLAIN
        self._key = ""
        self._lent = True  # a former agent may have
        self.take(spec)
        self.thaw()

    def take(self, spec: NodeSpec) -> None:
        """The spec in force; the key that it brings, if it does."""
        self.wanted = spec.volume or PLAIN
        self._key = self.wanted.data_key or self._key

    @property
    def driver(self) -> VolumeDriver:
        """Raises `Permanent` for one that this version does not have."""
        driver = DRIVERS.get(self.wanted.driver)
        if driver is None:
            raise Permanent(f"no volume driver {self.wanted.driver!r}")
        return driver

    @property
    def key_missing(self) -> bool:
        """Whether it cannot be opened from here."""
        return self.wanted.encrypted and not self._key

    def look(self) -> VolumeUsage:
        """What is seen of it now; of a kind that this version does not have, nothing."""
        driver = DRIVERS.get(self.wanted.driver)
        if driver is None:
            return VolumeUsage(phase=VolumePhase.MISSING)
        return driver.usage(self.place, self.wanted)

    def must_grow(self, seen: VolumeUsage) -> bool:
        """Whether it is smaller than wanted."""
        if seen.phase is VolumePhase.MISSING or not seen.size_bytes:
            return False
        return seen.growing or seen.size_bytes < self.wanted.size_bytes

    @property
    def grows_open(self) -> bool:
        """Whether that needs no restart of the engine."""
        return self.driver.grows_open

    async def create(self) -> None:
        """Makes it, if it is not there."""
        async with self._turn:
            await self.driver.create(self.place, self._with_key(), self._user)

    async def open(self) -> None:
        """Mounted and unlocked when this returns."""
        async with self._turn:
            wanted = self._with_key()
            await self.driver.open(self.place, wanted, self._user)
            if wanted.data_key and not self._key:  # locked meanwhile
                await self.driver.lock(self.place)

    async def close(self) -> None:
        """Nothing mounted, no key in the kernel."""
        async with self._turn:
            await self.driver.close(self.place)

    async def grow(self) -> None:
        """As large as wanted."""
        async with self._turn:
            await self.driver.grow(self.place, self.wanted)
        log.info("volume.grown", volume=str(self.place.volume), size_gib=self.wanted.size_bytes / GIB)

    async def clone(self, clone: Path) -> Frozen:
        """The image as after a power cut now, in a new file; see `VolumeDriver.clone`."""
        async with self._turn:
            return await self.driver.clone(self.place, clone)

    def thaw(self) -> None:
        """What a former agent may have left frozen goes on."""
        if (driver := DRIVERS.get(self.wanted.driver)) is not None:
            driver.thaw(self.place)

    async def destroy(self) -> None:
        """Nothing of any volume is left, whatever kind it was of."""
        async with self._turn:
            self._key = ""
            await self.driver.destroy(self.place)

    async def lock(self) -> None:
        """The key is forgotten here first, then taken from the kernel: a running engine gets errors from now on."""
        if not self.wanted.encrypted:
            raise Permanent("the volume is not encrypted: it cannot be locked")
        self._key = ""
        await self.driver.lock(self.place)

    async def unlock(self, key: str) -> None:
        """Takes the key, if it is the volume's. Raises `Permanent` if it is not, `Transient` if that is not known."""
        if not self.wanted.encrypted:
            raise Permanent("the volume is not encrypted: it needs no key")
        if len(key) != 2 * DATA_KEY_BYTES or not all(one in "0123456789abcdef" for one in key):
            raise Permanent(f"a volume key is {2 * DATA_KEY_BYTES} hexadecimal digits")
        async with self._turn:
            if self.look().phase in (VolumePhase.CLOSED, VolumePhase.LOCKED):
                await self.driver.open(self.place, msgspec.structs.replace(self.wanted, data_key=key), self._user)
            self._key = key

    async def relieve_if_full(self) -> None:
        """Before an engine is stopped: on a full volume it may use what is kept back, to end in order."""
        if self.look().full:
            log.warning("volume.relieved", volume=str(self.place.volume))
            self._lent = True
            with suppress(MainstayError):
                await self.driver.relieve(self.place, self._user)

    async def keep_back(self) -> None:
        """Before an engine is started: what is kept back of a volume is not the engine's (any more)."""
        if self._lent:
            await self.driver.relieve(self.place, None)
            self._lent = False

    def _with_key(self) -> VolumeSpec:
        return msgspec.structs.replace(self.wanted, data_key=self._key)
