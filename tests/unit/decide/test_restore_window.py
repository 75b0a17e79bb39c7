"""What is promised can be restored, what is kept serves every promise, and nothing is restored across a gap."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from mainstay.decide.restore_window import DAY_S, Gap, base_backup, expired, log_needed_from, restore_window
from mainstay.model.repository_job import BackupFacts

MOMENTS = st.integers(0, 40 * 24 * 3600).map(float)


def facts(at: float) -> BackupFacts:
    return BackupFacts(
        backup_id=f"b{at}", engine_version="17.5", timeline="1", start_position=f"0/{at}", stop_position="0/9",
        started_at=at - 1, consistent_at=at, size_bytes=10, stored_bytes=5,
    )  # fmt: skip


BACKUPS = st.lists(MOMENTS, unique=True, max_size=12).map(lambda moments: [facts(at) for at in moments])


@given(BACKUPS, MOMENTS, st.just(0.0) | MOMENTS, st.data())
def test_every_moment_of_the_window_has_a_base(
    backups: list[BackupFacts], latest: float, gap_at: float, data: st.DataObject
) -> None:
    gap = Gap(gap_at, gap_at)
    window = restore_window(backups, latest, gap)
    if window is None:
        return
    assert window.earliest_at <= window.latest_at <= latest
    at = data.draw(st.floats(window.earliest_at, window.latest_at))
    base = base_backup(backups, at, gap)
    assert base is not None and base.consistent_at <= at
    assert not (gap_at and base.started_at < gap_at < at), "the log leads from the base to the moment"


@given(BACKUPS, st.integers(1, 35), st.data())
def test_what_is_kept_serves_every_moment_of_the_period(
    backups: list[BackupFacts], days: int, data: st.DataObject
) -> None:
    now = 40 * DAY_S
    going = expired(backups, now, days)
    kept = [backup for backup in backups if backup.backup_id not in going]
    at = data.draw(st.floats(now - days * DAY_S, now))
    assert base_backup(kept, at, Gap()) == base_backup(backups, at, Gap())
    assert len([backup for backup in kept if backup.consistent_at < now - days * DAY_S]) <= 1, "and no more"


def test_the_newest_backup_never_expires() -> None:
    assert expired([facts(1000.0)], 90 * DAY_S, 1) == frozenset()


def test_the_api_shows_only_what_can_be_restored() -> None:
    window = restore_window([facts(1000.0004)], 2000.9999, Gap())
    assert window is not None and (window.earliest_at, window.latest_at) == (1000.001, 2000.999)


def test_a_gap_ends_the_window_until_a_backup_heals_it() -> None:
    window = restore_window([facts(1000.0)], 3000.0, Gap(2000.0, 2000.0))
    assert window is not None and window.latest_at == 2000.0
    window = restore_window([facts(1000.0), facts(2500.0)], 3000.0, Gap(2000.0, 2000.0))
    assert window is not None and (window.earliest_at, window.latest_at) == (2500.0, 3000.0)


def test_the_old_stretch_counts_until_the_log_has_gone_past_the_backup_that_heals() -> None:
    backups, gap = [facts(1000.0), facts(2500.0004)], Gap(2000.0, 2100.0)
    for latest in (2400.0, 2500.0004):
        window = restore_window(backups, latest, gap)
        assert window is not None and (window.earliest_at, window.latest_at) == (1000.0, 2000.0)
    window = restore_window(backups, 2501.0, gap)
    assert window is not None and (window.earliest_at, window.latest_at) == (2500.001, 2501.0)


def test_nothing_is_promised_without_backup_or_log() -> None:
    assert restore_window([], 3000.0, Gap()) is None
    assert restore_window([facts(1000.0)], None, Gap()) is None
    assert restore_window([facts(1000.0)], 999.0, Gap()) is None


def test_the_log_stays_from_the_oldest_backup_on() -> None:
    def order(position: str) -> int:
        return int(float(position.removeprefix("0/")))

    assert log_needed_from([facts(2000.0), facts(1000.0)], order) == "0/1000.0"
    assert log_needed_from([], order) is None
    after_restore_in_place = msgspec.structs.replace(facts(3000.0), start_position="0/500.0")
    assert log_needed_from([facts(1000.0), after_restore_in_place], order) == "0/500.0"
