"""Network interfaces: users' and services', and the access lists they give."""

from __future__ import annotations

from typing import Any

import pytest

from harness.ec2_calls import Cloud
from mainstay.model.ec2 import NetworkInterface, SecurityGroupRevision
from mainstay.model.errors import ApiError
from mainstay.services.ec2 import interfaces
from mainstay.services.ec2.assembly import default_group
from mainstay.services.revisions import current_revision


@pytest.fixture
def vpc_id(cloud: Cloud) -> str:
    return cloud.vpc()


@pytest.fixture
def subnet_id(cloud: Cloud, vpc_id: str) -> str:
    return cloud.subnet(vpc_id, "10.0.1.0/28")


def service_interface(cloud: Cloud, subnet_id: str, group_id: str, *real: str) -> NetworkInterface:
    with cloud.store.transaction() as tx:
        return interfaces.create_service_interface(
            tx,
            cloud.scope,
            subnet_id,
            [group_id],
            "RDSNetworkInterface",
            randomness=cloud.randomness,
            real_addresses=real,
        )


def admitted(cloud: Cloud, group_id: str, port: int = 5432) -> Any:
    with cloud.store.read() as reader:
        return interfaces.access_list_for(reader, cloud.scope, [group_id], port)


def create(cloud: Cloud, subnet_id: str, **more: Any) -> Any:
    return cloud("CreateNetworkInterface", SubnetId=subnet_id, **more)["NetworkInterface"]


def test_addresses_are_given_out_until_none_is_left(cloud: Cloud, subnet_id: str) -> None:
    addresses = [create(cloud, subnet_id)["PrivateIpAddress"] for _ in range(11)]
    assert addresses == [f"10.0.1.{number}" for number in range(4, 15)]
    (subnet,) = cloud("DescribeSubnets", SubnetIds=[subnet_id])["Subnets"]
    assert subnet["AvailableIpAddressCount"] == 0
    assert cloud.fails("CreateNetworkInterface", SubnetId=subnet_id).shape == "InsufficientFreeAddressesInSubnet"
    found = cloud("DescribeNetworkInterfaces", Filters=[{"Name": "private-ip-address", "Values": ["10.0.1.7"]}])
    (interface,) = found["NetworkInterfaces"]
    cloud("DeleteNetworkInterface", NetworkInterfaceId=interface["NetworkInterfaceId"])
    assert create(cloud, subnet_id)["PrivateIpAddress"] == "10.0.1.7"


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("10.0.1.3", "InvalidParameterValue"),
        ("10.0.1.15", "InvalidParameterValue"),
        ("10.0.2.5", "InvalidParameterValue"),
        ("ten", "InvalidParameterValue"),
        ("10.0.1.9", "InvalidIPAddress.InUse"),
    ],
)
def test_bad_addresses(cloud: Cloud, subnet_id: str, address: str, code: str) -> None:
    assert create(cloud, subnet_id, PrivateIpAddress="10.0.1.9")["PrivateIpAddress"] == "10.0.1.9"
    assert cloud.fails("CreateNetworkInterface", SubnetId=subnet_id, PrivateIpAddress=address).shape == code


def test_an_interface_without_groups_gets_the_default_one(cloud: Cloud, vpc_id: str, subnet_id: str) -> None:
    made = create(cloud, subnet_id, Description="mine")
    assert [group["GroupName"] for group in made["Groups"]] == ["default"]
    assert (made["Status"], made["RequesterManaged"]) == ("available", False)
    assert "Attachment" not in made
    assert cloud.fails("DeleteSubnet", SubnetId=subnet_id).shape == "DependencyViolation"


def test_groups_are_checked(cloud: Cloud, vpc_id: str, subnet_id: str) -> None:
    groups = [cloud.group(vpc_id, f"g{number}") for number in range(6)]
    error = cloud.fails("CreateNetworkInterface", SubnetId=subnet_id, Groups=groups)
    assert error.shape == "SecurityGroupsPerInterfaceLimitExceeded"
    elsewhere = cloud.group(cloud.vpc("10.9.0.0/16"))
    error = cloud.fails("CreateNetworkInterface", SubnetId=subnet_id, Groups=[elsewhere])
    assert error.message == "You have specified two resources that belong to different networks."


def test_a_client_token_makes_creation_repeatable(cloud: Cloud, subnet_id: str) -> None:
    first = create(cloud, subnet_id, ClientToken="t-1")
    assert create(cloud, subnet_id, ClientToken="t-1") == first
    error = cloud.fails("CreateNetworkInterface", SubnetId=subnet_id, ClientToken="t-1", PrivateIpAddress="10.0.1.12")
    assert error.shape == "IdempotentParameterMismatch"
    assert create(cloud, subnet_id)["NetworkInterfaceId"] != first["NetworkInterfaceId"]


