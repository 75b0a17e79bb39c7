"""Data directories on the disk: these engines' tools do not sync what they have made."""

from __future__ import annotations

import os
from pathlib import Path

from mainstay.host.files import fsync_directory


def fsync_tree(root: Path) -> None:
    """Every file and directory below `root` is durable when this returns. Blocking."""
    for directory, _names, files in os.walk(root):
        for name in files:
            path = os.path.join(directory, name)
            if os.path.islink(path):
                continue
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        fsync_directory(Path(directory))
