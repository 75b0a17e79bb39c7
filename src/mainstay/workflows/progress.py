"""Events that tell how far a workflow's long work is.

The event, and that it was told, are recorded in one transaction: a step that is repeated after a crash tells nothing
twice, and tells what was not told.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from mainstay.decide.progress import Pace, Told, is_due, pace_words
from mainstay.model.repository_job import JobStatus
from mainstay.store import Transaction
from mainstay.workflows.engine import Next, Outcome, Sleep, Work

FRAME = "progress_told"


def pace_of(status: JobStatus, now: float) -> Pace:
    """How far a job on a repository is; one that waits for its turn has not begun."""
    begun_at = status.started_at or now
    return Pace(begun_at=begun_at, bytes_done=status.bytes_done, bytes_total=status.bytes_total)


def tell_or_sleep(work: Work, pace: Pace, tell: Callable[[Transaction, str], None], seconds: float) -> Outcome:
    """The same step again: at once, after an event, if one is due, and else in so many seconds.

    `tell` records the event with the words of how far it is.
    """
    now, frame = work.tools.clock.wall(), work.job.frame.get(FRAME)
    told = None if frame is None else msgspec.convert(frame, Told)
    if not is_due(pace, told, now, work.tools.settings.progress_event_interval_s):
        return Sleep(seconds)
    words = pace_words(pace.bytes_done, pace.bytes_total, now - pace.begun_at)
    remembered = msgspec.to_builtins(Told(at=now, tenths=pace.tenths))
    return Next(work.job.step, lambda tx: tell(tx, words), {FRAME: remembered})
