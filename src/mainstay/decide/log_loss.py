"""What a part of the log that was lost takes with it, and how the places of moments in the log are remembered for that.

A mark says that every commit up to a moment is in the log before a position. They are kept finer the younger they are,
so that what is promised after a loss is at most so much older than it had to be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mainstay.decide.restore_window import DAY_S, Gap
from mainstay.model.db_snapshot import LogMark
from mainstay.model.repository_job import BackupFacts, LostLog

STEPS_S = ((3600.0, 60.0), (DAY_S, 600.0), (36 * DAY_S, 3600.0))
"""Up to this age one mark in so many seconds; older ones go."""
AFTER_S = 0.001
NEVER = 1.0
"""No moment: the log is lost from its beginning."""


def marked(marks: Sequence[LogMark], mark: LogMark) -> tuple[LogMark, ...]:
    """With one more, the newest; of those that share a step the first one stays."""
    kept: dict[tuple[float, int], LogMark] = {}
    for one in (*marks, mark):
        step_s = next((step for age, step in STEPS_S if mark.at - one.at <= age), 0.0)
        if step_s:
            kept.setdefault((step_s, int(one.at // step_s)), one)
    return tuple(kept.values())


def loss_of(
    lost: Sequence[LostLog],
    backups: Sequence[BackupFacts],
    marks: Sequence[LogMark],
    place: Callable[[str], int],
) -> Gap:
    """The gap that the lost parts of the log make. `place` orders positions of the log."""
    begin = min(place(one.start_position) for one in lost)
    end = max(place(one.end_position) for one in lost)
    before = [mark.at for mark in marks if place(mark.position) <= begin]
    before += [one.consistent_at for one in backups if place(one.stop_position) <= begin]
    since = max(before, default=NEVER)
    needing = [one.started_at for one in backups if place(one.start_position) < end]
    return Gap(since=since, until=max([since, *(at + AFTER_S for at in needing)]))
