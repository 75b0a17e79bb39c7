"""DescribeEvents and DescribeEventCategories. Source: RDS API reference; events are kept for 14 days."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

from mainstay.model.errors import invalid_combination, invalid_value
from mainstay.model.rds_event import CATEGORIES, RETENTION_S
from mainstay.services.operations import Call, Request, Result
from mainstay.services.rds.filters import NO_FILTERS, select
from mainstay.services.rds.paging import page
from mainstay.services.rds.table import handles
from mainstay.store import Event

DEFAULT_DURATION_MINUTES = 60
LONGEST_DURATION_MINUTES = int(RETENTION_S) // 60


@handles("DescribeEvents")
def describe_events(call: Call, request: Request) -> Result:
    """The events of the time asked for, the last hour by default, oldest first."""
    source_type, source_id = request.get("SourceType"), request.get("SourceIdentifier")
    if source_id and not source_type:
        raise invalid_combination("SourceType must be specified when SourceIdentifier is specified.")
    since, until = _interval(request, call.clock.wall())
    categories = {category.lower() for category in request.get("EventCategories") or ()}
    events = [
        event
        # The end belongs to the interval, the store's does not.
        for event in call.tx.events(call.scope, since, math.nextafter(until, math.inf))
        if (not source_type or event.source_type == source_type)
        and (not source_id or event.source_id == source_id.lower())
        and (not categories or not categories.isdisjoint(event.categories))
    ]
    shown, more = page(_numbered(select(events, request, NO_FILTERS)), lambda pair: pair[0], request)
    return {"Events": [_show(event) for _, event in shown]} | more


@handles("DescribeEventCategories")
def describe_event_categories(call: Call, request: Request) -> Result:
    """The categories of one source type, or of all."""
    wanted = request.get("SourceType")
    if wanted and wanted not in CATEGORIES:
        raise invalid_value(f"Invalid source type: {wanted}. Valid values: {', '.join(CATEGORIES)}")
    shown = [source_type for source_type in CATEGORIES if wanted in (None, "", source_type)]
    select(shown, request, NO_FILTERS)
    return {
        "EventCategoriesMapList": [
            {"SourceType": source_type, "EventCategories": list(CATEGORIES[source_type])} for source_type in shown
        ]
    }


def _interval(request: Request, now: float) -> tuple[float, float]:
    """From when to when (epoch seconds, both inclusive) StartTime, EndTime and Duration ask for together."""
    duration = request.get("Duration")
    start, end = _epoch(request.get("StartTime")), _epoch(request.get("EndTime"))
    if duration is not None and not 1 <= duration <= LONGEST_DURATION_MINUTES:
        raise invalid_value(f"Invalid value {duration} for Duration. Must be between 1 and {LONGEST_DURATION_MINUTES}")
    if start is not None and end is not None and duration is not None:
        raise invalid_combination("Duration cannot be specified together with StartTime and EndTime.")
    span_s = 60.0 * (DEFAULT_DURATION_MINUTES if duration is None else duration)
    if start is None:
        until = now if end is None else end
        return until - span_s, until
    if start < now - RETENTION_S:
        raise invalid_value("StartTime must be within the last 14 days.")
    if end is not None:
        if end < start:
            raise invalid_combination("The EndTime must not be before the StartTime.")
        return start, end
    return start, now if duration is None else start + span_s


def _epoch(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def _numbered(events: list[Event]) -> list[tuple[str, Event]]:
    """The events with keys that order them, unique also where several happened at one moment.

    Events are only ever appended, so a key stays what it is between two pages.
    """
    numbered: list[tuple[str, Event]] = []
    at, count = -1.0, 0
    for event in events:
        at, count = (at, count + 1) if event.at == at else (event.at, 0)
        numbered.append((f"{event.at:018.6f}/{count:06}", event))
    return numbered


def _show(event: Event) -> dict[str, Any]:
    return {
        "SourceIdentifier": event.source_id,
        "SourceType": event.source_type,
        "Message": event.message,
        "EventCategories": list(event.categories),
        "Date": event.at,
        "SourceArn": event.source_arn,
    }
