"""A plain directory: works everywhere, limits nothing, encrypts nothing."""

from __future__ import annotations

from pathlib import Path

from mainstay.host.files import make_private_directory
from mainstay.host.processes import User
from mainstay.host.volumes.base import Frozen, VolumePlace
from mainstay.host.volumes.mounts import remove_tree
from mainstay.host.volumes.tools import in_thread
from mainstay.model.errors import Permanent
from mainstay.model.volume import VolumePhase, VolumeSpec, VolumeUsage


class DirectoryDriver:
    """`VolumeDriver` of plain directories."""

    grows_open = True

    async def create(self, place: VolumePlace, spec: VolumeSpec, user: User) -> None:
        if spec.encrypted:
            raise Permanent("a plain directory is not encrypted", hint="`mainstay doctor` names the drivers that are.")
        make_private_directory(place.volume)
        user.give(place.volume)

    async def open(self, place: VolumePlace, spec: VolumeSpec, user: User) -> None:
        """It always is."""

    async def lock(self, place: VolumePlace) -> None:
        raise Permanent("a plain directory has no key that could be taken away")

    async def close(self, place: VolumePlace) -> None:
        """Nothing is mounted."""

    async def grow(self, place: VolumePlace, spec: VolumeSpec) -> None:
        """It has all the room there is."""

    async def clone(self, place: VolumePlace, clone: Path) -> Frozen:
        raise Permanent("a plain directory has no image that could be cloned")

    def thaw(self, place: VolumePlace) -> None:
        """It is never frozen."""

    async def destroy(self, place: VolumePlace) -> None:
        await in_thread(remove_tree, place.volume)

    async def relieve(self, place: VolumePlace, user: User | None) -> None:
        """Nothing is kept back."""

    def usage(self, place: VolumePlace, spec: VolumeSpec) -> VolumeUsage:
        return VolumeUsage(phase=VolumePhase.OPEN if place.volume.is_dir() else VolumePhase.MISSING)
