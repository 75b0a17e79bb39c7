"""What the service knows, as people read it; numbers are worded by `decide.progress`."""

from __future__ import annotations

import time
from typing import Any

from mainstay.decide.progress import pace_words, span


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
    return f"restoring {progress['phase']}: {pace_words(done, total, progress.get('seconds', 0.0))}"


def kept_words(row: dict[str, Any]) -> str:
    """Data of an instance that was set aside (`model.db_instance.KeptData`), in a line."""
    return f"{row['instance']} keeps {row['name']}: its data as of {moment(row['kept_at'])}. {row['described']}"


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
