"""The files of a service that runs: some of them come and go while one looks."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def files_below(root: Path) -> list[Path]:
    """Every regular file there is; what vanishes meanwhile is no error."""
    found = [Path(directory) / name for directory, _, names in os.walk(root) for name in names]
    return sorted(path for path in found if path.is_file() and not path.is_symlink())


def holding(root: Path, *wanted: bytes) -> list[Path]:
    """The files below this directory in which one of these is."""
    found = []
    for path in files_below(root):
        with suppress(FileNotFoundError):
            content = path.read_bytes()
            if any(one in content for one in wanted):
                found.append(path)
    return found
