"""`mainstay logs`."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from mainstay.host.layout import ON_DEMAND, PROCESSES, SUPERVISOR, log_path
from mainstay.model.errors import Permanent
from mainstay.settings import Settings

FOLLOW_INTERVAL_S = 0.3
TAIL_BYTES = 4 * 1024 * 1024


def show_logs(settings: Settings, process: str | None, lines: int, *, follow: bool) -> None:
    """Prints the last lines of one process's log or of all, then new ones while `follow`."""
    known = (SUPERVISOR, *PROCESSES, *ON_DEMAND)
    if process is not None and process not in known:
        raise Permanent(f"there is no process {process!r}", hint=f"One of {', '.join(known)}.")
    paths = [log_path(settings, name) for name in (known if process is None else (process,))]
    positions = {path: _show_tail(path, lines) for path in paths if path.exists()}
    with suppress(KeyboardInterrupt):
        while follow:
            for path, position in positions.items():
                positions[path] = _show_from(path, position)
            time.sleep(FOLLOW_INTERVAL_S)


def _show_tail(path: Path, lines: int) -> int:
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - TAIL_BYTES))
        for line in file.read().splitlines()[-lines:]:
            print(f"{path.stem:<10} {line.decode(errors='replace')}")
    return size


def _show_from(path: Path, position: int) -> int:
    size = path.stat().st_size
    if size <= position:
        return size
    with path.open("rb") as file:
        file.seek(position)
        block = file.read(TAIL_BYTES)
    complete = block[: block.rfind(b"\n") + 1]
    for line in complete.splitlines():
        print(f"{path.stem:<10} {line.decode(errors='replace')}")
    return position + len(complete)
