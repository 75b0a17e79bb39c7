"""What a volume driver is to the rest of the program.

Every method may be repeated after a kill in the middle of it, finds what the killed one left (half-made images, mounts,
attached devices) and goes on from there. A volume that cannot be changed now because somebody uses it raises
`Transient` naming who.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec

from mainstay.host.processes import User
from mainstay.model.volume import VolumeSpec, VolumeUsage

ENGINE_DIRECTORY = "volume"
"""The directory in an image's file system that is the volume; the root of one cannot be encrypted."""

SEEDED = "cloned"
"""What a volume holds that began as a clone: a directory with all that the other volume held."""


class VolumePlace(msgspec.Struct, frozen=True):
    """Where one volume is: `volume` is what its user sees, the others are the drivers'. All are below `root`."""

    root: Path

    @property
    def volume(self) -> Path:
        """The directory or mount point that the engine's data is in."""
        return self.root / "volume"

    @property
    def image(self) -> Path:
        """The file that holds the file system of an image volume; it exists once it is complete."""
        return self.root / "volume.img"

    @property
    def unfinished(self) -> Path:
        """The image while it is being made."""
        return self.root / "volume.img.new"

    @property
    def seed(self) -> Path:
        """A clone of another volume's image, complete, that this image is to begin as; see `SEEDED`."""
        return self.root / "volume.seed"

    @property
    def sharing(self) -> Path:
        """Exists beside an image that began as a clone: its blocks may be another file's, too, as long as it lives."""
        return self.root / "volume.sharing"

    @property
    def growing(self) -> Path:
        """Exists from before an image is enlarged until its file system fills it."""
        return self.root / "volume.growing"

    @property
    def whole(self) -> Path:
        """Where the whole file system of an image is mounted for the moment in which `volume` is bound to a part."""
        return self.root / "volume.mount"

    @property
    def cipher(self) -> Path:
        """The encrypted files of a gocryptfs volume."""
        return self.root / "volume.cipher"

    @property
    def lock(self) -> Path:
        """Held by whoever changes the volume, helper programs that outlive a killed agent included."""
        return self.root / "volume.lock"


class Frozen(msgspec.Struct, frozen=True, kw_only=True):
    """The moment that a clone shows (epoch seconds), and how long writers waited for it."""

    frozen_at: float
    frozen_s: float


class VolumeDriver(Protocol):
    """One kind of volume. Its methods do file and device work in threads; at most one works on a volume at a time."""

    @property
    def grows_open(self) -> bool:
        """Whether `grow` works while the volume is open; otherwise it must be closed, so no engine may run on it."""

    async def create(self, place: VolumePlace, spec: VolumeSpec, user: User) -> None:
        """Makes the volume, owned by `user`, if it is not there. An encrypted one needs `spec.data_key`."""

    async def open(self, place: VolumePlace, spec: VolumeSpec, user: User) -> None:
        """Mounts and unlocks: when this returns the volume can be used. Raises `Permanent` for another volume's key."""

    async def lock(self, place: VolumePlace) -> None:
        """Takes the key away at once, also from under a running engine, whose reads and writes fail from now on.

        What an engine has in its memory is gone only when it has ended and the volume was closed.
        """

    async def close(self, place: VolumePlace) -> None:
        """Nothing is mounted, no key is in the kernel, no device attached. `Transient` names who still uses it."""

    async def grow(self, place: VolumePlace, spec: VolumeSpec) -> None:
        """Enlarges it to `spec.size_bytes`; closes it first unless `grows_open`."""

    async def clone(self, place: VolumePlace, clone: Path) -> Frozen:
        """Makes a new file that is the volume's image as after a power cut now, sharing its blocks; it is on disk.

        The volume is open, and whoever writes to it waits for a moment, for FREEZE_LIMIT_S at most. Raises
        `MainstayError`, in words, where that cannot be, and leaves no file then.
        """

    def thaw(self, place: VolumePlace) -> None:
        """What a killed process may have left frozen goes on. Never raises."""

    async def destroy(self, place: VolumePlace) -> None:
        """Removes everything of it, whatever of it is there. Never removes through a mount point."""

    async def relieve(self, place: VolumePlace, user: User | None) -> None:
        """Lets `user` take what is kept back of a full volume, so that its engine can end in order; None: no more."""

    def usage(self, place: VolumePlace, spec: VolumeSpec) -> VolumeUsage:
        """One quick look; never raises."""
