"""The life of one DB instance on a real engine, through the API: what `make run` shows, and its dark corners."""

from __future__ import annotations

import socket

import psycopg
import pytest
from botocore.exceptions import ClientError

from harness.service import PASSWORD, Service, eventually

pytestmark = pytest.mark.engine


def events_of(service: Service, identifier: str) -> list[str]:
    found = service.client("rds").describe_events(SourceType="db-instance", SourceIdentifier=identifier)["Events"]
    return [event["Message"] for event in found]


def test_create_use_stop_start_reboot_delete(service: Service) -> None:
    instance = service.create_instance("life", DBName="shop")
    rds = service.client("rds")
    with service.connect(instance, dbname="shop") as connection:
        connection.execute("CREATE TABLE t (a int)")
        connection.execute("INSERT INTO t VALUES (1)")
    rds.stop_db_instance(DBInstanceIdentifier="life")
    stopped = service.await_status("life", "stopped")
    assert stopped["Endpoint"] == instance["Endpoint"] and stopped["AutomaticRestartTime"]
    with pytest.raises(psycopg.OperationalError, match="refused"):
        service.connect(instance)
    with pytest.raises(ClientError, match="InvalidDBInstanceState"):
        rds.modify_db_instance(DBInstanceIdentifier="life", DBInstanceClass="db.t3.small")
    rds.start_db_instance(DBInstanceIdentifier="life")
    service.await_status("life", "available")
    pid = service.node("life")["pid"]
    with service.connect(instance, dbname="shop") as held:
        rds.reboot_db_instance(DBInstanceIdentifier="life")
        with pytest.raises(psycopg.OperationalError, match="terminating connection"):
            eventually(lambda: held.execute("SELECT pg_sleep(0.05)") is None)
    service.await_status("life", "available")
    assert service.node("life")["pid"] != pid
    with service.connect(instance, dbname="shop") as connection:
        assert connection.execute("SELECT a FROM t").fetchall() == [(1,)]
    data = service.home / "agent" / "nodes" / service.node("life")["node"]
    assert data.exists()
    service.delete_instance("life")
    eventually(lambda: not data.exists())
    with pytest.raises(psycopg.OperationalError, match="refused"):
        service.connect(instance)
    messages = " ".join(events_of(service, "life")).lower()
    for word in ("created", "stopped", "started", "restarted", "deleted"):
        assert word in messages, messages


def test_modify_renames_moves_the_port_and_changes_password_and_class(service: Service) -> None:
    instance = service.create_instance("before")
    rds = service.client("rds")
    try:
        shown = rds.modify_db_instance(DBInstanceIdentifier="before", DBInstanceClass="db.t3.small")["DBInstance"]
        assert shown["PendingModifiedValues"] == {"DBInstanceClass": "db.t3.small"}
        assert shown["DBInstanceClass"] == "db.t3.micro"
        rds.modify_db_instance(
            DBInstanceIdentifier="before",
            NewDBInstanceIdentifier="after",
            DBPortNumber=6543,
            MasterUserPassword="another-" + PASSWORD,
            ApplyImmediately=True,
        )
        changed = service.await_status("after", "available")
        assert changed["DBInstanceClass"] == "db.t3.small" and changed["PendingModifiedValues"] == {}
        assert changed["DbiResourceId"] == instance["DbiResourceId"]
        assert changed["Endpoint"]["Port"] == 6543
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            service.connect(changed)
        with service.connect(changed, password="another-" + PASSWORD) as connection:
            row = connection.execute("SHOW max_connections").fetchone()
            assert row is not None and int(row[0]) > 150
        with pytest.raises(ClientError, match="DBInstanceNotFound"):
            service.describe("before")
    finally:
        names = [one["DBInstanceIdentifier"] for one in rds.describe_db_instances()["DBInstances"]]
        for name in {"before", "after"} & set(names):
            service.delete_instance(name)