def test_attributes_are_changed_one_at_a_time(cloud: Cloud, vpc_id: str, subnet_id: str) -> None:
    interface_id = create(cloud, subnet_id)["NetworkInterfaceId"]
    group_id = cloud.group(vpc_id)
    cloud("ModifyNetworkInterfaceAttribute", NetworkInterfaceId=interface_id, Groups=[group_id])
    cloud("ModifyNetworkInterfaceAttribute", NetworkInterfaceId=interface_id, SourceDestCheck={"Value": False})
    cloud("ModifyNetworkInterfaceAttribute", NetworkInterfaceId=interface_id, Description={"Value": "new"})
    (found,) = cloud("DescribeNetworkInterfaces", Filters=[{"Name": "group-id", "Values": [group_id]}])[
        "NetworkInterfaces"
    ]
    assert (found["SourceDestCheck"], found["Description"]) == (False, "new")
    shown = cloud("DescribeNetworkInterfaceAttribute", NetworkInterfaceId=interface_id, Attribute="groupSet")
    assert shown["Groups"] == [{"GroupId": group_id, "GroupName": "db"}]
    error = cloud.fails(
        "ModifyNetworkInterfaceAttribute",
        NetworkInterfaceId=interface_id,
        Groups=[group_id],
        Description={"Value": "x"},
    )
    assert error.shape == "InvalidParameterCombination"


def test_private_dns_names_need_dns_hostnames(cloud: Cloud, vpc_id: str, subnet_id: str) -> None:
    assert "PrivateDnsName" not in create(cloud, subnet_id)
    cloud("ModifyVpcAttribute", VpcId=vpc_id, EnableDnsHostnames={"Value": True})
    assert create(cloud, subnet_id)["PrivateDnsName"] == "ip-10-0-1-5.ec2.internal"


def test_users_see_service_interfaces_but_cannot_touch_them(cloud: Cloud, vpc_id: str, subnet_id: str) -> None:
    group_id = cloud.group(vpc_id)
    made = service_interface(cloud, subnet_id, group_id)
    (shown,) = cloud("DescribeNetworkInterfaces", Filters=[{"Name": "requester-id", "Values": ["amazon-rds"]}])[
        "NetworkInterfaces"
    ]
    assert (shown["RequesterManaged"], shown["Status"]) == (True, "in-use")
    assert shown["Attachment"]["InstanceOwnerId"] == "amazon-rds"
    named = {"NetworkInterfaceId": made.interface_id}
    assert cloud.fails("DeleteNetworkInterface", **named).shape == "OperationNotPermitted"
    assert cloud.fails("ModifyNetworkInterfaceAttribute", Groups=[group_id], **named).shape == "OperationNotPermitted"
    assert cloud.fails("DeleteSecurityGroup", GroupId=group_id).shape == "DependencyViolation"
    with cloud.store.transaction() as tx:
        interfaces.delete_service_interface(tx, cloud.scope, made.interface_id)
        interfaces.delete_service_interface(tx, cloud.scope, made.interface_id)
    cloud("DeleteSecurityGroup", GroupId=group_id)
    cloud("DeleteSubnet", SubnetId=subnet_id)


def test_source_groups_follow_their_members(cloud: Cloud, vpc_id: str, subnet_id: str) -> None:
    db, app = cloud.group(vpc_id, "db"), cloud.group(vpc_id, "app")
    pairs = [{"IpProtocol": "tcp", "FromPort": 5432, "ToPort": 5432, "UserIdGroupPairs": [{"GroupId": app}]}]
    cloud("AuthorizeSecurityGroupIngress", GroupId=db, IpPermissions=pairs)
    assert admitted(cloud, db).ipv4 == ()
    member = service_interface(cloud, subnet_id, app, "127.0.3.4")
    assert admitted(cloud, db).ipv4 == ("10.0.1.4/32", "127.0.3.4/32")
    assert admitted(cloud, db, 3306).ipv4 == ()
    with cloud.store.transaction() as tx:
        interfaces.set_real_addresses(tx, cloud.scope, member.interface_id, ["127.0.3.5"])
    assert admitted(cloud, db).admits("127.0.3.5")
    assert not admitted(cloud, db).admits("127.0.3.4")
    with cloud.store.transaction() as tx:
        interfaces.set_interface_groups(tx, cloud.scope, member.interface_id, [db])
    assert admitted(cloud, db).ipv4 == ()


def test_membership_changes_are_recorded(cloud: Cloud, vpc_id: str, subnet_id: str) -> None:
    def revision() -> int:
        with cloud.store.read() as reader:
            return current_revision(reader, SecurityGroupRevision, cloud.scope)

    group_id = cloud.group(vpc_id)
    before = revision()
    made = service_interface(cloud, subnet_id, group_id)
    assert revision() == before + 1
    mine = create(cloud, subnet_id)["NetworkInterfaceId"]
    cloud("ModifyNetworkInterfaceAttribute", NetworkInterfaceId=mine, Groups=[group_id])
    cloud("DeleteNetworkInterface", NetworkInterfaceId=mine)
    assert revision() == before + 4
    assert cloud.listener.scopes == [cloud.scope] * 3
    with cloud.store.transaction() as tx, pytest.raises(ApiError, match=r"InvalidGroup\.NotFound"):
        interfaces.set_interface_groups(tx, cloud.scope, made.interface_id, ["sg-0missing"])
    assert revision() == before + 4


def test_the_default_group_admits_this_machine_until_revoked(cloud: Cloud) -> None:
    vpc_id = cloud.ensure()
    with cloud.store.read() as reader:
        group_id = default_group(reader, cloud.scope, vpc_id).group_id
    found = admitted(cloud, group_id)
    assert found.admits("127.0.0.1")
    assert found.admits("::1")
    assert not found.admits("192.0.2.1")
    here = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "127.0.0.0/8"}]}]
    cloud("RevokeSecurityGroupIngress", GroupId=group_id, IpPermissions=here)
    assert not admitted(cloud, group_id).admits("127.0.0.1")
    assert admitted(cloud, group_id).admits("::1")
