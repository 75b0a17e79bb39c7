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


def has_more(data: Path, name: str, position: int) -> bool:
    """Whether a follower has received anything behind this position of this relay log. Blocking."""
    here = Path(name).name
    with suppress(FileNotFoundError):  # applied, and removed meanwhile
        later = [path for path in data.glob(f"{RELAY_LOG}.[0-9]*") if int(path.suffix[1:]) > int(Path(here).suffix[1:])]
        return bool(later) or (data / here).stat().st_size > position
    return True


def _fsync_file(path: str | Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
