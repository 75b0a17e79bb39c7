"""Disks that are full: a volume with little room, and what takes the last byte of it (root)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.pairs import MultiAZ
from harness.service import eventually


def fill(path: Path) -> None:
    """Takes every byte that is left, into this file."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue


@contextmanager
def cramped(pair: MultiAZ, size_mib: int, *, both: bool = False) -> Iterator[str]:
    """The volume of the node that leads becomes a file system of this size; its id. In sync again when this begins.

    `both`: it is one file system for all that both nodes have. The service is down at the end. Skips the test where
    nothing can be mounted.
    """
    service, before = pair.service, pair.await_in_sync()
    node_id = before.primary
    volume = pair.volume(node_id).parent.parent if both else pair.volume(node_id)
    service.cli("down")
    aside = volume.with_name("aside")
    volume.rename(aside)
    volume.mkdir()
    mode = f"{aside.stat().st_mode & 0o777:o}"
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m,mode={mode}", "tmpfs", str(volume)]
    if (mounted := subprocess.run(mounting, capture_output=True, text=True, timeout=20, check=False)).returncode:
        volume.rmdir()
        aside.rename(volume)
        pytest.skip(f"this machine does not let us mount: {mounted.stderr}")
    try:
        subprocess.run(["cp", "-a", f"{aside}/.", str(volume)], check=True, timeout=60)
        shutil.rmtree(aside)
        service.cli("up", "--detach")
        service.await_status(pair.identifier, "available")
        # Until these processes are known to be in sync, the record is still what was known of those that were stopped.
        after = eventually(
            lambda: (record := pair.record).incarnation != before.incarnation and record.standby and record
        )
        assert after.primary == node_id
        yield node_id
    finally:
        service.cli("down")
        subprocess.run(["umount", "-l", str(volume)], check=True, timeout=20)
