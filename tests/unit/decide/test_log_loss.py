"""A lost part of the log takes no more with it than it must, and nothing is promised that needs it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mainstay.decide.log_loss import AFTER_S, NEVER, loss_of, marked
from mainstay.decide.restore_window import DAY_S, Gap, base_backup, restore_window
from mainstay.model.db_snapshot import LogMark
from mainstay.model.repository_job import BackupFacts, LostLog


def facts(start: int, stop: int) -> BackupFacts:
    """In a log whose positions are moments."""
    return BackupFacts(
        backup_id=f"b{start}", engine_version="17.5", timeline="1", start_position=str(start), stop_position=str(stop),
        started_at=float(start), consistent_at=float(stop),
    )  # fmt: skip


def lost(start: int, end: int) -> LostLog:
    return LostLog(start_position=str(start), end_position=str(end))


BACKUPS = st.lists(st.tuples(st.integers(10, 900), st.integers(1, 20)), min_size=1, max_size=6).map(
    lambda pairs: [facts(start, start + length) for start, length in pairs]
)
MARKS = st.lists(st.integers(10, 1000), max_size=20).map(
    lambda moments: tuple(LogMark(float(at), str(at)) for at in sorted(moments))
)
LOST = st.lists(st.tuples(st.integers(10, 990), st.integers(1, 60)), min_size=1, max_size=3).map(
    lambda pairs: [lost(start, start + length) for start, length in pairs]
)


@given(BACKUPS, MARKS, LOST, st.floats(10, 1000))
def test_nothing_is_promised_that_needs_what_is_lost(
    backups: list[BackupFacts], marks: tuple[LogMark, ...], parts: list[LostLog], at: float
) -> None:
    gap = loss_of(parts, backups, marks, int)
    window = restore_window(backups, 1000.0, gap)
    if window is None or not window.earliest_at <= at <= window.latest_at:
        return
    base = base_backup(backups, at, gap)
    assert base is not None
    for part in parts:
        needed = int(base.start_position) < int(part.end_position) and int(part.start_position) < max(
            at, int(base.stop_position)
        )
        assert not needed, (base, part, gap)


def test_the_last_mark_before_it_is_the_last_moment() -> None:
    marks = tuple(LogMark(float(at), str(at)) for at in (100, 160, 220, 280))
    gap = loss_of([lost(230, 246), lost(250, 260)], [facts(10, 20)], marks, int)
    assert gap == Gap(since=220.0, until=220.0)
    assert loss_of([lost(90, 95)], [facts(10, 20)], marks, int).since == 20.0, "a backup is a mark too"
    assert loss_of([lost(10, 30)], [facts(10, 20)], marks, int) == Gap(since=NEVER, until=10 + AFTER_S)


def test_a_backup_that_needs_it_does_not_heal_it_and_a_later_one_does() -> None:
    marks = (LogMark(300.0, "300"),)
    before, over, after = facts(10, 20), facts(310, 340), facts(400, 410)
    gap = loss_of([lost(320, 336)], [before, over, after], marks, int)
    assert gap == Gap(since=300.0, until=310 + AFTER_S)
    window = restore_window([before, over], 1000.0, gap)
    assert window is not None and (window.earliest_at, window.latest_at) == (20.0, 300.0)
    window = restore_window([before, over, after], 1000.0, gap)
    assert window is not None and (window.earliest_at, window.latest_at) == (410.0, 1000.0)


@given(st.lists(st.floats(1.0, 5000.0), max_size=400))
def test_marks_are_few_and_close_together_where_they_are_young(pauses: list[float]) -> None:
    marks: tuple[LogMark, ...] = ()
    now = 1e9
    for pause in pauses:
        now += pause
        marks = marked(marks, LogMark(now, str(now)))
    assert marks == tuple(sorted(marks, key=lambda one: one.at))
    assert len([one for one in marks if one.at > now - 3600]) <= 62
    assert len([one for one in marks if one.at > now - DAY_S]) <= 62 + 146


def test_thirty_five_days_are_a_thousand_marks() -> None:
    marks: tuple[LogMark, ...] = ()
    for minute in range(0, 40 * 24 * 60, 5):
        marks = marked(marks, LogMark(minute * 60.0, str(minute)))
    assert len(marks) < 1100 and marks[-1].at - marks[0].at >= 35 * DAY_S
