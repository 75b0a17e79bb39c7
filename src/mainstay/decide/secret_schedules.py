"""When a secret is rotated next (Secrets Manager user guide, "Schedule expressions in Secrets Manager rotation").

Times are UTC. A rotation begins at the start of its window, so the window's length (`Duration`) is checked and shown,
and bounds nothing else. A `rate()` counts from the last rotation, or from when the schedule was set.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

from mainstay.model.errors import ApiError
from mainstay.model.secrets_manager import RotationRules

HOUR_S = 3600
DAY_S = 24 * HOUR_S
RATE_HOURS_MIN = 4
DAYS_MAX = 999
LOOK_AHEAD_DAYS = 366 * 5

_RATE = re.compile(r"rate\((\d{1,6}) (hour|hours|day|days)\)")
_CRON = re.compile(r"cron\(0 (\S+) (\S+) (\S+) (\S+) (\S+)\)")
_MONTHS = {name.upper(): number for number, name in enumerate(calendar.month_abbr) if name}
_WEEKDAYS = {name: number for number, name in enumerate(("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"), 1)}
_DAY_AND_NUMBER = re.compile(r"([1-7]|SUN|MON|TUE|WED|THU|FRI|SAT)#([1-5])")
_LAST_WEEKDAY = re.compile(r"([1-7]|SUN|MON|TUE|WED|THU|FRI|SAT)L")


def check_rules(rules: RotationRules, now: float) -> None:
    """Raises `ApiError` InvalidParameterException for rules that AWS would not take."""
    if rules.automatically_after_days is not None and rules.schedule_expression:
        raise _invalid("You can't specify both AutomaticallyAfterDays and ScheduleExpression in the same rules.")
    period_h = 24
    if rules.schedule_expression:
        period_h = min(24, _period_h(rules.schedule_expression))
        next_rotation(rules, now)
    if rules.duration and not 1 <= int(rules.duration.removesuffix("h")) <= period_h:
        raise _invalid(f"The rotation window (Duration) must be 1h to {period_h}h, so that windows don't overlap.")


def next_rotation(rules: RotationRules, since: float) -> float | None:
    """The first time after `since` (epoch seconds) at which the rules ask for a rotation; None if they never do.

    Raises `ApiError` InvalidParameterException for an expression that cannot be read.
    """
    if rules.automatically_after_days is not None:
        return since + rules.automatically_after_days * DAY_S
    if not rules.schedule_expression:
        return None
    rate_h = _rate_h(rules.schedule_expression)
    if rate_h is not None:
        return since + rate_h * HOUR_S
    return _next_by_cron(rules.schedule_expression, since)


def _period_h(expression: str) -> int:
    rate_h = _rate_h(expression)
    if rate_h is not None:
        return rate_h
    hours = sorted(_cron_parts(expression)[0])
    gaps = [later - earlier for earlier, later in zip(hours, [*hours[1:], hours[0] + 24], strict=True)]
    return min(gaps)


def _rate_h(expression: str) -> int | None:
    found = _RATE.fullmatch(expression)
    if found is None:
        return None
    count, unit = int(found[1]), found[2]
    hours = count if unit.startswith("hour") else count * 24
    if not RATE_HOURS_MIN <= hours <= DAYS_MAX * 24:
        raise _invalid(f"Invalid ScheduleExpression {expression}: rate() takes 4 hours to 999 days.")
    return hours


def _next_by_cron(expression: str, since: float) -> float:
    hours, days, months, weekdays, years = _cron_parts(expression)
    start = datetime.fromtimestamp(since, UTC)
    for offset in range(LOOK_AHEAD_DAYS):
        day = (start + timedelta(days=offset)).date()
        if day.month not in months or (years is not None and day.year not in years) or not _is_day(day, days, weekdays):
            continue
        for hour in sorted(hours):
            at = datetime(day.year, day.month, day.day, hour, tzinfo=UTC).timestamp()
            if at > since:
                return at
    raise _invalid(f"Invalid ScheduleExpression {expression}: there is no such time within five years.")


_Parts = tuple[frozenset[int], str, frozenset[int], str, frozenset[int] | None]


def _cron_parts(expression: str) -> _Parts:
    found = _CRON.fullmatch(expression)
    if found is None:
        raise _invalid(
            f"Invalid ScheduleExpression {expression}: it must be rate(<number> hours|days) or"
            " cron(0 <hours> <day of month> <month> <day of week> <year>)."
        )
    hours, days, months, weekdays, years = found.groups()
    if (days == "?") == (weekdays == "?"):
        raise _invalid(f"Invalid ScheduleExpression {expression}: one of day of month and day of week must be '?'.")
    checked = date(2001, 1, 1)
    _is_day(checked, days, weekdays)
    return (
        frozenset(_numbers(hours, 0, 23, {})),
        days,
        frozenset(_numbers(months, 1, 12, _MONTHS)),
        weekdays,
        None if years == "*" else frozenset(_numbers(years, 1970, 2199, {})),
    )


def _is_day(day: date, days: str, weekdays: str) -> bool:
    last = calendar.monthrange(day.year, day.month)[1]
    if weekdays == "?":
        return day.day == last if days == "L" else day.day in set(_numbers(days, 1, 31, {}))
    number = day.isoweekday() % 7 + 1
    if weekdays == "L":
        return number == _WEEKDAYS["SAT"]
    if found := _DAY_AND_NUMBER.fullmatch(weekdays):
        return number == _number(found[1], 1, 7, _WEEKDAYS) and (day.day - 1) // 7 + 1 == int(found[2])
    if found := _LAST_WEEKDAY.fullmatch(weekdays):
        return number == _number(found[1], 1, 7, _WEEKDAYS) and day.day > last - 7
    return number in set(_numbers(weekdays, 1, 7, _WEEKDAYS))


def _numbers(field: str, least: int, most: int, names: dict[str, int]) -> Iterator[int]:
    """Every number that a field with `,`, `-`, `*` and `/` stands for."""
    for part in field.split(","):
        span, slash, step_text = part.partition("/")
        step = _number(step_text, 1, most, {}) if slash else 1
        if span == "*" or (slash and not span):
            first, last = least, most
        else:
            low, dash, high = span.partition("-")
            first = _number(low, least, most, names)
            last = _number(high, least, most, names) if dash else (most if slash else first)
        if first > last:
            raise _invalid(f"Invalid ScheduleExpression: {field} is no range.")
        yield from range(first, last + 1, step)


def _number(text: str, least: int, most: int, names: dict[str, int]) -> int:
    number = names.get(text.upper(), int(text) if text.isdecimal() and len(text) < 5 else -1)
    if not least <= number <= most:
        raise _invalid(f"Invalid ScheduleExpression: {text} is not between {least} and {most}.")
    return number


def _invalid(message: str) -> ApiError:
    return ApiError("InvalidParameterException", message)
