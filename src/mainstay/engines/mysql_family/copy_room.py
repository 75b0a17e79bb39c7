"""How much room a copy of the data of an engine of this family takes."""

from __future__ import annotations

from pathlib import Path

from mainstay.backups.sources import walk
from mainstay.engines.copy_room import ROOM_PERCENT
from mainstay.engines.mysql_family.layout import BINLOG

COPIER_BYTES = 256 << 20
"""The server that makes a copy of MySQL has an empty database of its own beside."""


def size_of_copy(data: Path) -> int:
    """What a copy of this data takes: everything but the binary logs. Blocking."""
    return sum(one.size for one in walk(data) if not one.path.startswith(BINLOG)) * ROOM_PERCENT // 100


def bytes_for_copying(data: Path) -> int:
    """What it takes to make one. Blocking."""
    return size_of_copy(data) + COPIER_BYTES
