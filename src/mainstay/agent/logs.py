"""An instance's log files, for DescribeDBLogFiles and DownloadDBLogFilePortion: only files below its log directory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mainstay.engines.node_files import NodeFiles
from mainstay.model.errors import Permanent

PORTION_BYTES_MAX = 1024 * 1024
LINES_DEFAULT = 10_000
MARKER = re.compile(r"[0-9]{1,19}")
NAME_LENGTH_SHOWN = 200


def list_logs(files: NodeFiles) -> list[dict[str, Any]]:
    """Every log file: name relative to the log directory, last change in epoch milliseconds, size in bytes."""
    found: list[dict[str, Any]] = []
    if files.logs.is_symlink():  # on a volume the directory that it is in belongs to the engine's user
        return found
    for path in sorted(files.logs.rglob("*")):
        if path.is_file() and not path.is_symlink():
            stat = path.stat()
            found.append(
                {
                    "name": str(path.relative_to(files.logs)),
                    "last_written_ms": int(stat.st_mtime * 1000),
                    "size_bytes": stat.st_size,
                }
            )
    return found


def read_log(files: NodeFiles, name: str, marker: str | None, lines: int | None) -> dict[str, Any]:
    """A portion of at most 1 MB and `lines` lines: {"data", "marker", "pending"}.

    `marker` "0" reads from the beginning, the marker of an earlier answer reads on, None reads the last lines. Raises
    `Permanent` for a file that is not there and for a marker that is not one of ours.
    """
    if files.logs.is_symlink():
        raise Permanent(f"the log directory {files.logs} is a link")
    path = _below(files.logs, name)
    size = path.stat().st_size
    wanted = LINES_DEFAULT if lines is None else lines
    with path.open("rb") as file:
        if marker is None:
            start = max(0, size - PORTION_BYTES_MAX)
            file.seek(start)
            block = file.read(PORTION_BYTES_MAX)
            kept = b"".join(block.splitlines(keepends=True)[-wanted:])
            return {"data": kept.decode(errors="replace"), "marker": str(start + len(block)), "pending": False}
        if not MARKER.fullmatch(marker) or int(marker) > size:
            raise Permanent(f"the marker {marker!r} is not one of this file's")
        start = int(marker)
        file.seek(start)
        block = file.read(PORTION_BYTES_MAX)
    kept = b"".join(block.splitlines(keepends=True)[:wanted])
    end = start + len(kept)
    return {"data": kept.decode(errors="replace"), "marker": str(end), "pending": end < size}


def prune_logs(files: NodeFiles, older_than: float) -> int:
    """Removes log files last written before `older_than` (epoch seconds); returns how many."""
    removed = 0
    if files.logs.is_symlink():
        return removed
    for path in files.logs.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_mtime < older_than:
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def _below(directory: Path, name: str) -> Path:
    try:
        path = (directory / name).resolve()
        found = path.is_relative_to(directory.resolve()) and path.is_file()
    except (OSError, ValueError):  # too long, or with a zero byte in it
        found = False
    if not found:
        raise Permanent(f"there is no log file {name[:NAME_LENGTH_SHOWN]!r}")
    return path
