"""A directory encrypted file by file in user space: gocryptfs over FUSE. Works without loop devices and without root.

The data key is the password that the cipher directory's own configuration file is sealed with; it reaches the program
on its standard input. The key is in the memory of the mounting process alone: killing that is taking the key away, and
what an engine had open is lost to it. No size limit.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from mainstay.host.files import make_private_directory
from mainstay.host.processes import OUTPUT_BYTES_SHOWN, SAFE_ENVIRONMENT, User
from mainstay.host.volumes import mounts
from mainstay.host.volumes.base import Frozen, VolumePlace
from mainstay.host.volumes.tools import exclusively, in_thread, program, run_helper
from mainstay.model.errors import Permanent, Transient
from mainstay.model.volume import VolumePhase, VolumeSpec, VolumeUsage

CONFIGURATION = "gocryptfs.conf"
MOUNT_TIMEOUT_S = 30.0
END_TIMEOUT_S = 5.0
WRONG_PASSWORD = 12
SCRYPT_LEAST = "10"  # the password is a random key: making it slow to guess gains nothing


class GocryptfsDriver:
    """`VolumeDriver` of gocryptfs."""

    grows_open = True

    async def create(self, place: VolumePlace, spec: VolumeSpec, user: User) -> None:
        await in_thread(_create, place, spec, user)

    async def open(self, place: VolumePlace, spec: VolumeSpec, user: User) -> None:
        await in_thread(_open, place, spec, user)

    async def lock(self, place: VolumePlace) -> None:
        await in_thread(_lock, place)

    async def close(self, place: VolumePlace) -> None:
        await in_thread(_close, place)

    async def grow(self, place: VolumePlace, spec: VolumeSpec) -> None:
        """It has all the room there is."""

    async def clone(self, place: VolumePlace, clone: Path) -> Frozen:
        raise Permanent("a gocryptfs volume has no image that could be cloned")

    def thaw(self, place: VolumePlace) -> None:
        """It is never frozen."""

    async def destroy(self, place: VolumePlace) -> None:
        await in_thread(_destroy, place)

    async def relieve(self, place: VolumePlace, user: User | None) -> None:
        """Nothing is kept back."""

    def usage(self, place: VolumePlace, spec: VolumeSpec) -> VolumeUsage:
        if not (place.cipher / CONFIGURATION).exists():
            return VolumeUsage(phase=VolumePhase.MISSING)
        if mounts.mount_at(place.volume) is None:
            return VolumeUsage(phase=VolumePhase.CLOSED)
        try:
            os.statvfs(place.volume)
        except OSError:  # its process is gone
            return VolumeUsage(phase=VolumePhase.LOCKED)
        return VolumeUsage(phase=VolumePhase.OPEN)


def _create(place: VolumePlace, spec: VolumeSpec, user: User) -> None:
    """Made beside and renamed: the configuration file tells that it is complete."""
    if not spec.encrypted or not spec.data_key:
        raise Permanent("a gocryptfs volume needs a data key")
    with exclusively(place.lock) as lock:
        if (place.cipher / CONFIGURATION).exists():
            return
        unfinished = place.cipher.with_name(f"{place.cipher.name}.new")
        mounts.remove_tree(unfinished)
        make_private_directory(unfinished)
        argv = ["gocryptfs", "-init", "-q", "-scryptn", SCRYPT_LEAST, str(unfinished)]
        run_helper(argv, lock, timeout_s=MOUNT_TIMEOUT_S, stdin=f"{spec.data_key}\n".encode())
        mounts.remove_tree(place.cipher)
        unfinished.rename(place.cipher)


def _open(place: VolumePlace, spec: VolumeSpec, user: User) -> None:
    with exclusively(place.lock):
        if not (place.cipher / CONFIGURATION).exists():
            raise Transient(f"{place.cipher} is not there")
        if mounts.mount_at(place.volume) is not None:
            with suppress(OSError):
                os.statvfs(place.volume)
                return
            _unmount(place.volume, lazily=True)
        if not spec.data_key:
            raise Transient("the volume is locked: its key is not known here")
        _end(place)  # one that a killed agent has started may be about to mount
        if not place.volume.exists():
            place.volume.mkdir(mode=0o700)
        _mount(place, spec)
        user.give(place.volume)  # what is seen through the mount, from the first time on
        place.volume.chmod(0o700)


def _mount(place: VolumePlace, spec: VolumeSpec) -> None:
    argv = [program("gocryptfs"), "-q", "-nosyslog", "-nodev", "-nosuid"]
    if os.geteuid() == 0:
        argv.append("-allow_other")  # engines run as another user
    said = place.root / "volume.log"  # its process goes on in the background and keeps what it was given
    descriptor = os.open(said, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        done = subprocess.run(
            [*argv, str(place.cipher), str(place.volume)],
            input=f"{spec.data_key}\n".encode(),
            stdout=descriptor,
            stderr=descriptor,
            env=SAFE_ENVIRONMENT,
            cwd="/",
            timeout=MOUNT_TIMEOUT_S,
            start_new_session=True,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Transient(f"gocryptfs took longer than {MOUNT_TIMEOUT_S} s") from error
    finally:
        os.close(descriptor)
    if done.returncode == WRONG_PASSWORD:
        raise Permanent("this is not the key of the volume")
    if done.returncode != 0:
        raise Permanent(f"gocryptfs: {said.read_text(errors='replace')[-OUTPUT_BYTES_SHOWN:].strip()}")


def _lock(place: VolumePlace) -> None:
    pids = _processes(place)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + END_TIMEOUT_S
    while _processes(place):
        if time.monotonic() > deadline:
            raise Transient(f"the process of {place.volume} (pid {pids}) does not end")
        time.sleep(0.01)


def _close(place: VolumePlace) -> None:
    with exclusively(place.lock):
        _unmount(place.volume)
        _end(place)


def _end(place: VolumePlace) -> None:
    """Nothing is mounted there, and nobody is left who could."""
    _lock(place)
    _unmount(place.volume, lazily=True)


def _destroy(place: VolumePlace) -> None:
    with exclusively(place.lock):
        _unmount(place.volume)
        _end(place)
        for path in (place.volume, place.cipher.with_name(f"{place.cipher.name}.new"), place.cipher):
            mounts.remove_tree(path)
        (place.root / "volume.log").unlink(missing_ok=True)
        place.lock.unlink()


def _unmount(point: Path, *, lazily: bool = False) -> None:
    """An ordinary user's mount is undone by the helper that made it."""
    if os.geteuid() == 0:
        mounts.unmount(point, mounts.MNT_DETACH if lazily else 0)
        return
    if mounts.mount_at(point) is None:
        return
    argv = [program("fusermount3"), "-u", *(("-z",) if lazily else ()), str(point)]
    done = subprocess.run(argv, capture_output=True, env=SAFE_ENVIRONMENT, timeout=MOUNT_TIMEOUT_S, check=False)
    if done.returncode != 0 and mounts.mount_at(point) is not None:
        raise Transient(f"{point} cannot be unmounted: {mounts.users(point)}", retry_after_s=mounts.BUSY_RETRY_S)


def _processes(place: VolumePlace) -> list[int]:
    """The gocryptfs that has this cipher directory mounted: there is one, or a dead one's helper besides."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            arguments = (Path("/proc") / name / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if os.path.basename(arguments[0]) == b"gocryptfs" and os.fsencode(place.cipher) in arguments:
            found.append(int(name))
    return found
