"""An encrypting volume in simulated time: its data key is in a file where the kernel would have it.

What is below a volume that is not open stays visible here: that nobody looks at it is what `decide.node` sees to.
"""

from __future__ import annotations

from pathlib import Path

from mainstay.host.processes import User
from mainstay.host.volumes import VolumePlace
from mainstay.host.volumes.base import Frozen
from mainstay.host.volumes.mounts import remove_tree
from mainstay.model.errors import Permanent
from mainstay.model.volume import VolumeDriverReport, VolumePhase, VolumeSpec, VolumeUsage

NAME = "simulated"
REPORTS = (VolumeDriverReport(driver=NAME, encrypted=True, sized=False, usable=True),)
KERNEL = "volume.kernel"


class SimulatedVolumes:
    """`VolumeDriver`. Its own operations are never killed in their middle: tests/unit/host/volumes does that."""

    grows_open = True

    async def create(self, place: VolumePlace, spec: VolumeSpec, user: User) -> None:
        if not spec.data_key:
            raise Permanent("an encrypted volume needs its key")
        place.volume.mkdir(parents=True, exist_ok=True)
        if not place.image.exists():
            place.image.write_text(spec.data_key)

    async def open(self, place: VolumePlace, spec: VolumeSpec, user: User) -> None:
        if spec.data_key != place.image.read_text():
            raise Permanent("another volume's key")
        kernel_of(place).write_text(spec.data_key)

    async def lock(self, place: VolumePlace) -> None:
        kernel_of(place).unlink(missing_ok=True)

    async def close(self, place: VolumePlace) -> None:
        kernel_of(place).unlink(missing_ok=True)

    async def grow(self, place: VolumePlace, spec: VolumeSpec) -> None:
        """It has all the room there is."""

    async def clone(self, place: VolumePlace, clone: Path) -> Frozen:
        raise Permanent("clones are made by `JobRunner` here")

    def thaw(self, place: VolumePlace) -> None:
        """It is never frozen."""

    async def destroy(self, place: VolumePlace) -> None:
        for path in (kernel_of(place), place.image):
            path.unlink(missing_ok=True)
        remove_tree(place.volume)

    async def relieve(self, place: VolumePlace, user: User | None) -> None:
        """Nothing is kept back."""

    def usage(self, place: VolumePlace, spec: VolumeSpec) -> VolumeUsage:
        if not place.image.exists():
            return VolumeUsage(phase=VolumePhase.MISSING)
        return VolumeUsage(phase=VolumePhase.OPEN if kernel_of(place).exists() else VolumePhase.CLOSED)


def kernel_of(place: VolumePlace) -> Path:
    """The file that is there as long as the kernel has the key."""
    return place.root / KERNEL
