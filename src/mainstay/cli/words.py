"""Numbers and times as people read them."""

from __future__ import annotations

import time
from typing import Any


def size(count: float | None) -> str:
    """Bytes in binary units."""
    if count is None:
        return ""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def span(seconds: float) -> str:
    """A duration in its largest unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def moment(at: float | None) -> str:
    """UTC, to the second."""
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(at))


def restoring(progress: dict[str, Any] | None) -> str:
    """How far a restore is (`model.node.RestoreProgress`), "" without one."""
    if progress is None:
        return ""
    if progress["phase"] == "paused":
        last = "" if progress.get("moment") is None else f", last commit {moment(progress['moment'])}"
        return f"paused for a look at {progress['position']}{last}"
    done, total = progress["bytes_done"], progress["bytes_total"]
    return f"restoring {progress['phase']}: {pace(done, total, progress.get('seconds', 0.0))}"


def kept_words(row: dict[str, Any]) -> str:
    """Data of an instance that was set aside (`model.db_instance.KeptData`), in a line."""
    return f"{row['instance']} keeps {row['name']}: its data as of {moment(row['kept_at'])}. {row['described']}"


def pace(done: int, total: int, seconds: float) -> str:
    """Bytes, how many of all, and after the first second also how fast and how long it will take at this rate."""
    of = f" of {size(total)} ({100 * done // total} %)" if total else ""
    if seconds < 1.0 or not done:
        return f"{size(done)}{of}"
    left = f", {span((total - done) * seconds / done)} left" if total else ""
    return f"{size(done)}{of}, {size(done / seconds)}/s{left}"


def proof(told: dict[str, Any] | None, now: float, bad: str = "DAMAGE") -> str:
    """When backups were last looked at, and what that came to; `bad` is the word for what was found."""
    if told is None:
        return "never"
    ago = f"{span(now - told['at'])} ago"
    if told["good"]:
        return f"good, {ago}"
    if told["failure"]:
        return f"NOT POSSIBLE, {ago}: {told['failure']}"
    more = len(told["damages"]) - 1
    return f"{bad}, {ago}: {told['damages'][0]}" + (f" (and {more} more)" if more else "")
