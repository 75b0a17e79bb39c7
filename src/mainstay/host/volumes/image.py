"""A sparse file with an ext4 file system on a loop device: its size is a real limit; encrypted by fscrypt if wanted.

Layout: the engine's directory is `volume` in the file system, for the root of one cannot be encrypted; that directory,
and nothing else of the file system, is bound to `VolumePlace.volume`. Exactly one mount per open volume, and no device
without a mount. An image exists under its name only when it is complete. docs/volumes.md tells what it protects from.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import msgspec
import structlog

from mainstay.host.files import fsync_directory
from mainstay.host.processes import OUTPUT_BYTES_SHOWN, User
from mainstay.host.volumes import freezer, fscrypt, loops, mounts
from mainstay.host.volumes.base import ENGINE_DIRECTORY, SEEDED, Frozen, VolumePlace
from mainstay.host.volumes.clones import share_blocks
from mainstay.host.volumes.fscrypt import KeyState
from mainstay.host.volumes.tools import exclusively, in_thread, run_helper
from mainstay.model.errors import Permanent, Transient
from mainstay.model.volume import VolumePhase, VolumeSpec, VolumeUsage

BLOCK_BYTES = 4096
SIZE_BYTES_MIN = 16 << 20
BYTES_PER_INODE = 32768
RESERVE_BYTES = 64 << 20
RESERVE_PART_OF = 50
JOURNAL_MIB = 64
JOURNAL_LIMITED_FROM_BYTES = 4 << 30
MKFS_TIMEOUT_S = 300.0
CHECK_TIMEOUT_S = 3600.0
RESIZE_TIMEOUT_S = 1800.0
CAP_SYS_RESOURCE = 24
CHECKED = (0, 1)  # e2fsck(8): no errors; errors corrected
CLOSE_TRIES = 3
FREEZER = Path(freezer.__file__)
FREEZE_LIMIT_S = 2.0
CLONE_TIMEOUT_S = 60.0

log = structlog.get_logger()


@cache
def can_resize_mounted() -> bool:
    """Whether the kernel lets us enlarge a mounted ext4 file system: it asks for CAP_SYS_RESOURCE (fs/ext4/ioctl.c)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> CAP_SYS_RESOURCE & 1)
    return False


