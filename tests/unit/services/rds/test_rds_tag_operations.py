"""Tags by ARN."""

from __future__ import annotations

from typing import Any

import pytest

from harness.rds_calls import Rds
from mainstay.services.rds.option_groups import default_option_group
from mainstay.services.rds.parameter_groups import default_parameter_group

PREFIX = "arn:aws:rds:us-east-1:123456789012:"


@pytest.fixture
def resources(rds: Rds, group: str) -> list[str]:
    rds.instance()
    rds.run(default_parameter_group, "default.postgres17")
    rds.run(default_option_group, "default:postgres-17")
    return [PREFIX + name for name in ("db:db1", "subgrp:mine", "pg:default.postgres17", "og:default:postgres-17")]


def tags_of(rds: Rds, arn: str) -> list[dict[str, str]]:
    return rds.call("ListTagsForResource", ResourceName=arn)["TagList"]


def test_every_kind_takes_tags(rds: Rds, resources: list[str]) -> None:
    for arn in resources:
        assert tags_of(rds, arn) == []
        tags = [{"Key": "b", "Value": "2"}, {"Key": "a", "Value": "1"}]
        assert rds.call("AddTagsToResource", ResourceName=arn, Tags=tags) is None
        rds.call("AddTagsToResource", ResourceName=arn, Tags=tags)
        assert tags_of(rds, arn) == [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}]
        rds.call("RemoveTagsFromResource", ResourceName=arn, TagKeys=["a", "absent"])
        assert tags_of(rds, arn) == [{"Key": "b", "Value": "2"}]


@pytest.mark.parametrize(
    ("arn", "error"),
    [
        (PREFIX + "db:no", "DBInstanceNotFoundFault: DBInstance no not found."),
        (PREFIX + "subgrp:no", "DBSubnetGroupNotFoundFault: DB subnet group 'no' does not exist."),
        (PREFIX + "pg:no", "DBParameterGroupNotFoundFault: DBParameterGroup not found: no"),
        (PREFIX + "og:no", "OptionGroupNotFoundFault: Specified OptionGroupName: no not found."),
        (PREFIX + "spaceship:x", f"InvalidParameterValue: Invalid resource name: {PREFIX}spaceship:x"),
        ("db1", "InvalidParameterValue: Invalid resource name: db1"),
    ],
)
def test_unknown_arns(rds: Rds, arn: str, error: str) -> None:
    calls: tuple[tuple[str, dict[str, Any]], ...] = (
        ("ListTagsForResource", {}), ("AddTagsToResource", {"Tags": []}), ("RemoveTagsFromResource", {"TagKeys": []})
    )  # fmt: skip
    for operation, more in calls:
        assert rds.refused(operation, ResourceName=arn, **more) == error


@pytest.mark.parametrize("place", ["us-west-2:123456789012", "us-east-1:999999999999"])
def test_arns_of_another_region_or_account(rds: Rds, resources: list[str], place: str) -> None:
    assert rds.refused("ListTagsForResource", ResourceName=f"arn:aws:rds:{place}:db:db1") == (
        "InvalidParameterValue: The specified resource name does not match an RDS resource in this region:"
        f" arn:aws:rds:{place}:db:db1"
    )


def test_a_refused_tag_changes_nothing(rds: Rds, resources: list[str]) -> None:
    wrong = [{"Key": "good", "Value": "x"}, {"Key": "aws:bad", "Value": "x"}]
    assert rds.refused("AddTagsToResource", ResourceName=resources[0], Tags=wrong).startswith("InvalidParameterValue")
    assert tags_of(rds, resources[0]) == []
