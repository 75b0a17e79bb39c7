"""Where the tests' files are: in memory if there is plenty of it.

Nothing but the tests of power cuts, which have a file system of their own, can tell the difference: what a killed
process has written is there, synchronised or not. But a suite that waits for a disk is slow, and on one that is busy
with something else it waits for seconds in places where nobody expects it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import psutil

MEMORY = Path("/dev/shm")
ENOUGH_BYTES = 6 << 30
SETTING = "MAINSTAY_TESTS_IN"


def memory_or(disk: Path) -> Path:
    """The directory that the environment names, else the one in memory if there is enough room, else `disk`."""
    if named := os.environ.get(SETTING):
        return Path(named)
    try:
        free = min(shutil.disk_usage(MEMORY).free, psutil.virtual_memory().available)
    except OSError:
        return disk
    return MEMORY if free >= ENOUGH_BYTES and os.access(MEMORY, os.W_OK | os.X_OK) else disk
