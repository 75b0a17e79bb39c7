"""Room for a copy of an engine's data: what gives way to it."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

from mainstay.engines.node_files import NodeFiles
from mainstay.host.files import fsync_directory
from mainstay.model.assignment import Upstream

ROOM_PERCENT = 110
"""What is written to the source while it is copied comes along."""

log = structlog.get_logger()


def discarded_data(files: NodeFiles) -> Path:
    """Data that a copy has replaced, or is to replace, until it is gone."""
    return files.volume / "data.discarded"


def free_bytes(directory: Path) -> int:
    """What may still be written there."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


async def make_room(files: NodeFiles, upstream: Upstream, bytes_for: Callable[[Path], int]) -> None:
    """Removes the data that a copy of the upstream is to replace, if its volume has no room for both.

    Nobody is copied anew whose data could be of use again, but while there is room it stays until the copy is complete.
    Without this, a node whose volume is more than half full would be copied in vain for ever. Of an upstream on another
    host nothing is known: then the data stays. `bytes_for`: what copying that data takes, blocking.
    """
    if not files.data.exists():
        return
    source = files.of(upstream.node_id).data
    needed = await asyncio.to_thread(bytes_for, source) if source.exists() else 0
    free = free_bytes(files.volume)
    if needed <= free:
        return
    log.warning("node.data_gives_way", volume=str(files.volume), needed_bytes=needed, free_bytes=free)
    discarded = discarded_data(files)
    await remove(discarded)
    files.data.rename(discarded)  # what is removed in part is never taken for a data directory
    fsync_directory(files.volume)
    await remove(discarded)


async def remove(path: Path) -> None:
    """The tree is gone when this returns."""
    with suppress(FileNotFoundError):
        await asyncio.to_thread(shutil.rmtree, path)
