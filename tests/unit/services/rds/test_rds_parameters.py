"""Values of DB parameter groups, and how instances learn of them."""

from __future__ import annotations

from typing import Any

import pytest

from harness.rds_calls import Rds
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_parameter_group import DBParameterGroup


@pytest.fixture
def pg(rds: Rds) -> str:
    rds.call(
        "CreateDBParameterGroup", DBParameterGroupName="mine", DBParameterGroupFamily="postgres17", Description="d"
    )
    return "mine"


def value(name: str, text: str, method: str = "immediate") -> dict[str, str]:
    return {"ParameterName": name, "ParameterValue": text, "ApplyMethod": method}


def modify(rds: Rds, *parameters: dict[str, str]) -> Any:
    return rds.call("ModifyDBParameterGroup", DBParameterGroupName="mine", Parameters=list(parameters))


def refused(rds: Rds, *parameters: dict[str, str], name: str = "mine") -> str:
    return rds.refused("ModifyDBParameterGroup", DBParameterGroupName=name, Parameters=list(parameters))


def rows(rds: Rds, **more: Any) -> dict[str, Any]:
    answer = rds.call("DescribeDBParameters", DBParameterGroupName="mine", **more)
    return {row["ParameterName"]: row for row in answer["Parameters"]}


def test_modify_sets_values_and_tells(rds: Rds, pg: str) -> None:
    assert modify(
        rds, value("work_mem", "64"), value("shared_buffers", "{DBInstanceClassMemory/4}", "pending-reboot")
    ) == {"DBParameterGroupName": "mine"}
    assert rows(rds, Source="user") == {
        "work_mem": {
            "ParameterName": "work_mem",
            "ParameterValue": "64",
            "Description": "Memory.",
            "Source": "user",
            "ApplyType": "dynamic",
            "DataType": "integer",
            "AllowedValues": "64-2147483647",
            "IsModifiable": True,
            "ApplyMethod": "immediate",
        },
        "shared_buffers": {
            "ParameterName": "shared_buffers",
            "ParameterValue": "{DBInstanceClassMemory/4}",
            "Source": "user",
            "ApplyType": "static",
            "DataType": "integer",
            "AllowedValues": "16-1073741823",
            "IsModifiable": True,
            "ApplyMethod": "pending-reboot",
        },
    }
    assert [event.message for event in rds.events()] == [
        "Updated parameter work_mem to 64 with apply method immediate",
        "Updated parameter shared_buffers to {DBInstanceClassMemory/4} with apply method pending-reboot",
    ]


def test_modify_refusals_change_nothing(rds: Rds, pg: str) -> None:
    good = value("work_mem", "64")
    assert refused(rds, good, value("shared_buffers", "16")) == (
        "InvalidParameterCombination: cannot use immediate apply method for static parameter"
    )
    assert refused(rds, good, value("nope", "1")) == "InvalidParameterValue: Could not find parameter with name: nope"
    assert refused(rds, good, value("data_directory", "/", "pending-reboot")) == (
        "InvalidParameterValue: The parameter data_directory cannot be modified."
    )
    assert refused(rds, good, value("max_connections", "many", "pending-reboot")).startswith("InvalidParameterValue")
    assert refused(rds, good, good).startswith("InvalidParameterCombination: The parameter work_mem is specified more")
    assert refused(rds, good, {"ParameterName": "log_statement", "ApplyMethod": "immediate"}).startswith("MissingParam")
    assert refused(rds, good, {"ParameterName": "log_statement", "ParameterValue": "all"}).startswith(
        "MissingParameter"
    )
    assert refused(rds, good, {"ParameterValue": "1", "ApplyMethod": "immediate"}).startswith("MissingParameter")
    assert refused(rds).startswith("MissingParameter")
    assert refused(rds, good, name="no").startswith("DBParameterGroupNotFoundFault")
    assert refused(rds, good, name="default.postgres17") == (
        "InvalidParameterValue: Cannot modify a default parameter group."
    )
    assert rds.get(DBParameterGroup, "mine").parameters == {}
    assert rds.events() == []


def test_twenty_parameters_per_call(rds: Rds, pg: str) -> None:
    twenty = [value(f"padding_{number:03}", "2") for number in range(20)]
    modify(rds, *twenty)
    assert len(rows(rds, Source="user")) == 20
    assert "maximum of 20 parameters" in refused(rds, *twenty, value("work_mem", "64"))


def test_reset_of_some_and_of_all(rds: Rds, pg: str) -> None:
    modify(rds, value("work_mem", "64"), value("log_statement", "all"), value("max_connections", "9", "pending-reboot"))
    rds.call("ResetDBParameterGroup", DBParameterGroupName="mine",
             Parameters=[{"ParameterName": "work_mem", "ApplyMethod": "immediate"}])  # fmt: skip
    assert set(rows(rds, Source="user")) == {"log_statement", "max_connections"}
    rds.instance(db_parameter_group_name="mine")
    rds.call("ResetDBParameterGroup", DBParameterGroupName="mine", ResetAllParameters=True)
    assert rows(rds, Source="user") == {}
    # What is dynamic acts at once, what is static waits for the reboot.
    assert rds.get(DBInstance, "db1").held_parameters == {"max_connections": "9"}
    assert [job.program for job in rds.jobs()] == ["refresh_db_instance"]


