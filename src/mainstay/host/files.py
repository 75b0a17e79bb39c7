"""Files that survive a kill and are not read by strangers: the one place with the write-fsync-rename recipe."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Replaces `path` as a whole: after a kill or power cut it holds either the old content or the new, never a part.

    The file is created with `mode` before anything is written to it, so that a secret is never readable meanwhile.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        os.fchmod(descriptor, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def fsync_directory(path: Path) -> None:
    """Makes renames and creations in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_private_directory(path: Path, *, mode: int = 0o700) -> None:
    """Creates the directory (and its parents) if needed and gives it exactly this mode."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
