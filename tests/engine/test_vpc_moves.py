"""A DB instance moves to another VPC: its old clients are cut off, the groups there decide who may come, names stay."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from harness.service import Service, eventually

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


@pytest.fixture
def far(service: Service) -> Iterator[tuple[str, str, str]]:
    """Id of another VPC, a DB subnet group there, and a security group there that admits nobody."""
    ec2, rds = service.client("ec2"), service.client("rds")
    name = f"far-{secrets.token_hex(4)}"
    zones = [zone["ZoneName"] for zone in ec2.describe_availability_zones()["AvailabilityZones"]]
    vpc = ec2.create_vpc(CidrBlock="10.88.0.0/16")["Vpc"]["VpcId"]
    subnets = [
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.88.{number}.0/24", AvailabilityZone=zone)["Subnet"]["SubnetId"]
        for number, zone in enumerate(zones)
    ]
    group = ec2.create_security_group(GroupName=name, Description="d", VpcId=vpc)["GroupId"]
    rds.create_db_subnet_group(DBSubnetGroupName=name, DBSubnetGroupDescription="d", SubnetIds=subnets)
    yield vpc, name, group
    rds.delete_db_subnet_group(DBSubnetGroupName=name)
    ec2.delete_security_group(GroupId=group)
    for subnet in subnets:
        ec2.delete_subnet(SubnetId=subnet)
    ec2.delete_vpc(VpcId=vpc)


def interfaces_in(service: Service, vpc: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.client("ec2").describe_network_interfaces(
        Filters=[{"Name": "vpc-id", "Values": [vpc]}]
    )["NetworkInterfaces"]
    return found


def admitted(service: Service, instance: dict[str, Any]) -> bool:
    try:
        with service.connect(instance, connect_timeout=3):
            return True
    except psycopg.OperationalError:
        return False


def test_a_move_to_another_vpc(service: Service, far: tuple[str, str, str]) -> None:
    vpc, subnet_group, group = far
    ec2, rds = service.client("ec2"), service.client("rds")
    before = service.create_instance("mover")
    rule = {"IpProtocol": "tcp", "FromPort": 5432, "ToPort": 5432, "IpRanges": [{"CidrIp": "127.0.0.0/8"}]}
    try:
        with service.connect(before) as client:
            client.execute("CREATE TABLE kept AS SELECT 7 AS seven")
            shown = rds.modify_db_instance(
                DBInstanceIdentifier="mover",
                DBSubnetGroupName=subnet_group,
                VpcSecurityGroupIds=[group],
                PubliclyAccessible=False,
                ApplyImmediately=True,
            )["DBInstance"]
            assert shown["DBInstanceStatus"] == "moving-to-vpc"
            after = service.await_status("mover", "available")
            with pytest.raises(psycopg.OperationalError):
                client.execute("SELECT 1")
        assert after["DBSubnetGroup"]["VpcId"] == vpc
        assert [one["VpcSecurityGroupId"] for one in after["VpcSecurityGroups"]] == [group]
        assert after["DbiResourceId"] == before["DbiResourceId"]
        assert [one["Groups"][0]["GroupId"] for one in interfaces_in(service, vpc)] == [group]
        assert not admitted(service, after)  # the default VPC's default group would have admitted us
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
        eventually(lambda: admitted(service, after), timeout_s=5.0)
        with service.connect(after) as client:
            assert client.execute("SELECT seven FROM kept").fetchone() == (7,)
    finally:
        service.delete_instance("mover")
    assert interfaces_in(service, vpc) == []


def test_who_goes_is_admitted_nowhere_as_a_member_of_its_group(service: Service) -> None:
    """The address of a deleted instance may be given to another one, which must not come where the first could."""
    ec2 = service.client("ec2")
    vpc = ec2.describe_vpcs(Filters=[{"Name": "isDefault", "Values": ["true"]}])["Vpcs"][0]["VpcId"]
    name = f"m-{secrets.token_hex(4)}"
    members = ec2.create_security_group(GroupName=name, Description="d", VpcId=vpc)["GroupId"]
    guarded = ec2.create_security_group(GroupName=name + "-g", Description="d", VpcId=vpc)["GroupId"]
    pairs = [{"GroupId": members}]
    rule = {"IpProtocol": "tcp", "FromPort": 5432, "ToPort": 5432, "UserIdGroupPairs": pairs}
    ec2.authorize_security_group_ingress(GroupId=guarded, IpPermissions=[rule])
    try:
        target = service.create_instance("guarded", VpcSecurityGroupIds=[guarded])
        member = service.create_instance("member", VpcSecurityGroupIds=[members])
        source = member["Endpoint"]["Address"]
        eventually(lambda: comes_through(target, source), timeout_s=5.0)
        service.delete_instance("member")
        eventually(lambda: not comes_through(target, source), timeout_s=5.0)
    finally:
        service.delete_instance("guarded")
        ec2.delete_security_group(GroupId=guarded)
        ec2.delete_security_group(GroupId=members)


def comes_through(instance: dict[str, Any], source: str) -> bool:
    """Whether the endpoint lets a client of this address talk to the engine."""
    with socket.socket() as client:
        client.bind((source, 0))
        client.settimeout(2)
        try:
            client.connect((instance["Endpoint"]["Address"], instance["Endpoint"]["Port"]))
            client.sendall(b"\x00\x00\x00\x08\x04\xd2\x16\x2f")  # SSLRequest
            return client.recv(1) == b"S"
        except (ConnectionError, TimeoutError):
            return False
