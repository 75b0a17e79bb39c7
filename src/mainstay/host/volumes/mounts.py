"""Mounts of this machine: made, undone and looked up by system call; and removal that never goes through one.

mount(2) and umount2(2) are called through libc: a helper program could outlive a killed agent and mount later.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from mainstay.model.errors import Transient

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_NOATIME, MS_BIND = 1, 2, 4, 32, 1024, 4096
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8
QUIET = MS_NOSUID | MS_NODEV | MS_NOATIME
HOLDERS_SHOWN = 5
BUSY_RETRY_S = 0.5

_libc = ctypes.CDLL(None, use_errno=True)
_ESCAPED = re.compile(r"\\([0-7]{3})")


class Mount(msgspec.Struct, frozen=True):
    """One line of /proc/self/mountinfo. `device` is "major:minor", `part` what of the file system is shown."""

    device: str
    part: str
    point: Path
    kind: str
    source: str


def mounts() -> Iterator[Mount]:
    """Every mount that we see, oldest first (proc_pid_mountinfo(5))."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        fields, (kind, source, *_rest) = before.split(), after.split()
        yield Mount(fields[2], _plain(fields[3]), Path(_plain(fields[4])), kind, _plain(source))


def mount_at(point: Path) -> Mount | None:
    """What is mounted exactly there, the topmost; None if nothing is."""
    real = Path(os.path.realpath(point))
    found = [mount for mount in mounts() if mount.point == real]
    return found[-1] if found else None


def mounts_below(directory: Path) -> list[Mount]:
    """Everything mounted at or below a directory."""
    real = Path(os.path.realpath(directory))
    return [mount for mount in mounts() if mount.point.is_relative_to(real)]


def mount(source: str, point: Path, kind: str, flags: int = QUIET, options: str = "") -> None:
    """mount(2). Raises `OSError`."""
    arguments = (source.encode(), os.fsencode(point), kind.encode(), ctypes.c_ulong(flags), options.encode())
    _checked(_libc.mount(*arguments), f"mount {source} at {point}")


def unmount(point: Path, flags: int = 0) -> None:
    """Undoes every mount at this very point; nothing there is no error.

    Raises `Transient` naming who uses it, or `OSError`.
    """
    while mount_at(point) is not None:
        try:
            _checked(_libc.umount2(os.fsencode(point), flags | UMOUNT_NOFOLLOW), f"unmount {point}")
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            raise Transient(f"{point} cannot be unmounted: {users(point)}", retry_after_s=BUSY_RETRY_S) from error


def users(point: Path) -> str:
    """Which processes use what is mounted at `point`, in words."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and (how := _uses(Path("/proc") / name, point)):
            try:
                command = (Path("/proc") / name / "comm").read_text().strip()
            except OSError:
                continue
            found.append(f"{command} (pid {name}, {how})")
    if not found:
        return "something that is no process of this machine's view uses it (another mount namespace, the kernel)"
    more = f" and {len(found) - HOLDERS_SHOWN} more" if len(found) > HOLDERS_SHOWN else ""
    return f"used by {', '.join(found[:HOLDERS_SHOWN])}{more}"


def remove_tree(directory: Path) -> None:
    """Removes a directory with everything in it; refuses, with `Transient`, while something is mounted below.

    No symbolic link is followed, and no other file system is entered, even one mounted meanwhile.
    """
    if directory.is_symlink() or not directory.is_dir():
        directory.unlink(missing_ok=True)
        return
    below = mounts_below(directory)
    if below:
        points = ", ".join(str(mount.point) for mount in below)
        raise Transient(f"{directory} is not removed: {points} is still mounted; {users(below[-1].point)}")
    shutil.rmtree(directory)


def _uses(process: Path, point: Path) -> str:
    prefix = f"{os.path.realpath(point)}/"

    def inside(link: Path) -> bool:
        try:
            return f"{os.readlink(link).removesuffix(' (deleted)')}/".startswith(prefix)
        except OSError:
            return False  # it ended, or is not ours to look at

    for name, words in (("cwd", "works in it"), ("root", "has its root in it"), ("exe", "runs a program of it")):
        if inside(process / name):
            return words
    try:
        if any(inside(descriptor) for descriptor in (process / "fd").iterdir()):
            return "has a file of it open"
        if prefix in (process / "maps").read_text():
            return "has a file of it in its memory"
    except OSError:
        pass
    return ""


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _plain(text: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), text)
