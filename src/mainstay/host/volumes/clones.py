"""Clones of images of one host: what a snapshot is before it is in object storage, and what a restore begins with.

A clone shares its blocks with the image that it was made of, where the file system can do that (XFS, btrfs: "reflink"),
so it is there in milliseconds; from then on it takes as much room as either of them changes. There is room for all
that clones, and volumes that began as one, may ever take when one more is made, so that no database meets a full disk
because of them. A clone has its name only when it is complete. Those that are `stored` elsewhere too are removed when
room is needed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import structlog

from mainstay.host.files import fsync_directory, make_private_directory, write_atomically
from mainstay.host.volumes import fscrypt, loops, mounts
from mainstay.host.volumes.base import ENGINE_DIRECTORY, VolumePlace
from mainstay.host.volumes.freezer import FICLONE
from mainstay.model.errors import Permanent

GIB = 1 << 30
RESERVE_BYTES = GIB
READ_ONLY_MOUNT = mounts.QUIET | mounts.MS_RDONLY

log = structlog.get_logger()


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of a clone beside it. `told` is its maker's; `stored`: it is elsewhere too."""

    told: str
    stored: bool = False


class Clone(msgspec.Struct, frozen=True):
    """One clone: `image` is the file, `unfinished` the same while it is made."""

    directory: Path
    name: str

    @property
    def image(self) -> Path:
        """A file system as after a power cut."""
        return self.directory / f"{self.name}.img"

    @property
    def unfinished(self) -> Path:
        """Before it is complete; nobody's once its maker has died."""
        return self.directory / f"{self.name}.img.new"

    @property
    def note(self) -> Path:
        """`Note`."""
        return self.directory / f"{self.name}.json"

    @property
    def mount(self) -> Path:
        """Where it is mounted while it is read."""
        return self.directory / f"{self.name}.mount"


class Clones:
    """The clones below `directory`, each of a `group` (a backup repository's prefix) and with a name in it.

    The places of volumes that may begin as one are the directories in `volumes`.
    """

    def __init__(self, directory: Path, volumes: Path) -> None:
        self._directory = directory
        self._volumes = volumes

    def clone(self, group: str, name: str) -> Clone:
        """Where it is, whether or not it is there."""
        return Clone(self._group(group), name)

    def told(self, group: str, name: str) -> str | None:
        """What its maker told of it, None if there is no such clone."""
        one = self.clone(group, name)
        return _note(one).told if one.image.exists() else None

    def begin(self, group: str, name: str, image: Path) -> Clone:
        """Makes room for a clone of this image; it is to be made as `unfinished`. Raises `Permanent`, in words."""
        if reason := obstacle(self._directory.parent):
            raise Permanent(reason)
        one = self.clone(group, name)
        make_private_directory(self._directory)
        make_private_directory(one.directory)
        one.unfinished.unlink(missing_ok=True)
        self._make_room(image)
        return one

    def complete(self, one: Clone, told: str) -> None:
        """It has its name from now on, also after a power cut."""
        write_atomically(one.note, msgspec.json.encode(Note(told=told)))
        one.unfinished.rename(one.image)
        fsync_directory(one.directory)
        fsync_directory(self._directory)

    def note_stored(self, group: str, name: str) -> None:
        """It is elsewhere too, so it may go when room is needed."""
        one = self.clone(group, name)
        if one.image.exists():
            write_atomically(one.note, msgspec.json.encode(msgspec.structs.replace(_note(one), stored=True)))

    def keep_only(self, group: str, names: tuple[str, ...]) -> None:
        """Removes all other clones of the group. Raises `Transient` for one that is still being read."""
        directory = self._group(group)
        for name in {path.name.partition(".")[0] for path in directory.glob("*.*")} - set(names):
            remove(Clone(directory, name))
        with suppress(OSError):
            directory.rmdir()

    def lend(self, group: str, name: str, place: VolumePlace) -> None:
        """A volume that is to be made there begins as the clone, if there is one, and as an empty one otherwise."""
        one = self.clone(group, name)
        if not one.image.exists() or place.seed.exists():
            return
        unfinished = place.seed.with_suffix(".new")
        try:
            self._make_room(one.image)
            place.sharing.touch(mode=0o600)
            share_blocks(one.image, unfinished)
            unfinished.rename(place.seed)
        except (OSError, Permanent) as error:
            unfinished.unlink(missing_ok=True)
            log.warning("clone.not_lent", clone=str(one.image), error=str(error))

    def sweep(self) -> None:
        """Removes what a killed process has left: mounts, halves. To be called before anything is made."""
        for mount in reversed(mounts.mounts_below(self._directory)):
            mounts.unmount(mount.point, mounts.MNT_DETACH)  # who reads it still dies with the killed one
        for group in self._directory.glob("*"):
            for path in group.glob("*.mount"):
                path.rmdir()
            for path in group.glob("*.img.new"):
                path.unlink()
            for path in group.glob("*.json"):
                if not path.with_suffix(".img").exists():
                    path.unlink()

    def _group(self, group: str) -> Path:
        return self._directory / hashlib.sha256(group.encode()).hexdigest()[:24]

    def _make_room(self, image: Path) -> None:
        """For a file that shares the blocks of this one, in the worst case: nobody shares any block any more."""
        there = sorted(
            (one for group in self._directory.glob("*") for one in _clones(group)),
            key=lambda one: one.image.stat().st_mtime,
        )
        sharing = (
            VolumePlace(path.parent).image for path in self._volumes.glob(f"*/{VolumePlace(Path()).sharing.name}")
        )
        shared = sum(map(_allocated, (*sharing, *(one.image for one in there))))
        needed = _allocated(image) + RESERVE_BYTES + shared
        for one in [*there, None]:
            seen = os.statvfs(self._directory)
            free = seen.f_bavail * seen.f_frsize
            if free >= needed:
                return
            if one is None:
                raise Permanent(
                    f"clones on {self._directory} could come to take {needed / GIB:.1f} GiB, of which"
                    f" {free / GIB:.1f} GiB are free"
                )
            if _note(one).stored and not mounts.mount_at(one.mount):
                needed -= _allocated(one.image)
                remove(one)


