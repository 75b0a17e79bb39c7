"""The life of a DB instance through the API, the same for every engine that is installed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError as ApiError

from harness.dialects import ClientError, EngineUnderTest
from harness.service import PASSWORD, Service, eventually
from mainstay.engines.base import Feature
from mainstay.engines.builds import Builds
from mainstay.engines.registry import engines

pytestmark = pytest.mark.engine

NEW_PASSWORD = "another-" + PASSWORD


@pytest.fixture(scope="module")
def instance(service: Service, engine: EngineUnderTest) -> Iterator[dict[str, Any]]:
    """One instance for the tests that leave it as it was."""
    made = engine.create(service, DBName="shop")
    yield made
    service.delete_instance(made["DBInstanceIdentifier"])


def refused(attempt: Callable[[], Any]) -> bool:
    try:
        attempt().close()
    except ClientError:
        return True
    return False


@pytest.mark.every_version
def test_what_is_said_of_the_engine(service: Service, engine: EngineUnderTest, instance: dict[str, Any]) -> None:
    rds = service.client("rds")
    found = rds.describe_db_engine_versions(Engine=engine.dialect.engine, EngineVersion=engine.version)
    version = found["DBEngineVersions"][0]
    family = version["DBParameterGroupFamily"]
    assert family == f"{engine.dialect.family}{version['MajorEngineVersion']}"
    assert instance["DBParameterGroups"][0]["DBParameterGroupName"] == f"default.{family}"
    assert instance["Endpoint"]["Port"] == engine.dialect.port
    assert instance["EngineVersion"] == engine.version and instance["DBName"] == "shop"
    pages = rds.get_paginator("describe_engine_default_parameters").paginate(DBParameterGroupFamily=family)
    parameters = [one for page in pages for one in page["EngineDefaults"]["Parameters"]]
    assert len(parameters) > 300
    by_name = {one["ParameterName"]: one for one in parameters}
    assert by_name["max_connections"]["ParameterValue"].count("DBInstanceClassMemory") == 1
    assert by_name[engine.dialect.dynamic[0]]["ApplyType"] == "dynamic"
    assert by_name[engine.dialect.static[0]]["ApplyType"] == "static"


@pytest.mark.every_version
def test_clients_log_in_over_verified_tls_as_a_master_user_who_is_no_superuser(
    service: Service, engine: EngineUnderTest, instance: dict[str, Any]
) -> None:
    with engine.connect(service, instance, database="shop") as client:
        assert client.value(engine.dialect.tls).startswith("TLSv1.3")
        client.rows("CREATE TABLE owned (a int)")
        client.rows("DROP TABLE owned")
        for statement in engine.dialect.superuser_only:
            with pytest.raises(ClientError):
                client.rows(statement)
    assert refused(lambda: engine.connect(service, instance, password="wrong-password"))
    assert refused(lambda: engine.connect(service, instance, user="rdsadmin"))
    assert refused(lambda: engine.connect(service, instance, user="root", password=""))


def test_stop_start_reboot_keep_the_data_and_the_endpoint(
    service: Service, engine: EngineUnderTest, instance: dict[str, Any]
) -> None:
    rds, name = service.client("rds"), instance["DBInstanceIdentifier"]
    with engine.connect(service, instance, database="shop") as client:
        client.rows("CREATE TABLE kept (a int)")
        client.rows("INSERT INTO kept VALUES (42)")
    rds.stop_db_instance(DBInstanceIdentifier=name)
    assert service.await_status(name, "stopped")["Endpoint"] == instance["Endpoint"]
    assert refused(lambda: engine.connect(service, instance))
    rds.start_db_instance(DBInstanceIdentifier=name)
    service.await_status(name, "available")
    pid = service.node(name)["pid"]
    with engine.connect(service, instance, database="shop") as held:
        rds.reboot_db_instance(DBInstanceIdentifier=name)
        with pytest.raises(ClientError):
            eventually(lambda: held.rows(engine.dialect.sleep.format(seconds=0.05)) is None)
    service.await_status(name, "available")
    assert service.node(name)["pid"] != pid
    with engine.connect(service, instance, database="shop") as client:
        assert client.value("SELECT a FROM kept") == 42


def test_an_engine_that_was_killed_recovers_with_every_commit(
    service: Service, engine: EngineUnderTest, instance: dict[str, Any]
) -> None:
    name = instance["DBInstanceIdentifier"]
    with engine.connect(service, instance, database="shop") as client:
        client.rows("CREATE TABLE survivors (a int)")
        for number in range(50):
            client.rows(f"INSERT INTO survivors VALUES ({number})")
        killed = service.node(name)["pid"]
        os.kill(killed, signal.SIGKILL)

    def again() -> int:
        try:
            with engine.connect(service, instance, database="shop") as one:
                return int(one.value("SELECT COUNT(*) FROM survivors"))
        except ClientError:
            return 0

    assert eventually(again) == 50
    assert eventually(lambda: service.node(name)["pid"] not in (0, killed))


@pytest.mark.every_version
def test_parameters_take_effect_at_once_or_at_the_reboot(service: Service, engine: EngineUnderTest) -> None:
    rds = service.client("rds")
    versions = rds.describe_db_engine_versions(Engine=engine.dialect.engine, EngineVersion=engine.version)
    family = versions["DBEngineVersions"][0]["DBParameterGroupFamily"]
    group = f"params-{engine.dialect.engine}-{engine.version.replace('.', '-')}"
    rds.create_db_parameter_group(DBParameterGroupName=group, DBParameterGroupFamily=family, Description="d")
    instance = engine.create(service, DBParameterGroupName=group)
    name = instance["DBInstanceIdentifier"]
    dynamic, static = engine.dialect.dynamic, engine.dialect.static

    def setting(parameter: str) -> str:
        with engine.connect(service, instance) as client:
            return str(client.value(engine.dialect.show.format(name=parameter)))

    def apply_status() -> str:
        return str(service.describe(name)["DBParameterGroups"][0]["ParameterApplyStatus"])

    def change(parameter: str, value: str, method: str) -> None:
        wanted = {"ParameterName": parameter, "ParameterValue": value, "ApplyMethod": method}
        rds.modify_db_parameter_group(DBParameterGroupName=group, Parameters=[wanted])

    try:
        before = setting(dynamic[0])
        assert before != dynamic[2] and setting(static[0]) != static[2]
        change(dynamic[0], dynamic[1], "immediate")
        change(static[0], static[1], "pending-reboot")
        eventually(lambda: setting(dynamic[0]) == dynamic[2])
        assert apply_status() == "pending-reboot" and setting(static[0]) != static[2]
        with pytest.raises(ApiError, match="InvalidParameter"):
            change(static[0], static[1], "immediate")
        rds.reboot_db_instance(DBInstanceIdentifier=name)
        service.await_status(name, "available")
        assert setting(static[0]) == static[2] and setting(dynamic[0]) == dynamic[2]
        assert apply_status() == "in-sync"
        # What is taken back is the engine's default again, without a restart.
        reset = {"ParameterName": dynamic[0], "ApplyMethod": "immediate"}
        rds.reset_db_parameter_group(DBParameterGroupName=group, Parameters=[reset])
        eventually(lambda: setting(dynamic[0]) == before)
        change(engine.dialect.require_tls, "1", "immediate")
        eventually(lambda: refused(lambda: engine.connect(service, instance, tls=False)))
        change(engine.dialect.require_tls, "0", "immediate")
        eventually(lambda: not refused(lambda: engine.connect(service, instance, tls=False)))
        assert not refused(lambda: engine.connect(service, instance))
    finally:
        service.delete_instance(name)
        rds.delete_db_parameter_group(DBParameterGroupName=group)


def test_modify_moves_the_port_and_changes_password_and_class(service: Service, engine: EngineUnderTest) -> None:
    instance = engine.create(service)
    rds, name = service.client("rds"), instance["DBInstanceIdentifier"]
    try:
        with engine.connect(service, instance) as client:
            few = int(client.value(engine.dialect.show.format(name="max_connections")))
        rds.modify_db_instance(
            DBInstanceIdentifier=name,
            DBInstanceClass="db.t3.small",
            DBPortNumber=6543,
            MasterUserPassword=NEW_PASSWORD,
            ApplyImmediately=True,
        )
        changed = service.await_status(name, "available")
        assert changed["Endpoint"]["Port"] == 6543 and changed["DBInstanceClass"] == "db.t3.small"
        assert refused(lambda: engine.connect(service, changed))
        with engine.connect(service, changed, password=NEW_PASSWORD) as client:
            assert int(client.value(engine.dialect.show.format(name="max_connections"))) > few
    finally:
        service.delete_instance(name)


def test_a_multi_az_instance_that_moves_to_another_port_is_away_for_a_restart_only(
    service: Service, engine: EngineUnderTest
) -> None:
    instance = engine.create(service, MultiAZ=True)
    rds, name = service.client("rds"), instance["DBInstanceIdentifier"]
    try:
        rds.modify_db_instance(DBInstanceIdentifier=name, DBPortNumber=6543, ApplyImmediately=True)
        moved = {**instance, "Endpoint": {**instance["Endpoint"], "Port": 6543}}
        eventually(lambda: not refused(lambda: engine.connect(service, moved)), timeout_s=45)
        service.await_status(name, "available")
    finally:
        service.delete_instance(name)


def test_log_files_are_listed_and_read(service: Service, engine: EngineUnderTest, instance: dict[str, Any]) -> None:
    rds, name = service.client("rds"), instance["DBInstanceIdentifier"]
    files = [one["LogFileName"] for one in rds.describe_db_log_files(DBInstanceIdentifier=name)["DescribeDBLogFiles"]]
    first = next(one for one in files if one.startswith(engine.dialect.first_log))
    portion = rds.download_db_log_file_portion(DBInstanceIdentifier=name, LogFileName=first, Marker="0")
    assert engine.dialect.error_log in portion["LogFileData"]


def test_security_groups_admit_by_source_address(service: Service, engine: EngineUnderTest) -> None:
    ec2 = service.client("ec2")
    vpc = ec2.describe_vpcs(Filters=[{"Name": "isDefault", "Values": ["true"]}])["Vpcs"][0]["VpcId"]
    name = f"fenced-{engine.dialect.engine}-{engine.version}"
    group = ec2.create_security_group(GroupName=name, Description="d", VpcId=vpc)["GroupId"]
    instance = engine.create(service, VpcSecurityGroupIds=[group])
    port = engine.dialect.port
    rule = {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "IpRanges": [{"CidrIp": "127.0.0.1/32"}]}
    try:
        assert refused(lambda: engine.connect(service, instance, connect_timeout=3))
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
        eventually(lambda: not refused(lambda: engine.connect(service, instance)))
        ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[rule])
        eventually(lambda: refused(lambda: engine.connect(service, instance, connect_timeout=3)))
    finally:
        service.delete_instance(instance["DBInstanceIdentifier"])
        ec2.delete_security_group(GroupId=group)


def test_what_is_not_built_for_the_engine_is_refused_in_words(service: Service, engine: EngineUnderTest) -> None:
    rules = engines(Builds(service.settings)).rules(engine.dialect.engine)
    members: dict[Feature, dict[str, Any]] = {
        Feature.BACKUPS: {"BackupRetentionPeriod": 1},
        Feature.MULTI_AZ: {"MultiAZ": True},
        Feature.IAM_LOGIN: {"EnableIAMDatabaseAuthentication": True},
    }
    for feature in set(members) - rules.features:
        with pytest.raises(ApiError, match=f"InvalidParameterCombination.*{feature}.*{engine.dialect.engine}"):
            engine.create(service, "never", **members[feature])
    assert "never" not in [
        one["DBInstanceIdentifier"] for one in service.client("rds").describe_db_instances()["DBInstances"]
    ]