class ImageDriver:
    """`VolumeDriver` of images."""

    @property
    def grows_open(self) -> bool:
        return can_resize_mounted()

    async def create(self, place: VolumePlace, spec: VolumeSpec, user: User) -> None:
        await in_thread(_create, place, spec, user)

    async def open(self, place: VolumePlace, spec: VolumeSpec, user: User) -> None:
        await in_thread(_open, place, spec)

    async def lock(self, place: VolumePlace) -> None:
        # Without the volume's lock: nothing that takes long must keep a key in the kernel.
        await in_thread(_take_key_away, place)

    async def close(self, place: VolumePlace) -> None:
        await in_thread(_close, place)

    async def grow(self, place: VolumePlace, spec: VolumeSpec) -> None:
        await in_thread(_grow, place, spec)

    async def clone(self, place: VolumePlace, clone: Path) -> Frozen:
        return await in_thread(_clone, place, clone)

    def thaw(self, place: VolumePlace) -> None:
        if mounts.mount_at(place.volume) is None:
            return
        with suppress(OSError):
            descriptor = os.open(place.volume, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            freezer.thaw(descriptor)
            os.close(descriptor)

    async def destroy(self, place: VolumePlace) -> None:
        await in_thread(_destroy, place)

    async def relieve(self, place: VolumePlace, user: User | None) -> None:
        """The reserved blocks of ext4 are for one user: root, or the engine's (ext4(5), resuid)."""
        await in_thread(_lend_reserve, place, 0 if user is None or user.user_id is None else user.user_id)

    def usage(self, place: VolumePlace, spec: VolumeSpec) -> VolumeUsage:
        try:
            size_bytes = place.image.stat().st_size
        except OSError:
            return VolumeUsage(phase=VolumePhase.MISSING)
        growing = place.growing.exists()
        if mounts.mount_at(place.volume) is None:
            return VolumeUsage(phase=VolumePhase.CLOSED, size_bytes=size_bytes, growing=growing)
        try:
            seen = os.statvfs(place.volume)
            unlocked = not spec.encrypted or _unlocked(place.volume)
        except OSError:
            return VolumeUsage(phase=VolumePhase.LOCKED, size_bytes=size_bytes, growing=growing)
        return VolumeUsage(
            phase=VolumePhase.OPEN if unlocked else VolumePhase.LOCKED,
            size_bytes=size_bytes,
            used_bytes=(seen.f_blocks - seen.f_bfree) * seen.f_frsize,
            free_bytes=seen.f_bavail * seen.f_frsize,
            growing=growing,
        )


def _create(place: VolumePlace, spec: VolumeSpec, user: User) -> None:
    """Everything is done to `unfinished`; its new name is what makes it a volume."""
    key = fscrypt.master_key(spec.data_key) if spec.encrypted else None
    with exclusively(place.lock) as lock:
        if place.image.exists():
            return
        _check_size(spec.size_bytes)
        _release(place)
        place.unfinished.unlink(missing_ok=True)
        if not (place.seed.exists() and _plant(place, key, lock)):
            _make_sparse(place.unfinished, spec.size_bytes)
            run_helper(_mkfs(place.unfinished, spec), lock, timeout_s=MKFS_TIMEOUT_S)
        with _whole(place, place.unfinished):
            directory, former = place.whole / ENGINE_DIRECTORY, place.whole / SEEDED
            if directory.exists():
                directory.rename(former)
            identifier = None if key is None else fscrypt.add_key(place.whole, key)
            directory.mkdir(mode=0o700)
            if identifier is not None:
                fscrypt.encrypt_directory(directory, identifier)
            if former.exists():
                former.rename(directory / SEEDED)
            user.give(directory)
            place.whole.chmod(0o711)
        with place.unfinished.open("rb") as file:
            os.fsync(file.fileno())
        place.unfinished.rename(place.image)
        place.seed.unlink(missing_ok=True)
        fsync_directory(place.root)


def _plant(place: VolumePlace, key: bytes | None, lock: int) -> bool:
    """Makes `unfinished` of the clone that the volume is to begin as; whether that is of use, and under this key."""
    share_blocks(place.seed, place.unfinished)
    try:
        run_helper(["e2fsck", "-p", str(place.unfinished)], lock, timeout_s=CHECK_TIMEOUT_S, accepted=CHECKED)
        with _whole(place, place.unfinished):
            there = fscrypt.policy_identifier(place.whole / ENGINE_DIRECTORY)
            wanted = None if key is None else fscrypt.add_key(place.whole, key)
    except Permanent as error:
        log.error("volume.bad_clone", volume=str(place.volume), error=error.message)
        there, wanted = b"", None
    if there != wanted:
        place.unfinished.unlink()
    return there == wanted


def _make_sparse(image: Path, size_bytes: int) -> None:
    descriptor = os.open(image, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, size_bytes)
    finally:
        os.close(descriptor)


def _mkfs(image: Path, spec: VolumeSpec) -> list[str]:
    reserve = min(RESERVE_BYTES, spec.size_bytes // RESERVE_PART_OF)
    argv = ["mkfs.ext4", "-q", "-F", "-b", str(BLOCK_BYTES), "-i", str(BYTES_PER_INODE)]
    if spec.size_bytes >= JOURNAL_LIMITED_FROM_BYTES:  # by default 128 MiB of the host's disk for every instance
        argv += ["-J", f"size={JOURNAL_MIB}"]
    argv += ["-m", f"{100 * reserve / spec.size_bytes:.4f}", "-E", "nodiscard,lazy_itable_init=1,root_owner=0:0"]
    return [*argv, *(("-O", "encrypt") if spec.encrypted else ()), str(image)]


def _check_size(size_bytes: int) -> None:
    if size_bytes < SIZE_BYTES_MIN or size_bytes % BLOCK_BYTES:
        raise Permanent(f"a volume of {size_bytes} bytes is smaller than {SIZE_BYTES_MIN}, or no multiple of 4096")


class _whole:
    """The whole file system of an image, mounted at `place.whole` for the block."""

    def __init__(self, place: VolumePlace, image: Path) -> None:
        self._place, self._image = place, image

    def __enter__(self) -> None:
        mounts.unmount(self._place.whole)
        self._place.whole.mkdir(mode=0o700, exist_ok=True)
        with loops.attached(self._image) as device:
            mounts.mount(str(device), self._place.whole, "ext4", options="errors=remount-ro")

    def __exit__(self, *_: object) -> None:
        mounts.unmount(self._place.whole)


def _open(place: VolumePlace, spec: VolumeSpec) -> None:
    with exclusively(place.lock) as lock:
        if not place.image.exists():
            raise Transient(f"{place.image} is not there")
        if mounts.mount_at(place.volume) is None:
            _mount(place, lock)
        mounts.unmount(place.whole)  # what a kill in the middle of `_mount` has left
        with suppress(OSError):
            place.whole.rmdir()
        if spec.encrypted:
            _unlock(place.volume, spec)


def _mount(place: VolumePlace, lock: int) -> None:
    _release(place)
    if not place.volume.exists():
        # Closed to everybody: an engine that is started on it by mistake finds no place to write.
        place.volume.mkdir(mode=0o000)
    _check(place, lock, force=place.growing.exists())
    with _whole(place, place.image):
        mounts.mount(str(place.whole / ENGINE_DIRECTORY), place.volume, "", mounts.MS_BIND)


def _unlock(directory: Path, spec: VolumeSpec) -> None:
    wanted = fscrypt.policy_identifier(directory)
    if wanted is None:
        raise Permanent(f"{directory} is not encrypted, and should be")
    if fscrypt.key_state(directory, wanted) is KeyState.PRESENT:
        return
    if not spec.data_key:
        raise Transient("the volume is locked: its key is not known here")
    given = fscrypt.add_key(directory, fscrypt.master_key(spec.data_key))
    if given != wanted:
        fscrypt.remove_key(directory, given)
        raise Permanent("this is not the key of the volume")


def _unlocked(directory: Path) -> bool:
    wanted = fscrypt.policy_identifier(directory)
    return wanted is not None and fscrypt.key_state(directory, wanted) is KeyState.PRESENT


def _take_key_away(place: VolumePlace) -> None:
    for directory in (place.volume, place.whole / ENGINE_DIRECTORY):
        if mounts.mount_at(directory.parent if directory.parent == place.whole else directory) is None:
            continue
        wanted = fscrypt.policy_identifier(directory)
        if wanted is not None:  # files in use, the bound directory always among them, keep theirs until they are closed
            fscrypt.remove_key(directory, wanted)


def _close(place: VolumePlace) -> None:
    with exclusively(place.lock):
        mounts.unmount(place.volume)  # the last unmount takes the keys of the file system away too
        _release(place)


def _release(place: VolumePlace) -> None:
    """No mount but that at `volume` is left, and no device that nobody has mounted.

    Raises `Transient` if the image is in use by somebody whom we do not see.
    """
    mounts.unmount(place.whole)
    if mounts.mount_at(place.volume) is not None:
        return
    for _ in range(CLOSE_TRIES):
        devices = [device for image in (place.image, place.unfinished) for device in loops.devices_of(image)]
        if not devices:
            return
        for device in devices:
            loops.detach(device)
    raise Transient(f"{devices[0]} still shows the image of {place.volume}: {mounts.users(devices[0])}")


def _check(place: VolumePlace, lock: int, *, force: bool) -> None:
    """Plays the journal back and repairs what can be repaired safely; a clean file system takes milliseconds."""
    argv = ["e2fsck", "-p", *(("-f",) if force else ()), str(place.image)]
    run_helper(argv, lock, timeout_s=CHECK_TIMEOUT_S, accepted=CHECKED)


def _grow(place: VolumePlace, spec: VolumeSpec) -> None:
    """The marker tells a successor that the file may be larger than the file system in it."""
    _check_size(spec.size_bytes)
    with exclusively(place.lock) as lock:
        if place.image.stat().st_size >= spec.size_bytes and not place.growing.exists():
            return
        mounted = mounts.mount_at(place.volume)
        if mounted is not None and not can_resize_mounted():
            mounts.unmount(place.volume)
            mounted = None
        if mounted is None:
            _release(place)
        place.growing.touch(mode=0o600)
        fsync_directory(place.root)
        if place.image.stat().st_size < spec.size_bytes:
            os.truncate(place.image, spec.size_bytes)
        if mounted is None:
            _check(place, lock, force=True)
            run_helper(["resize2fs", str(place.image)], lock, timeout_s=RESIZE_TIMEOUT_S)
            with place.image.open("rb") as file:
                os.fsync(file.fileno())
        else:
            for device in loops.devices_of(place.image):
                loops.take_new_size(device)
                run_helper(["resize2fs", str(device)], lock, timeout_s=RESIZE_TIMEOUT_S)
        place.growing.unlink()
        fsync_directory(place.root)


def _lend_reserve(place: VolumePlace, user_id: int) -> None:
    if mounts.mount_at(place.volume) is not None:
        mounts.mount("none", place.volume, "", mounts.MS_REMOUNT | mounts.QUIET, f"resuid={user_id}")


def _clone(place: VolumePlace, clone: Path) -> Frozen:
    with exclusively(place.lock) as lock:
        if mounts.mount_at(place.volume) is None or place.growing.exists():
            raise Transient("the volume is not open, or is being enlarged")
        program = [os.path.realpath(sys.executable), "-I", "-S", str(FREEZER)]
        argv = [*program, str(place.volume), str(place.image), str(clone), str(FREEZE_LIMIT_S)]
        said = run_helper(argv, lock, timeout_s=CLONE_TIMEOUT_S, accepted=(0, 1))
    try:
        return msgspec.json.decode(said, type=Frozen)
    except msgspec.MsgspecError:
        raise Transient(f"the volume was not cloned: {said[-OUTPUT_BYTES_SHOWN:].decode(errors='replace')}") from None


def _destroy(place: VolumePlace) -> None:
    with exclusively(place.lock):
        mounts.unmount(place.volume)
        _release(place)
        for path in (place.image, place.unfinished, place.seed, place.growing, place.sharing):
            path.unlink(missing_ok=True)
        for directory in (place.whole, place.volume):
            mounts.remove_tree(directory)
        place.lock.unlink()
