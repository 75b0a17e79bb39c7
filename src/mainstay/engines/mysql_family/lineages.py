"""What a data directory knows of the log that is written there: files that are in no copy of it.

`LEADS_FROM` is written by a follower that takes over, before it takes its first write. `LINEAGE` is written by whoever
ships the log: for which repository, and on which timeline. Both go when the node is copied anew, as its binary logs do.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mainstay.engines.mysql_family.log_places import Lineage
from mainstay.host.file_identity import files_as
from mainstay.host.files import write_atomically
from mainstay.model.errors import Permanent

LEADS_FROM = "mainstay.leads-from"
LINEAGE = "mainstay.lineage"
HISTORY = "mainstay.history"

Kind = TypeVar("Kind")


class LeadsFrom(msgspec.Struct, frozen=True, kw_only=True):
    """A follower's last position (GTIDs), and the first binary log with what it has written as a leader.

    `unlogged` are transactions that it had and that no binary log of its own has: those of the copy that it began as.
    """

    position: str
    file: int
    unlogged: str = ""


class Shipped(msgspec.Struct, frozen=True, kw_only=True):
    """For which repository the log is shipped, and where it comes from."""

    repository: str
    lineage: Lineage


def read_leads_from(data: Path) -> LeadsFrom | None:
    """None for a leader that never followed. Raises `Permanent` if it cannot be read."""
    return _read(data, LEADS_FROM, LeadsFrom)


def write_leads_from(data: Path, found: LeadsFrom) -> None:
    """Durable when it returns."""
    _write(data, LEADS_FROM, found)


def read_shipped(data: Path) -> Shipped | None:
    """None before the log is shipped. Raises `Permanent` if it cannot be read."""
    return _read(data, LINEAGE, Shipped)


def write_shipped(data: Path, shipped: Shipped) -> None:
    """With the file that goes into the archive. Durable when it returns."""
    _write(data, HISTORY, shipped.lineage)
    _write(data, LINEAGE, shipped)


def as_owner(directory: Path) -> Any:
    """Files are reached as the directory's owner meanwhile, who could lead us elsewhere with links."""
    status = directory.stat()
    return files_as((status.st_uid, status.st_gid) if os.geteuid() == 0 else None)


def _read(data: Path, name: str, kind: type[Kind]) -> Kind | None:
    try:
        with as_owner(data):
            content = (data / name).read_bytes()
        return msgspec.json.decode(content, type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise Permanent(f"{data / name} cannot be read: {error}") from error


def _write(data: Path, name: str, content: msgspec.Struct) -> None:
    with as_owner(data):
        write_atomically(data / name, msgspec.json.encode(content))