@contextmanager
def mounted(one: Clone, data_key: str = "") -> Iterator[Path]:
    """What the volume held, to be read, for the block; the key of an encrypted one is in the kernel for as long.

    A frozen file system has nothing in its journal.
    """
    mounts.unmount(one.mount)
    one.mount.mkdir(mode=0o700, exist_ok=True)
    try:
        with loops.attached(one.image, read_only=True) as device:
            mounts.mount(str(device), one.mount, "ext4", READ_ONLY_MOUNT, "noload")
        if data_key:
            fscrypt.add_key(one.mount, fscrypt.master_key(data_key))
        yield one.mount / ENGINE_DIRECTORY
    finally:
        mounts.unmount(one.mount, mounts.MNT_DETACH)  # its device and key go with the last who reads it
        one.mount.rmdir()


def remove(one: Clone) -> None:
    """Removes a clone. Raises `Transient` while somebody reads it."""
    mounts.unmount(one.mount)
    with suppress(FileNotFoundError):
        one.mount.rmdir()
    for path in (one.image, one.unfinished, one.note):
        path.unlink(missing_ok=True)
    fsync_directory(one.directory)


def share_blocks(source: Path, target: Path) -> None:
    """Makes `target` a copy of the file that shares its blocks, on disk when this returns. Raises `OSError`."""
    with source.open("rb") as original:
        descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.ioctl(descriptor, FICLONE, original.fileno())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def obstacle(directory: Path) -> str:
    """Why there can be no clones in this directory, "" if there can; found out by making one."""
    if os.geteuid() != 0:
        return "freezing a file system needs root"
    with tempfile.TemporaryDirectory(prefix=".clone-trial-", dir=directory) as trial:
        first = Path(trial, "first")
        first.write_bytes(os.urandom(4096))
        try:
            share_blocks(first, Path(trial, "second"))
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EXDEV, errno.ENOSYS):
                return f"the file system of {directory} cannot share blocks between files; XFS and btrfs can"
            return f"{error.strerror or error}"
    return ""


def _clones(group: Path) -> Iterator[Clone]:
    for path in group.glob("*.img"):
        yield Clone(group, path.name.removesuffix(".img"))


def _note(one: Clone) -> Note:
    return msgspec.json.decode(one.note.read_bytes(), type=Note)


def _allocated(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0
