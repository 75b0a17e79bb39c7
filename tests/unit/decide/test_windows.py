"""Windows: exact texts, and properties over every window and moment."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstay.decide.windows import (
    DAY_MINUTES,
    DEFAULT_LENGTH_MINUTES,
    WEEK_MINUTES,
    Window,
    check_windows_apart,
    default_backup_window,
    default_maintenance_window,
    is_inside,
    next_start,
    overlap,
    parse_backup_window,
    parse_maintenance_window,
    remaining_s,
)
from mainstay.model.errors import ApiError

REGIONS = st.sampled_from(["us-east-1", "eu-west-3", "sa-east-1", "ap-south-1", "eu-central-1", "moon-1"])
DRAWS = st.integers(0, 1 << 40)
MOMENTS = st.floats(0, 4e9)
BACKUPS = st.builds(
    Window,
    start_minute=st.integers(0, DAY_MINUTES - 1),
    length_minutes=st.integers(30, DAY_MINUTES - 1),
    period_minutes=st.just(DAY_MINUTES),
)
MAINTENANCES = st.builds(
    Window,
    start_minute=st.integers(0, WEEK_MINUTES - 1),
    length_minutes=st.integers(30, DAY_MINUTES - 1),
    period_minutes=st.just(WEEK_MINUTES),
)


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def minutes(window: Window) -> set[int]:
    """Every minute of the week in the window, by brute force."""
    starts = range(window.start_minute, WEEK_MINUTES, window.period_minutes)
    return {(start + offset) % WEEK_MINUTES for start in starts for offset in range(window.length_minutes)}


@given(BACKUPS)
def test_backup_window_text_round_trips(window: Window) -> None:
    assert parse_backup_window(str(window)) == window


@given(MAINTENANCES)
def test_maintenance_window_text_round_trips_in_any_case(window: Window) -> None:
    assert parse_maintenance_window(str(window)) == window
    assert parse_maintenance_window(str(window).title()) == window


def test_windows_are_shown_in_lower_case() -> None:
    assert str(parse_maintenance_window("Sun:23:45-Mon:00:15")) == "sun:23:45-mon:00:15"
    assert str(parse_backup_window("23:45-00:15")) == "23:45-00:15"


@pytest.mark.parametrize(
    "text", ["", "1:00-2:00", "24:00-00:30", "01:60-02:30", "01:00-02:00 ", "01:00", "٠1:00-02:00"]
)
def test_backup_window_format(text: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_backup_window(text)
    assert str(caught.value) == (
        f"InvalidParameterValue: Invalid backup window format: {text}. Should be specified as a range hh24:mi-hh24:mi"
        " (24H Clock UTC). Example: 23:45-00:15"
    )


@pytest.mark.parametrize("text", ["mon:00:00", "xyz:00:00-mon:01:00", "mon:00:00-mon:24:00", "00:00-01:00"])
def test_maintenance_window_format(text: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_maintenance_window(text)
    assert str(caught.value) == (
        f"InvalidParameterValue: Invalid maintenance window format: {text}. Should be specified as a range"
        " ddd:hh24:mi-ddd:hh24:mi (24H Clock UTC). Example: Sun:23:45-Mon:00:15"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mon:00:00-mon:00:29", "The maintenance window must be at least 30 minutes."),
        ("sun:23:50-mon:00:19", "The maintenance window must be at least 30 minutes."),
        ("mon:00:00-mon:00:00", "The maintenance window must be at least 30 minutes."),
        ("mon:00:00-tue:00:00", "Maintenance window must be less than 24 hours."),
        ("mon:01:00-mon:00:00", "Maintenance window must be less than 24 hours."),
    ],
)
def test_maintenance_window_length(text: str, message: str) -> None:
    with pytest.raises(ApiError, match=f"InvalidParameterValue: {message}"):
        parse_maintenance_window(text)


def test_window_lengths_at_the_limit() -> None:
    assert parse_maintenance_window("sun:23:45-mon:00:15").length_minutes == 30
    assert parse_maintenance_window("mon:00:00-mon:23:59").length_minutes == DAY_MINUTES - 1
    assert parse_backup_window("23:45-00:15").length_minutes == 30
    with pytest.raises(ApiError, match=r"The backup window must be at least 30 minutes\."):
        parse_backup_window("23:45-00:14")


@given(BACKUPS, MAINTENANCES)
def test_overlap_is_sharing_a_minute(backup: Window, maintenance: Window) -> None:
    shared = bool(minutes(backup) & minutes(maintenance))
    assert overlap(backup, maintenance) == overlap(maintenance, backup) == shared


@pytest.mark.parametrize(
    ("backup", "maintenance"), [("23:45-00:45", "sun:00:15-sun:00:45"), ("01:00-02:00", "sun:23:30-mon:01:01")]
)
def test_overlapping_windows_are_refused(backup: str, maintenance: str) -> None:
    with pytest.raises(ApiError, match=r"The backup window and maintenance window must not overlap\."):
        check_windows_apart(parse_backup_window(backup), parse_maintenance_window(maintenance))


def test_adjacent_windows_are_apart() -> None:
    check_windows_apart(parse_backup_window("01:00-02:00"), parse_maintenance_window("mon:02:00-mon:03:00"))


@given(REGIONS, DRAWS, st.none() | MAINTENANCES)
def test_default_backup_window_keeps_clear(region: str, draw: int, maintenance: Window | None) -> None:
    try:
        window = default_backup_window(region, draw, maintenance)
    except ApiError:
        assert maintenance is not None
        assert maintenance.length_minutes > DAY_MINUTES - DEFAULT_LENGTH_MINUTES
        return
    assert parse_backup_window(str(window)).length_minutes == DEFAULT_LENGTH_MINUTES
    assert maintenance is None or not overlap(window, maintenance)


@given(REGIONS, DRAWS, st.none() | BACKUPS)
def test_default_maintenance_window_keeps_clear(region: str, draw: int, backup: Window | None) -> None:
    try:
        window = default_maintenance_window(region, draw, backup)
    except ApiError:
        assert backup is not None
        assert backup.length_minutes > DAY_MINUTES - DEFAULT_LENGTH_MINUTES
        return
    assert parse_maintenance_window(str(window)).length_minutes == DEFAULT_LENGTH_MINUTES
    assert backup is None or not overlap(window, backup)


@given(DRAWS)
def test_defaults_lie_in_the_block_of_the_region(draw: int) -> None:
    backup = default_backup_window("us-east-1", draw)
    assert 3 * 60 <= backup.start_minute <= 11 * 60 - DEFAULT_LENGTH_MINUTES
    maintenance = default_maintenance_window("us-east-1", draw)
    assert 3 * 60 <= maintenance.start_minute % DAY_MINUTES <= 11 * 60 - DEFAULT_LENGTH_MINUTES


def test_draws_reach_every_day_and_both_ends_of_the_block() -> None:
    drawn = {default_maintenance_window("eu-west-1", draw).start_minute for draw in range(7 * 451)}
    assert {start // DAY_MINUTES for start in drawn} == set(range(7))
    assert {22 * 60, 5 * 60 + 30} <= {start % DAY_MINUTES for start in drawn}


@given(BACKUPS | MAINTENANCES, MOMENTS)
def test_next_start_is_the_first_opening_after(window: Window, moment: float) -> None:
    start = next_start(window, moment)
    assert moment < start <= moment + window.period_minutes * 60 + 1e-3
    assert is_inside(window, start)
    assert not is_inside(window, start - 1)
    assert is_inside(window, start + window.length_minutes * 60 - 1)
    assert not is_inside(window, start + window.length_minutes * 60)
    assert next_start(window, start) == start + window.period_minutes * 60


def test_next_start_on_the_calendar() -> None:
    window = parse_maintenance_window("sun:23:45-mon:00:15")
    assert next_start(window, at("2026-11-24 12:00")) == at("2026-11-29 23:45")  # a Tuesday, the Sunday after it
    assert is_inside(window, at("2026-11-30 00:14"))
    assert remaining_s(window, at("2026-11-30 00:00")) == 15 * 60
    assert remaining_s(window, at("2026-11-30 00:15")) == 0
    daily = parse_backup_window("23:45-00:15")
    assert next_start(daily, at("2026-11-24 23:45")) == at("2026-11-25 23:45")
    assert is_inside(daily, at("2026-11-25 00:00"))
