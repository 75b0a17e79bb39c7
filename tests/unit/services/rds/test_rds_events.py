"""Events: recording, the interval rules, filters, pages."""

from __future__ import annotations

import string
from datetime import UTC, datetime
from typing import Any

import pytest

from harness.rds_calls import Rds
from mainstay.model.db_instance import DBInstance
from mainstay.model.rds_event import CATEGORIES, EVENTS
from mainstay.services.rds.events import record_event


@pytest.fixture
def instance(rds: Rds) -> DBInstance:
    return rds.instance()


def record(rds: Rds, source: DBInstance, event_id: str, **words: Any) -> None:
    with rds.store.transaction() as tx:
        record_event(tx, rds.clock, source, event_id, **words)


def moment(rds: Rds, minutes: float) -> datetime:
    return datetime.fromtimestamp(rds.clock.wall() + 60 * minutes, UTC)


def messages(rds: Rds, **request: Any) -> list[str]:
    return [event["Message"] for event in rds.call("DescribeEvents", **request)["Events"]]


def test_an_event_as_it_is_shown(rds: Rds, instance: DBInstance) -> None:
    record(rds, instance, "RDS-EVENT-0031", reason="disk broken")
    assert rds.call("DescribeEvents") == {
        "Events": [
            {
                "SourceIdentifier": "db1",
                "SourceType": "db-instance",
                "Message": "The DB instance has failed: disk broken",
                "EventCategories": ["failure"],
                "Date": rds.clock.wall(),
                "SourceArn": "arn:aws:rds:us-east-1:123456789012:db:db1",
            }
        ]
    }
    assert rds.events()[0].event_id == "RDS-EVENT-0031"


def test_every_kind_has_a_category_of_its_source() -> None:
    known = {category for categories in CATEGORIES.values() for category in categories}
    for event_id, kind in EVENTS.items():
        assert kind.category in known, event_id
        assert all(name for _, name, _, _ in string.Formatter().parse(kind.message) if name is not None), event_id


def test_default_is_the_last_hour(rds: Rds, instance: DBInstance) -> None:
    record(rds, instance, "RDS-EVENT-0003")
    rds.clock.advance(60 * 60)
    record(rds, instance, "RDS-EVENT-0005")
    assert messages(rds) == ["DB instance deleted", "DB instance created"]
    rds.clock.advance(1)
    assert messages(rds) == ["DB instance created"]
    assert messages(rds, Duration=61) == ["DB instance deleted", "DB instance created"]


def test_start_end_and_duration(rds: Rds, instance: DBInstance) -> None:
    for event_id in ("RDS-EVENT-0003", "RDS-EVENT-0005", "RDS-EVENT-0006"):
        record(rds, instance, event_id)
        rds.clock.advance(100 * 60)
    first, second, third = "DB instance deleted", "DB instance created", "DB instance restarted"
    assert messages(rds, StartTime=moment(rds, -300)) == [first, second, third]
    assert messages(rds, StartTime=moment(rds, -300), Duration=100) == [first, second]
    assert messages(rds, StartTime=moment(rds, -200), EndTime=moment(rds, -100)) == [second, third]
    assert messages(rds, EndTime=moment(rds, -200)) == [second]
    assert messages(rds, EndTime=moment(rds, -200), Duration=100) == [first, second]


def test_interval_refusals(rds: Rds) -> None:
    def refused(**request: Any) -> str:
        return rds.refused("DescribeEvents", **request)

    assert refused(StartTime=moment(rds, -1), EndTime=moment(rds, -2)).startswith("InvalidParameterCombination")
    assert refused(StartTime=moment(rds, -2), EndTime=moment(rds, -1), Duration=1).startswith("InvalidParameterComb")
    assert refused(StartTime=moment(rds, -14 * 24 * 60 - 1)).startswith("InvalidParameterValue: StartTime must be")
    for duration in (0, 20161):
        assert refused(Duration=duration) == (
            f"InvalidParameterValue: Invalid value {duration} for Duration. Must be between 1 and 20160"
        )
    assert messages(rds, Duration=20160) == []


def test_source_and_category_filters(rds: Rds, instance: DBInstance) -> None:
    record(rds, instance, "RDS-EVENT-0005")
    record(rds, rds.instance("db2"), "RDS-EVENT-0006")
    rds.call("CreateDBParameterGroup", DBParameterGroupName="pg", DBParameterGroupFamily="postgres17", Description="d")
    work_mem = {"ParameterName": "work_mem", "ParameterValue": "64", "ApplyMethod": "immediate"}
    rds.call("ModifyDBParameterGroup", DBParameterGroupName="pg", Parameters=[work_mem])
    assert len(messages(rds)) == 3
    assert messages(rds, SourceType="db-instance", SourceIdentifier="DB2") == ["DB instance restarted"]
    assert messages(rds, SourceType="db-parameter-group") == [
        "Updated parameter work_mem to 64 with apply method immediate"
    ]
    assert messages(rds, EventCategories=["creation", "availability"]) == [
        "DB instance created",
        "DB instance restarted",
    ]
    assert rds.refused("DescribeEvents", SourceIdentifier="db2").startswith("InvalidParameterCombination: SourceType")


def test_pages_of_events_of_one_moment(rds: Rds, instance: DBInstance) -> None:
    for number in range(45):
        record(rds, instance, "RDS-EVENT-0044", reason=str(number))
    seen: list[str] = []
    more: dict[str, str] = {}
    while True:
        answer = rds.call("DescribeEvents", MaxRecords=20, **more)
        seen += [event["Message"] for event in answer["Events"]]
        record(rds, instance, "RDS-EVENT-0044", reason="later") if not more else None
        if "Marker" not in answer:
            break
        more = {"Marker": answer["Marker"]}
    assert seen == [str(number) for number in range(45)] + ["later"]


def test_categories(rds: Rds) -> None:
    every = rds.call("DescribeEventCategories")["EventCategoriesMapList"]
    assert {one["SourceType"] for one in every} == {"db-instance", "db-parameter-group", "db-snapshot", "db-proxy"}
    assert rds.call("DescribeEventCategories", SourceType="db-parameter-group") == {
        "EventCategoriesMapList": [{"SourceType": "db-parameter-group", "EventCategories": ["configuration change"]}]
    }
    assert rds.refused("DescribeEventCategories", SourceType="x").startswith("InvalidParameterValue")
