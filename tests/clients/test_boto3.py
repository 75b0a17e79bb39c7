"""boto3, unmodified: paginators, waiters, ARNs, tags, races, and every refusal in the words that programs look for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError, WaiterError

from harness.service import PASSWORD, Service, eventually

pytestmark = pytest.mark.engine

NAME = "boto"
SHORT_WAIT = {"Delay": 1, "MaxAttempts": 60}


@pytest.fixture(scope="module")
def instance(service: Service) -> Iterator[dict[str, Any]]:
    """An available instance that the tests of this module share and leave as it was."""
    yield service.create_instance(NAME, DBName="shop", Tags=[{"Key": "team", "Value": "blue"}])
    service.delete_instance(NAME)


def refusal(call: Callable[..., object], **members: object) -> tuple[str, str, int]:
    """Code, message and HTTP status of the error that the call must give."""
    with pytest.raises(ClientError) as refused:
        call(**members)
    answer = refused.value.response
    return answer["Error"]["Code"], answer["Error"]["Message"], answer["ResponseMetadata"]["HTTPStatusCode"]


def creation(service: Service, **members: Any) -> dict[str, Any]:
    """A CreateDBInstance request that succeeds unless a member makes it wrong; a member that is None is left out."""
    request = {
        "DBInstanceIdentifier": "never-made",
        "Engine": "postgres",
        "EngineVersion": service.engine_version,
        "DBInstanceClass": "db.t3.micro",
        "AllocatedStorage": 20,
        "MasterUsername": "app",
        "MasterUserPassword": PASSWORD,
        "BackupRetentionPeriod": 0,
        **members,
    }
    return {name: value for name, value in request.items() if value is not None}


IDENTIFIER = "is not a valid identifier. Identifiers must begin with a letter"
VALUE, COMBINATION = "InvalidParameterValue", "InvalidParameterCombination"
REFUSED_CREATIONS: list[tuple[dict[str, Any], str, str]] = [
    ({"DBInstanceIdentifier": "1abc"}, VALUE, IDENTIFIER),
    ({"DBInstanceIdentifier": "a--b"}, VALUE, "two consecutive hyphens"),
    ({"DBInstanceIdentifier": "abc-"}, VALUE, "must not end with a hyphen"),
    ({"DBInstanceIdentifier": "a_b"}, VALUE, "must contain only ASCII letters, digits, and hyphens"),
    ({"DBInstanceIdentifier": "a" * 64}, VALUE, "longer than 63"),
    ({"DBInstanceIdentifier": NAME.upper()}, "DBInstanceAlreadyExists", "DB instance already exists"),
    ({"MasterUserPassword": "short"}, VALUE, "because it is shorter than 8 characters"),
    ({"MasterUserPassword": "x" * 129}, VALUE, "because it is longer than 128 characters"),
    ({"MasterUserPassword": "with/slash"}, VALUE, "Only printable ASCII characters besides '/', '@', '\"', ' '"),
    ({"MasterUserPassword": "with space"}, VALUE, "Only printable ASCII characters besides"),
    ({"MasterUserPassword": "snow-\u2603-man"}, VALUE, "Only printable ASCII characters besides"),
    ({"MasterUserPassword": None}, "MissingParameter", "MasterUserPassword"),
    ({"MasterUsername": "rdsadmin"}, VALUE, "cannot be used as it is a reserved word used by the engine"),
    ({"MasterUsername": "1app"}, VALUE, "MasterUsername"),
    ({"MasterUsername": None}, "MissingParameter", "MasterUsername"),
    ({"Engine": "dbase"}, VALUE, "dbase"),
    ({"EngineVersion": "9.9.9"}, COMBINATION, "Cannot find version 9.9.9 for postgres"),
    ({"DBInstanceClass": "db.z9.huge"}, VALUE, "Invalid DB Instance class: db.z9.huge"),
    ({"DBName": "1shop"}, VALUE, "DBName"),
    ({"Port": 80}, VALUE, "port 80"),
    ({"LicenseModel": "bring-your-own-license"}, COMBINATION, "bring-your-own-license"),
    ({"AllocatedStorage": 1}, VALUE, "Invalid storage size"),
    ({"AllocatedStorage": None}, "MissingParameter", "AllocatedStorage"),
    ({"StorageType": "tape"}, VALUE, "Invalid storage type: tape"),
    ({"StorageType": "io1", "AllocatedStorage": 100}, COMBINATION, "You must specify Iops"),
    ({"StorageType": "gp3", "Iops": 4000}, COMBINATION, "storage size less than 400"),
    ({"AvailabilityZone": "us-east-1"}, VALUE, "us-east-1 is not a valid availability zone."),
    ({"BackupRetentionPeriod": 36}, VALUE, "Invalid backup retention period: 36"),
    ({"PreferredBackupWindow": "99:00-99:30"}, VALUE, "backup window"),
    ({"PreferredBackupWindow": "01:00-01:10"}, VALUE, "The backup window must be at least 30 minutes."),
    ({"PreferredMaintenanceWindow": "sometimes"}, VALUE, "Invalid maintenance window format: sometimes."),
    ({"PreferredMaintenanceWindow": "sun:01:00-sun:01:10"}, VALUE, "The maintenance window must be at least 30"),
    ({"PreferredMaintenanceWindow": "sun:01:00-mon:02:00"}, VALUE, "Maintenance window must be less than 24 hours."),
    (
        {"PreferredBackupWindow": "01:00-02:00", "PreferredMaintenanceWindow": "sun:01:30-sun:02:30"},
        VALUE,
        "The backup window and maintenance window must not overlap.",
    ),
    ({"VpcSecurityGroupIds": ["sg-00000000000000000"]}, VALUE, "Invalid security group"),
    ({"DBSubnetGroupName": "absent"}, "DBSubnetGroupNotFoundFault", "absent"),
    ({"DBParameterGroupName": "absent"}, "DBParameterGroupNotFound", "DBParameterGroup not found: absent"),
    ({"OptionGroupName": "absent"}, "OptionGroupNotFoundFault", "absent"),
    ({"CACertificateIdentifier": "absent"}, "CertificateNotFound", "absent"),
    ({"MaxAllocatedStorage": 20}, COMBINATION, "Max storage size must be greater than storage size"),
    ({"KmsKeyId": "alias/aws/rds"}, COMBINATION, "only if StorageEncrypted is set to true"),
    ({"StorageEncrypted": True, "KmsKeyId": "alias/absent"}, "KMSKeyNotAccessibleFault", "[alias/absent]"),
    ({"Tags": [{"Key": "aws:mine", "Value": ""}]}, VALUE, "must not begin with aws:"),
    ({"Tags": [{"Key": f"k{n}", "Value": ""} for n in range(51)]}, VALUE, "at most 50 tags"),
]
REFUSED_FEATURES: list[dict[str, Any]] = [
    {"MasterUserAuthenticationType": "iam-db-auth"},
    {"MonitoringInterval": 60},
    {"EnablePerformanceInsights": True},
    {"EnableCloudwatchLogsExports": ["postgresql"]},
]


def words(case: object) -> str | None:
    """A short test id: the members that are wrong."""
    return "+".join(f"{name}={value!s:.20}" for name, value in case.items()) if isinstance(case, dict) else None


@pytest.mark.parametrize(("members", "code", "message"), REFUSED_CREATIONS, ids=words)
def test_create_refuses_in_the_words_of_rds(
    service: Service, instance: dict[str, Any], members: dict[str, Any], code: str, message: str
) -> None:
    given = refusal(service.client("rds").create_db_instance, **creation(service, **members))
    assert given[0] == code and message.lower() in given[1].lower(), given
    assert 400 <= given[2] < 500
    names = [one["DBInstanceIdentifier"] for one in service.client("rds").describe_db_instances()["DBInstances"]]
    assert "never-made" not in names


@pytest.mark.parametrize("members", REFUSED_FEATURES, ids=words)
def test_a_feature_that_is_not_there_is_refused_by_name(service: Service, members: dict[str, Any]) -> None:
    code, message, status = refusal(service.client("rds").create_db_instance, **creation(service, **members))
    assert (code, status) == (COMBINATION, 400)
    assert "not available in this version of Mainstay" in message and next(iter(members)) in message


REFUSED_ACTIONS: list[tuple[str, dict[str, Any], str, str]] = [
    ("describe_db_instances", {"DBInstanceIdentifier": "absent"}, "DBInstanceNotFound", "DBInstance absent not found."),
    ("modify_db_instance", {"DBInstanceIdentifier": "absent"}, "DBInstanceNotFound", "DBInstance absent not found."),
    ("delete_db_instance", {}, COMBINATION, "FinalDBSnapshotIdentifier is required unless SkipFinalSnapshot"),
    ("delete_db_instance", {"SkipFinalSnapshot": True, "FinalDBSnapshotIdentifier": "s"}, COMBINATION, "SkipFinal"),
    ("reboot_db_instance", {"ForceFailover": True}, COMBINATION, "Multi-AZ"),
    ("start_db_instance", {}, "InvalidDBInstanceState", f"Instance {NAME} is not in stopped state."),
    ("modify_db_instance", {"AllocatedStorage": 5}, COMBINATION, "storage"),
    ("modify_db_instance", {"MasterUserPassword": "short"}, VALUE, "shorter than 8 characters"),
    ("modify_db_instance", {"DBInstanceClass": "db.none"}, VALUE, "Invalid DB Instance class: db.none"),
    ("modify_db_instance", {"EngineVersion": "9.9"}, COMBINATION, "Cannot find version 9.9"),
    ("modify_db_instance", {"NewDBInstanceIdentifier": "a--b"}, VALUE, IDENTIFIER),
    ("modify_db_instance", {"VpcSecurityGroupIds": ["sg-00000000000000000"]}, VALUE, "Invalid security group"),
    ("promote_read_replica", {}, "InvalidDBInstanceState", "DB Instance is not a read replica."),
    ("describe_db_instances", {"DBInstanceIdentifier": None, "MaxRecords": 5}, VALUE, "Must be between 20 and 100"),
    ("describe_db_instances", {"DBInstanceIdentifier": None, "Marker": "x"}, VALUE, "Invalid Marker"),
    ("download_db_log_file_portion", {"LogFileName": "../../../etc/passwd"}, "DBLogFileNotFoundFault", "not found"),
]


@pytest.mark.parametrize(("operation", "members", "code", "message"), REFUSED_ACTIONS)
def test_actions_refuse_in_the_words_of_rds(
    service: Service, instance: dict[str, Any], operation: str, members: dict[str, Any], code: str, message: str
) -> None:
    request = {"DBInstanceIdentifier": NAME, **members}
    request = {name: value for name, value in request.items() if value is not None}
    given = refusal(getattr(service.client("rds"), operation), **request)
    assert given[0] == code and message in given[1], given
    assert service.describe(NAME)["DBInstanceStatus"] == "available"


def test_deletion_protection_holds_until_it_is_taken_away(service: Service, instance: dict[str, Any]) -> None:
    rds = service.client("rds")
    rds.modify_db_instance(DBInstanceIdentifier=NAME, DeletionProtection=True)
    try:
        code, message, _ = refusal(rds.delete_db_instance, DBInstanceIdentifier=NAME, SkipFinalSnapshot=True)
        assert code == COMBINATION
        assert message == "Cannot delete protected DB Instance, please disable deletion protection and try again."
    finally:
        rds.modify_db_instance(DBInstanceIdentifier=NAME, DeletionProtection=False)
    assert service.describe(NAME)["DeletionProtection"] is False


def test_a_group_of_another_vpc_and_a_zone_without_subnet_are_refused(service: Service) -> None:
    ec2, rds = service.client("ec2"), service.client("rds")
    zones = [zone["ZoneName"] for zone in ec2.describe_availability_zones()["AvailabilityZones"]]
    vpc = ec2.create_vpc(CidrBlock="10.77.0.0/16")["Vpc"]["VpcId"]
    subnets: list[str] = []
    try:
        group = ec2.create_security_group(GroupName="elsewhere", Description="d", VpcId=vpc)["GroupId"]
        code, message, _ = refusal(rds.create_db_instance, **creation(service, VpcSecurityGroupIds=[group]))
        assert code == COMBINATION and "in different VPCs" in message
        ec2.delete_security_group(GroupId=group)
        for number, zone in enumerate(zones[:2]):
            made = ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.77.{number}.0/24", AvailabilityZone=zone)
            subnets.append(made["Subnet"]["SubnetId"])
        one = {"DBSubnetGroupName": "covered", "DBSubnetGroupDescription": "d", "SubnetIds": subnets[:1]}
        code, message, _ = refusal(rds.create_db_subnet_group, **one)
        assert code == "DBSubnetGroupDoesNotCoverEnoughAZs", message
        rds.create_db_subnet_group(**one | {"SubnetIds": subnets})
        wrong = creation(service, DBSubnetGroupName="covered", AvailabilityZone=zones[2])
        assert refusal(rds.create_db_instance, **wrong)[0] == COMBINATION
        wrong = creation(service, DBSubnetGroupName="covered", PubliclyAccessible=True)
        code, message, _ = refusal(rds.create_db_instance, **wrong)
        assert code == "InvalidVPCNetworkStateFault" and "no internet gateway" in message
        assert refusal(ec2.delete_subnet, SubnetId=subnets[0])[0] == "DependencyViolation"
        rds.delete_db_subnet_group(DBSubnetGroupName="covered")
    finally:
        for subnet in subnets:
            ec2.delete_subnet(SubnetId=subnet)
        ec2.delete_vpc(VpcId=vpc)


def test_paginators_give_every_parameter_once(service: Service, instance: dict[str, Any]) -> None:
    rds = service.client("rds")
    group = instance["DBParameterGroups"][0]["DBParameterGroupName"]
    pages = list(rds.get_paginator("describe_db_parameters").paginate(DBParameterGroupName=group))
    names = [one["ParameterName"] for page in pages for one in page["Parameters"]]
    with service.connect(instance) as connection:
        row = connection.execute("SELECT array_agg(name) FROM pg_settings WHERE context <> 'internal'").fetchone()
        assert row is not None
        known = set(row[0])
    assert len(pages) > 1 and len(names) == len(set(names)) > 300
    assert {"work_mem", "max_connections", "shared_buffers"} <= set(names) & known
    small = rds.get_paginator("describe_db_parameters").paginate(
        DBParameterGroupName=group, PaginationConfig={"PageSize": 20, "MaxItems": 45}
    )
    assert [one["ParameterName"] for one in small.search("Parameters[]")] == names[:45]


def test_the_event_paginator_gives_what_happened_in_order(service: Service, instance: dict[str, Any]) -> None:
    rds = service.client("rds")
    found = rds.get_paginator("describe_events").paginate(SourceType="db-instance", SourceIdentifier=NAME)
    events = list(found.search("Events[]"))
    assert any("created" in event["Message"].lower() for event in events)
    assert events == sorted(events, key=lambda event: event["Date"])
    assert {event["SourceArn"] for event in events} == {instance["DBInstanceArn"]}


def test_an_arn_names_an_instance_and_tagging_twice_is_tagging_once(service: Service, instance: dict[str, Any]) -> None:
    rds, arn = service.client("rds"), instance["DBInstanceArn"]
    assert rds.describe_db_instances(DBInstanceIdentifier=arn)["DBInstances"][0]["DBInstanceIdentifier"] == NAME
    for filters in (
        [{"Name": "db-instance-id", "Values": [arn]}],
        [{"Name": "dbi-resource-id", "Values": [instance["DbiResourceId"]]}],
        [{"Name": "engine", "Values": ["postgres"]}, {"Name": "db-instance-id", "Values": [NAME]}],
    ):
        found = rds.describe_db_instances(Filters=filters)["DBInstances"]
        assert [one["DBInstanceArn"] for one in found] == [arn]
    assert rds.describe_db_instances(Filters=[{"Name": "db-instance-id", "Values": ["no"]}])["DBInstances"] == []
    for _ in range(2):
        rds.add_tags_to_resource(ResourceName=arn, Tags=[{"Key": "cost", "Value": "1"}])
        assert rds.list_tags_for_resource(ResourceName=arn)["TagList"] == service.describe(NAME)["TagList"]
        assert len(service.describe(NAME)["TagList"]) == 2
    for _ in range(2):
        rds.remove_tags_from_resource(ResourceName=arn, TagKeys=["cost"])
        assert service.describe(NAME)["TagList"] == [{"Key": "team", "Value": "blue"}]
    assert refusal(rds.list_tags_for_resource, ResourceName=arn + "x")[0] == "DBInstanceNotFound"
    assert refusal(rds.list_tags_for_resource, ResourceName="nonsense")[0] == VALUE


def test_waiters_end_with_the_life_of_an_instance(service: Service) -> None:
    rds = service.client("rds")
    rds.create_db_instance(**creation(service, DBInstanceIdentifier="waited"))
    named = {"DBInstanceIdentifier": "waited", "WaiterConfig": SHORT_WAIT}
    rds.get_waiter("db_instance_available").wait(**named)
    rds.delete_db_instance(DBInstanceIdentifier="waited", SkipFinalSnapshot=True)
    try:
        code, message, _ = refusal(rds.delete_db_instance, DBInstanceIdentifier="waited", SkipFinalSnapshot=True)
        assert code == "DBInstanceNotFound" or "is already being deleted" in message
        with pytest.raises(WaiterError):
            rds.get_waiter("db_instance_available").wait(**named)
    finally:
        rds.get_waiter("db_instance_deleted").wait(**named)


def test_of_two_creations_of_one_name_exactly_one_wins(service: Service) -> None:
    clients = [service.client("rds") for _ in range(2)]
    for number in range(10):
        name = f"race-{number}"
        outcomes: list[str] = []
        start = threading.Barrier(len(clients))

        def create(
            rds: Any, name: str = name, outcomes: list[str] = outcomes, start: threading.Barrier = start
        ) -> None:
            start.wait(timeout=10)
            try:
                rds.create_db_instance(**creation(service, DBInstanceIdentifier=name))
            except ClientError as error:
                outcomes.append(error.response["Error"]["Code"])
            else:
                outcomes.append("created")

        threads = [threading.Thread(target=create, args=(rds,)) for rds in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        clients[0].delete_db_instance(DBInstanceIdentifier=name, SkipFinalSnapshot=True)
        assert sorted(outcomes) == ["DBInstanceAlreadyExists", "created"]
    eventually(lambda: not any(n.startswith("race-") for n in names_of(service)))


def names_of(service: Service) -> list[str]:
    """The identifiers of all instances."""
    return [one["DBInstanceIdentifier"] for one in service.client("rds").describe_db_instances()["DBInstances"]]
