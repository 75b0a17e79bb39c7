"""Data directories on the disk: these engines' tools do not sync what they have made."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from mainstay.host.files import fsync_directory

RELAY_LOG: Final = "relaylog"
"""Base name of the files with what a follower has received."""


def fsync_tree(root: Path) -> None:
    """Every file and directory below `root` is durable when this returns. Blocking."""
    for directory, _names, files in os.walk(root):
        for name in files:
            path = os.path.join(directory, name)
            if not os.path.islink(path):
                _fsync_file(path)
        fsync_directory(Path(directory))


def fsync_relay_logs(data: Path) -> None:
    """All that a running follower has received till now is durable when this returns. Blocking."""
    for path in sorted(data.glob(f"{RELAY_LOG}.*")):
        with suppress(FileNotFoundError):  # applied, and removed meanwhile
            _fsync_file(path)
    fsync_directory(data)


def _fsync_file(path: str | Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