def test_parameters_take_effect_at_once_or_at_the_reboot(service: Service) -> None:
    rds = service.client("rds")
    family = rds.describe_db_engine_versions(Engine="postgres", EngineVersion=service.engine_version)
    rds.create_db_parameter_group(
        DBParameterGroupName="mine",
        DBParameterGroupFamily=family["DBEngineVersions"][0]["DBParameterGroupFamily"],
        Description="d",
    )
    instance = service.create_instance("params", DBParameterGroupName="mine")

    def setting(name: str) -> str:
        with service.connect(instance) as connection:
            row = connection.execute(f"SHOW {name}").fetchone()
            assert row is not None
            return str(row[0])

    def apply_status() -> str:
        return str(service.describe("params")["DBParameterGroups"][0]["ParameterApplyStatus"])

    try:
        rds.modify_db_parameter_group(
            DBParameterGroupName="mine",
            Parameters=[
                {"ParameterName": "work_mem", "ParameterValue": "8192", "ApplyMethod": "immediate"},
                {"ParameterName": "max_connections", "ParameterValue": "77", "ApplyMethod": "pending-reboot"},
                {"ParameterName": "random_page_cost", "ParameterValue": "1.5", "ApplyMethod": "pending-reboot"},
            ],
        )
        eventually(lambda: setting("work_mem") == "8MB")
        assert apply_status() == "pending-reboot"
        assert setting("random_page_cost") == "4" and setting("max_connections") != "77"
        rds.reboot_db_instance(DBInstanceIdentifier="params")
        service.await_status("params", "available")
        assert setting("max_connections") == "77" and setting("random_page_cost") == "1.5"
        assert apply_status() == "in-sync"
        assert setting("ssl") == "on"
        with pytest.raises(psycopg.OperationalError, match="no encryption"):
            service.connect(instance, sslmode="disable", sslrootcert=None)
        rds.modify_db_parameter_group(
            DBParameterGroupName="mine",
            Parameters=[{"ParameterName": "rds.force_ssl", "ParameterValue": "0", "ApplyMethod": "immediate"}],
        )

        def plain() -> bool:
            try:
                service.connect(instance, sslmode="disable", sslrootcert=None).close()
            except psycopg.OperationalError:
                return False
            return True

        eventually(plain)
    finally:
        service.delete_instance("params")
        rds.delete_db_parameter_group(DBParameterGroupName="mine")


def test_security_groups_admit_by_real_source_address_within_a_second(service: Service) -> None:
    ec2 = service.client("ec2")
    vpc = ec2.describe_vpcs(Filters=[{"Name": "isDefault", "Values": ["true"]}])["Vpcs"][0]["VpcId"]
    group = ec2.create_security_group(GroupName="only-one", Description="d", VpcId=vpc)["GroupId"]
    instance = service.create_instance("fenced", VpcSecurityGroupIds=[group])
    host = instance["Endpoint"]["Address"]
    rule = {"IpProtocol": "tcp", "FromPort": 5432, "ToPort": 5432, "IpRanges": [{"CidrIp": "127.0.0.9/32"}]}

    def comes_through(source: str) -> bool:
        # The relay resets what it does not admit, the kernel path refuses it.
        with socket.socket() as client:
            client.bind((source, 0))
            client.settimeout(2)
            try:
                client.connect((host, 5432))
                client.sendall(b"\x00\x00\x00\x08\x04\xd2\x16\x2f")  # SSLRequest
                return client.recv(1) == b"S"
            except (ConnectionError, TimeoutError):
                return False

    try:
        assert not comes_through("127.0.0.9")
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
        eventually(lambda: comes_through("127.0.0.9"), timeout_s=1.0)
        assert not comes_through("127.0.0.8")
        ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[rule])
        eventually(lambda: not comes_through("127.0.0.9"), timeout_s=1.0)
    finally:
        service.delete_instance("fenced")
        ec2.delete_security_group(GroupId=group)
