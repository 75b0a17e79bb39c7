"""Which kinds of volumes this host can have, found out by making one of each: small, once per process.

LUKS is not among them: no host with a device mapper was at hand to test it on (docs/volumes.md).
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections.abc import Callable, Coroutine
from functools import cache
from pathlib import Path

from mainstay.host.processes import SAFE_ENVIRONMENT, User
from mainstay.host.volumes import clones
from mainstay.host.volumes.base import VolumeDriver, VolumePlace
from mainstay.host.volumes.directory import DirectoryDriver
from mainstay.host.volumes.gocryptfs import GocryptfsDriver
from mainstay.host.volumes.image import SIZE_BYTES_MIN, ImageDriver, can_resize_mounted
from mainstay.host.volumes.mounts import remove_tree
from mainstay.model.errors import MainstayError, Permanent
from mainstay.model.volume import DATA_KEY_BYTES, VolumeDriverReport, VolumeSpec

DRIVERS: dict[str, VolumeDriver] = {
    "directory": DirectoryDriver(),
    "image": ImageDriver(),
    "gocryptfs": GocryptfsDriver(),
}
KINDS = (("directory", False), ("image", False), ("image", True), ("gocryptfs", True))
Trial = Callable[[VolumeDriver, VolumePlace, VolumeSpec], Coroutine[None, None, None]]
TRIAL = ".volume-trial-"
SIZED = frozenset({"image"})
GROWS_CLOSED = "growing restarts the engine: the kernel enlarges a mounted file system for CAP_SYS_RESOURCE only"


@cache
def examine_drivers(directory: Path) -> tuple[VolumeDriverReport, ...]:
    """Tries every kind of volume below `directory`, which must exist. Takes about half a second."""
    return tuple(_report(directory, driver, encrypted) for driver, encrypted in KINDS)


def _report(directory: Path, driver: str, encrypted: bool) -> VolumeDriverReport:
    obstacle = _obstacle(directory, driver, encrypted)
    no_clones = "only images can be cloned" if driver != "image" else obstacle or _clone_obstacle(directory, encrypted)
    return VolumeDriverReport(
        driver=driver,
        encrypted=encrypted,
        sized=driver in SIZED,
        usable=not obstacle,
        reason=obstacle or (GROWS_CLOSED if driver == "image" and not can_resize_mounted() else ""),
        clones=not no_clones,
        clones_reason=no_clones,
    )


def _obstacle(directory: Path, driver: str, encrypted: bool) -> str:
    """Why this kind cannot be used here, "" if it can."""
    return _missing(driver) or _trial(directory, driver, encrypted, _try)


def _clone_obstacle(directory: Path, encrypted: bool) -> str:
    """Why images cannot be cloned here, "" if they can."""
    return clones.obstacle(directory) or _trial(directory, "image", encrypted, _try_clone)


def _trial(directory: Path, driver: str, encrypted: bool, trial: Trial) -> str:
    """What went wrong in a volume that was made for this, "" for nothing."""
    scratch = directory / f"{TRIAL}{os.getpid()}"
    key = secrets.token_hex(DATA_KEY_BYTES) if encrypted else ""
    spec = VolumeSpec(driver=driver, size_bytes=SIZE_BYTES_MIN, encrypted=encrypted, data_key=key)
    try:
        _sweep(directory)
        scratch.mkdir(mode=0o700)
        asyncio.run(trial(DRIVERS[driver], VolumePlace(scratch), spec))
        remove_tree(scratch)
    except (MainstayError, OSError) as error:
        return f"{error}"
    return ""


def _sweep(directory: Path) -> None:
    """Removes what trials of processes that have been killed left, and of our own."""
    for left in directory.glob(f"{TRIAL}*"):
        pid = left.name.removeprefix(TRIAL)
        if pid == str(os.getpid()) or not Path("/proc", pid).exists():
            for driver in DRIVERS.values():
                asyncio.run(driver.destroy(VolumePlace(left)))
            remove_tree(left)


def _missing(driver: str) -> str:
    """What can be said without trying."""

    def absent(*programs: str) -> str:
        gone = [one for one in programs if shutil.which(one, path=SAFE_ENVIRONMENT["PATH"]) is None]
        return f"{', '.join(gone)} not installed" if gone else ""

    if driver == "image":
        if os.geteuid() != 0:
            return "mounting an image needs root"
        return absent("mkfs.ext4", "e2fsck", "resize2fs")
    if driver == "gocryptfs":
        if gone := absent("gocryptfs", "fusermount3"):
            return gone
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            return "/dev/fuse is not there, or not for this user"
    return ""


async def _try_clone(driver: VolumeDriver, place: VolumePlace, spec: VolumeSpec) -> None:
    owner, clone = User("self", os.geteuid(), os.getegid()), place.root / "clone"
    try:
        await driver.create(place, spec, owner)
        await driver.open(place, spec, owner)
        await driver.clone(place, clone)
    finally:
        clone.unlink(missing_ok=True)
        await driver.destroy(place)


async def _try(driver: VolumeDriver, place: VolumePlace, spec: VolumeSpec) -> None:
    owner = User("self", os.geteuid(), os.getegid())
    written = secrets.token_bytes(8192)
    try:
        await driver.create(place, spec, owner)
        await driver.open(place, spec, owner)
        (place.volume / "file").write_bytes(written)
        await driver.close(place)
        await driver.open(place, spec, owner)
        if (place.volume / "file").read_bytes() != written:
            raise Permanent("what was written is not what is read")
        if spec.encrypted:
            await driver.lock(place)
            _must_be_closed(place.volume / "file")
            await driver.close(place)
            if any(path.is_file() and written in path.read_bytes() for path in place.root.rglob("*")):
                raise Permanent("what was written is there in plain text")
    finally:
        await driver.destroy(place)


def _must_be_closed(file: Path) -> None:
    try:
        file.read_bytes()
    except OSError:
        return
    raise Permanent("what was written can be read without the key")
