"""Loop devices: a file as a block device, by ioctl (loop(4), linux/loop.h).

A device is attached with AUTOCLEAR: the kernel detaches it when its last user has gone, so that neither a kill between
attaching and mounting nor an unmount by hand leaves one behind.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mainstay.model.errors import Transient

LOOP_CTL_GET_FREE = 0x4C82
LOOP_CONFIGURE = 0x4C0A
LOOP_CLR_FD = 0x4C01
LOOP_SET_CAPACITY = 0x4C07
READ_ONLY, AUTOCLEAR, DIRECT_IO = 1, 4, 16
CONTROL = Path("/dev/loop-control")
TRIES = 20
# struct loop_config: fd, block_size, loop_info64 (device, inode, rdevice, offset, sizelimit, number, encrypt_type,
# encrypt_key_size, flags, file_name[64], crypt_name[64], encrypt_key[32], init[2]), reserved[8].
CONFIGURATION = struct.Struct("=II QQQQQIIII 64s64s32s QQ 64s")


@contextmanager
def attached(image: Path, *, read_only: bool = False) -> Iterator[Path]:
    """A device of this file for the block; mounted within it, the device lives on until it is unmounted.

    Direct I/O, so that a page is not cached twice, where the file system below can do it.
    """
    number, descriptor = _attach(image, read_only=read_only)
    try:
        yield Path(f"/dev/loop{number}")
    finally:
        os.close(descriptor)


def devices_of(image: Path) -> list[Path]:
    """The devices that show this file now."""
    try:
        wanted = image.stat()
    except FileNotFoundError:
        return []
    found = []
    for directory in Path("/sys/block").glob("loop*"):
        try:
            shown = (directory / "loop" / "backing_file").read_text().strip()
            backing = os.stat(shown.removesuffix(" (deleted)"))
        except OSError:
            continue  # not attached, or its file has been removed
        if (backing.st_dev, backing.st_ino) == (wanted.st_dev, wanted.st_ino):
            found.append(Path("/dev") / directory.name)
    return found


def detach(device: Path) -> None:
    """Detaches a device that somebody attached without AUTOCLEAR; one in use goes when its last user does."""
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.ioctl(descriptor, LOOP_CLR_FD, 0)
    except OSError as error:
        if error.errno != errno.ENXIO:  # not attached any more
            raise
    finally:
        os.close(descriptor)


def take_new_size(device: Path) -> None:
    """The device is as large as its file has become."""
    descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, LOOP_SET_CAPACITY, 0)
    finally:
        os.close(descriptor)


def _attach(image: Path, *, read_only: bool) -> tuple[int, int]:
    access, always = (os.O_RDONLY, AUTOCLEAR | READ_ONLY) if read_only else (os.O_RDWR, AUTOCLEAR)
    file = os.open(image, access | os.O_CLOEXEC)
    try:
        for flags in (always | DIRECT_IO, always):
            for _ in range(TRIES):
                number = _free_number()
                descriptor = os.open(f"/dev/loop{number}", access | os.O_CLOEXEC)
                try:
                    fcntl.ioctl(descriptor, LOOP_CONFIGURE, _configuration(file, image, flags))
                    return number, descriptor
                except OSError as error:
                    os.close(descriptor)
                    if error.errno == errno.EINVAL and flags & DIRECT_IO:
                        break  # the file system below has no direct I/O
                    if error.errno != errno.EBUSY:
                        raise
        raise Transient(f"no free loop device for {image} in {TRIES} tries")
    finally:
        os.close(file)


def _free_number() -> int:
    control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        return fcntl.ioctl(control, LOOP_CTL_GET_FREE)
    finally:
        os.close(control)


def _configuration(file: int, image: Path, flags: int) -> bytes:
    name = os.fsencode(image)[-63:]
    return CONFIGURATION.pack(file, 0, 0, 0, 0, 0, 0, 0, 0, 0, flags, name, b"", b"", 0, 0, b"")
