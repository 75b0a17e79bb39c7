"""A file system that shares blocks between files, for tests: XFS, or btrfs, in a sparse file of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from harness.volumes import why_not
from mainstay.host.processes import SAFE_ENVIRONMENT
from mainstay.host.volumes.mounts import MNT_DETACH, mounts_below, unmount

SIZE_BYTES = 16 << 30
MAKERS = {"xfs": ("mkfs.xfs", "-q", "-f"), "btrfs": ("mkfs.btrfs", "-q", "-f")}


@cache
def kind() -> str:
    """Which of them this host can make and mount, "" for none."""
    known = Path("/proc/filesystems").read_text().split()
    for name, (program, *_options) in MAKERS.items():
        if name in known and shutil.which(program, path=SAFE_ENVIRONMENT["PATH"]):
            return name
    return ""


def why_no_clones() -> str:
    """Why there can be no clones of volumes on this host, "" if there can."""
    if reason := why_not("image", False):
        return reason
    return "" if kind() else "neither XFS with xfsprogs nor btrfs with btrfs-progs is here"


@contextmanager
def reflink_directory(size_bytes: int = SIZE_BYTES) -> Iterator[Path]:
    """An empty directory on such a file system, as root; nothing is left of it."""
    directory = Path(tempfile.mkdtemp(prefix="mainstay-reflink-", dir="/var/tmp"))
    directory.chmod(0o711)
    image, place = directory / "image", directory / "mounted"
    with image.open("wb") as file:
        os.truncate(file.fileno(), size_bytes)
    program, *options = MAKERS[kind()]
    subprocess.run([program, *options, str(image)], check=True, capture_output=True, timeout=60)
    place.mkdir()
    try:
        subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True, timeout=60)
        place.chmod(0o711)
        yield place
    finally:
        for mount in reversed(mounts_below(directory)):
            unmount(mount.point, 0 if mount.point == place else MNT_DETACH)
        shutil.rmtree(directory)
