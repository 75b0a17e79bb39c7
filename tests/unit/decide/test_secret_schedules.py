"""Rotation schedules: rate() and cron() as the Secrets Manager user guide describes them, in UTC."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mainstay.decide.secret_schedules import check_rules, next_rotation
from mainstay.model.errors import ApiError
from mainstay.model.secrets_manager import RotationRules


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


SINCE = "2026-11-25T21:30:00"  # a Wednesday


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("rate(4 hours)", "2026-11-26T01:30:00"),
        ("rate(1 day)", "2026-11-26T21:30:00"),
        ("rate(10 days)", "2026-12-05T21:30:00"),
        ("cron(0 22 * * ? *)", "2026-11-25T22:00:00"),
        ("cron(0 21 * * ? *)", "2026-11-26T21:00:00"),
        ("cron(0 /8 * * ? *)", "2026-11-26T00:00:00"),
        ("cron(0 0/12 * * ? *)", "2026-11-26T00:00:00"),
        ("cron(0 8 1 * ? *)", "2026-12-01T08:00:00"),
        ("cron(0 8 1,15 * ? *)", "2026-12-01T08:00:00"),
        ("cron(0 8 L * ? *)", "2026-11-30T08:00:00"),
        ("cron(0 8 1/2 * ? *)", "2026-11-27T08:00:00"),
        ("cron(0 1 ? * SUN *)", "2026-11-29T01:00:00"),
        ("cron(0 1 ? * 1 *)", "2026-11-29T01:00:00"),
        ("cron(0 1 ? * MON-FRI *)", "2026-11-26T01:00:00"),
        ("cron(0 1 ? * 6L *)", "2026-11-27T01:00:00"),
        ("cron(0 1 ? * 3#1 *)", "2026-12-01T01:00:00"),
        ("cron(0 1 ? * MON#2 *)", "2026-12-14T01:00:00"),
        ("cron(0 4 1 1/3 ? *)", "2027-01-01T04:00:00"),
        ("cron(0 4 1 FEB ? *)", "2027-02-01T04:00:00"),
        ("cron(0 4 29 2 ? *)", "2028-02-29T04:00:00"),
        ("cron(0 4 1 1 ? 2028)", "2028-01-01T04:00:00"),
    ],
)
def test_the_next_time(expression: str, expected: str) -> None:
    rules = RotationRules(schedule_expression=expression)
    check_rules(rules, at(SINCE))
    assert next_rotation(rules, at(SINCE)) == at(expected)


def test_days_count_from_the_last_rotation_and_no_rules_never_rotate() -> None:
    assert next_rotation(RotationRules(automatically_after_days=7), at(SINCE)) == at("2026-12-02T21:30:00")
    assert next_rotation(RotationRules(), at(SINCE)) is None


@pytest.mark.parametrize(
    "expression",
    [
        "rate(3 hours)", "rate(0 days)", "rate(1000 days)", "rate(1 week)", "rate(-1 days)", "every day",
        "cron(5 8 1 * ? *)", "cron(0 8 1 * * *)", "cron(0 8 ? * ? *)", "cron(0 24 1 * ? *)", "cron(0 8 32 * ? *)",
        "cron(0 8 1 13 ? *)", "cron(0 8 ? * 8 *)", "cron(0 8 ? * FOO *)", "cron(0 8 30 2 ? *)", "cron(0 8 1 * ?)",
        "cron(0 8-4 1 * ? *)", "cron(0 8 ? * MON#6 *)", "cron(0 4 1 1 ? 2020)", "cron(0 */0 * * ? *)",
        "cron(0 1,,2 * * ? *)",
    ],
)  # fmt: skip
def test_what_aws_does_not_take_is_refused(expression: str) -> None:
    with pytest.raises(ApiError, match="InvalidParameterException"):
        check_rules(RotationRules(schedule_expression=expression), at(SINCE))


@pytest.mark.parametrize(
    ("rules", "taken"),
    [
        (RotationRules(automatically_after_days=7, duration="24h"), True),
        (RotationRules(automatically_after_days=7, duration="25h"), False),
        (RotationRules(schedule_expression="rate(4 hours)", duration="4h"), True),
        (RotationRules(schedule_expression="rate(4 hours)", duration="5h"), False),
        (RotationRules(schedule_expression="cron(0 /8 * * ? *)", duration="8h"), True),
        (RotationRules(schedule_expression="cron(0 /8 * * ? *)", duration="9h"), False),
        (RotationRules(automatically_after_days=7, schedule_expression="rate(1 day)"), False),
    ],
)
def test_windows_must_not_overlap(rules: RotationRules, taken: bool) -> None:
    if taken:
        check_rules(rules, at(SINCE))
    else:
        with pytest.raises(ApiError, match="InvalidParameterException"):
            check_rules(rules, at(SINCE))