def test_reset_refusals(rds: Rds, pg: str) -> None:
    def reset(**more: Any) -> Any:
        return rds.refused("ResetDBParameterGroup", DBParameterGroupName="mine", **more)

    one = [{"ParameterName": "work_mem", "ApplyMethod": "immediate"}]
    assert reset(ResetAllParameters=True, Parameters=one).startswith("InvalidParameterCombination")
    assert reset(ResetAllParameters=False).startswith("InvalidParameterCombination")
    assert reset(Parameters=[{"ParameterName": "max_connections", "ApplyMethod": "immediate"}]) == (
        "InvalidParameterCombination: cannot use immediate apply method for static parameter"
    )


def test_dynamic_change_at_once_refreshes_each_member_once(rds: Rds, pg: str) -> None:
    rds.instance("one", db_parameter_group_name="mine")
    rds.instance("two", db_parameter_group_name="mine")
    rds.instance("stranger")
    modify(rds, value("work_mem", "64"), value("log_statement", "all"))
    modify(rds, value("work_mem", "65"))
    assert [(job.program, job.subject) for job in rds.jobs()] == [
        ("refresh_db_instance", "db:db-ONE"),
        ("refresh_db_instance", "db:db-TWO"),
    ]
    assert all(job.due_at <= rds.clock.wall() for job in rds.jobs())
    assert rds.get(DBInstance, "one").held_parameters == {}


def test_waiting_change_holds_the_value_in_force(rds: Rds, pg: str) -> None:
    rds.instance(db_parameter_group_name="mine")
    modify(rds, value("max_connections", "50", "pending-reboot"), value("work_mem", "64", "pending-reboot"))
    modify(rds, value("max_connections", "60", "pending-reboot"))
    assert rds.get(DBInstance, "db1").held_parameters == {"max_connections": None, "work_mem": None}
    assert rds.jobs() == []
    modify(rds, value("work_mem", "65"))
    assert rds.get(DBInstance, "db1").held_parameters == {"max_connections": None}
    assert len(rds.jobs()) == 1


def test_group_attached_but_not_in_force_changes_nothing_yet(rds: Rds, pg: str) -> None:
    rds.instance(db_parameter_group_name="mine", parameter_group_in_force="default.postgres17")
    modify(rds, value("max_connections", "50", "pending-reboot"), value("work_mem", "64"))
    assert rds.get(DBInstance, "db1").held_parameters == {}
    assert rds.jobs() == []


def test_group_in_force_but_detached_keeps_its_values(rds: Rds, pg: str) -> None:
    modify(rds, value("work_mem", "64"))
    rds.instance(db_parameter_group_name="default.postgres17", parameter_group_in_force="mine")
    modify(rds, value("work_mem", "65"))
    assert rds.get(DBInstance, "db1").held_parameters == {"work_mem": "64"}
    assert rds.jobs() == []


def test_describe_pages_by_a_hundred_in_order(rds: Rds, pg: str) -> None:
    first = rds.call("DescribeDBParameters", DBParameterGroupName="mine")
    rest = rds.call("DescribeDBParameters", DBParameterGroupName="mine", Marker=first["Marker"])
    names = [row["ParameterName"] for row in first["Parameters"] + rest["Parameters"]]
    assert len(first["Parameters"]) == 100
    assert len(names) == 125
    assert names == sorted(names)
    assert "Marker" not in rest


def test_describe_by_source_and_name(rds: Rds, pg: str) -> None:
    assert set(rows(rds, Source="system")) == {"shared_buffers"}
    shown = rows(rds, Filters=[{"Name": "parameter-name", "Values": ["work_mem", "log_statement"]}])
    assert shown["work_mem"]["ParameterValue"] == "4096"
    assert shown["work_mem"]["Source"] == "engine-default"
    assert "ParameterValue" not in shown["log_statement"]
    assert rds.refused("DescribeDBParameters", DBParameterGroupName="mine", Source="mine").startswith("InvalidParam")


def test_engine_defaults(rds: Rds) -> None:
    answer = rds.call(
        "DescribeEngineDefaultParameters",
        DBParameterGroupFamily="postgres17",
        Filters=[{"Name": "parameter-name", "Values": ["shared_buffers"]}],
    )["EngineDefaults"]
    assert answer["DBParameterGroupFamily"] == "postgres17"
    assert [(row["ParameterName"], row["Source"]) for row in answer["Parameters"]] == [("shared_buffers", "system")]
    page = rds.call("DescribeEngineDefaultParameters", DBParameterGroupFamily="postgres17")["EngineDefaults"]
    assert len(page["Parameters"]) == 100
    assert page["Marker"]
    assert rds.refused("DescribeEngineDefaultParameters", DBParameterGroupFamily="oracle") == (
        "InvalidParameterValue: ParameterGroupFamily oracle is not a valid parameter group family"
    )
