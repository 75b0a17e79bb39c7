"""Finding out that a follower can never go on from what it has, so that it must be copied anew.

What it needs next was removed at its source, or it received what the source's successor never had. The engine says so
in its log, over and over; only what it wrote since it was cut off counts, and only while its source could be reached.
One that cannot apply what it receives says so itself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

PATIENCE_S = 10.0
TAIL_BYTES = 1 << 16


def newest_log(logs: Path) -> Path | None:
    """The log file that the engine writes now."""
    try:
        files = [path for path in logs.iterdir() if path.is_file() and not path.is_symlink()]
        return max(files, key=lambda path: path.name, default=None)
    except FileNotFoundError:
        return None


def read_tail(path: Path, offset: int = 0) -> str:
    """The end of a log, from `offset` on and at most TAIL_BYTES."""
    with path.open("rb") as file:
        file.seek(max(offset, path.stat().st_size - TAIL_BYTES))
        return file.read(TAIL_BYTES).decode(errors="replace")


class LossWatch:
    """The looks at one follower. `judge` gives the reason that a piece of the engine's log holds, "" without one."""

    def __init__(self, logs: Path, judge: Callable[[str], str]) -> None:
        self._logs = logs
        self._judge = judge
        self._upstream = ""
        self._since: float | None = None
        self._name, self._offset = "", 0
        self._stuck_at, self._stuck_since, self._stuck_last = "", 0.0, float("-inf")

    def look(self, now: float, *, streaming: bool, upstream: str) -> str:
        """Why the follower is lost, "" as long as nothing says so. `upstream` is "" while its source is not ready."""
        if streaming or not upstream or upstream != self._upstream:
            self._since, self._upstream = None, upstream
        if streaming or not upstream:
            return ""
        if self._since is None:
            self._since = now
            newest = newest_log(self._logs)
            self._name, self._offset = ("", 0) if newest is None else (newest.name, newest.stat().st_size)
            return ""
        return self._judge(self._written_since()) if now - self._since >= PATIENCE_S else ""

    def stuck(self, now: float, at: str) -> bool:
        """Whether it has been unable for a while to go on from there; `at` is "" if it says nothing of the kind now.

        Between its tries it may receive, and say nothing for a moment.
        """
        if not at:
            return False
        if at != self._stuck_at or now - self._stuck_last >= PATIENCE_S:
            self._stuck_at, self._stuck_since = at, now
        self._stuck_last = now
        return now - self._stuck_since >= PATIENCE_S

    def forget(self) -> None:
        """The follower was copied anew: what was seen before says nothing of it."""
        self._since, self._stuck_at = None, ""

    def _written_since(self) -> str:
        newest = newest_log(self._logs)
        return "" if newest is None else read_tail(newest, self._offset if newest.name == self._name else 0)
