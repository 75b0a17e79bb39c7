"""VPCs, subnets, gateways, routes, ACLs, zones, and the default VPC."""

from __future__ import annotations

import pytest

from harness.ec2_calls import Cloud
from mainstay.model.db_subnet_group import DBSubnetGroup, GroupedSubnet
from mainstay.model.ec2 import Subnet
from mainstay.services.ec2.regions import zone_id
from mainstay.services.ec2.route_tables import has_internet_route


def by(name: str, *values: str) -> list[dict[str, object]]:
    return [{"Name": name, "Values": list(values)}]


def public(cloud: Cloud, subnet_id: str) -> bool:
    with cloud.store.read() as reader:
        subnet = reader.get(Subnet, cloud.scope, subnet_id)
        assert subnet is not None
        return has_internet_route(reader, subnet)


@pytest.mark.parametrize(
    ("region", "expected"),
    [
        ("us-east-1", "use1-az1"),
        ("eu-west-1", "euw1-az1"),
        ("ap-southeast-2", "apse2-az1"),
        ("us-gov-west-1", "usgw1-az1"),
    ],
)
def test_zone_ids(region: str, expected: str) -> None:
    assert zone_id(region, 1) == expected


def test_regions_and_zones(cloud: Cloud) -> None:
    names = [region["RegionName"] for region in cloud("DescribeRegions")["Regions"]]
    assert names == ["eu-west-1", "us-east-1", "us-west-2"]
    assert cloud.fails("DescribeRegions", RegionNames=["mars-1"]).shape == "InvalidParameterValue"
    zones = cloud("DescribeAvailabilityZones", AllAvailabilityZones=True)["AvailabilityZones"]
    assert [(zone["ZoneName"], zone["ZoneId"]) for zone in zones] == [
        ("us-east-1a", "use1-az1"),
        ("us-east-1b", "use1-az2"),
        ("us-east-1c", "use1-az3"),
    ]
    one = cloud("DescribeAvailabilityZones", Filters=by("zone-name", "*b"))["AvailabilityZones"]
    assert [zone["ZoneId"] for zone in one] == ["use1-az2"]


def test_account_attributes_name_the_default_vpc(cloud: Cloud) -> None:
    def default() -> str:
        (found,) = cloud("DescribeAccountAttributes", AttributeNames=["default-vpc"])["AccountAttributes"]
        return found["AttributeValues"][0]["AttributeValue"]

    assert default() == "none"
    vpc_id = cloud.ensure()
    assert default() == vpc_id


def test_the_default_vpc_is_complete(cloud: Cloud) -> None:
    vpc_id = cloud.ensure()
    (vpc,) = cloud("DescribeVpcs", Filters=by("isDefault", "true"))["Vpcs"]
    assert (vpc["VpcId"], vpc["CidrBlock"], vpc["IsDefault"]) == (vpc_id, "172.31.0.0/16", True)
    subnets = cloud("DescribeSubnets", Filters=by("vpc-id", vpc_id))["Subnets"]
    assert {(one["AvailabilityZone"], one["CidrBlock"], one["DefaultForAz"]) for one in subnets} == {
        ("us-east-1a", "172.31.0.0/20", True),
        ("us-east-1b", "172.31.16.0/20", True),
        ("us-east-1c", "172.31.32.0/20", True),
    }
    assert all(one["AvailableIpAddressCount"] == 4091 for one in subnets)
    assert all(public(cloud, one["SubnetId"]) for one in subnets)
    (acl,) = cloud("DescribeNetworkAcls", Filters=by("vpc-id", vpc_id))["NetworkAcls"]
    assert {one["SubnetId"] for one in acl["Associations"]} == {one["SubnetId"] for one in subnets}
    assert len(acl["Entries"]) == 4
    (group,) = cloud("DescribeSecurityGroups", Filters=by("vpc-id", vpc_id))["SecurityGroups"]
    (ingress,) = group["IpPermissions"]
    assert ingress["IpRanges"] == [{"CidrIp": "127.0.0.0/8", "Description": "this machine"}]
    assert ingress["Ipv6Ranges"] == [{"CidrIpv6": "::1/128", "Description": "this machine"}]
    assert [pair["GroupId"] for pair in ingress["UserIdGroupPairs"]] == [group["GroupId"]]
    assert "FromPort" not in ingress
    (options,) = cloud("DescribeDhcpOptions", DhcpOptionsIds=[vpc["DhcpOptionsId"]])["DhcpOptions"]
    assert options["DhcpConfigurations"][0] == {"Key": "domain-name", "Values": [{"Value": "ec2.internal"}]}


def test_ensuring_twice_changes_nothing_and_respects_deletion(cloud: Cloud) -> None:
    vpc_id = cloud.ensure()
    assert cloud.ensure() == vpc_id
    assert len(cloud("DescribeVpcs")["Vpcs"]) == 1
    assert cloud.fails("CreateDefaultVpc").shape == "DefaultVpcAlreadyExists"
    for subnet in cloud("DescribeSubnets")["Subnets"]:
        cloud("DeleteSubnet", SubnetId=subnet["SubnetId"])
    (gateway,) = cloud("DescribeInternetGateways", Filters=by("attachment.vpc-id", vpc_id))["InternetGateways"]
    assert cloud.fails("DeleteVpc", VpcId=vpc_id).shape == "DependencyViolation"
    cloud("DetachInternetGateway", InternetGatewayId=gateway["InternetGatewayId"], VpcId=vpc_id)
    cloud("DeleteVpc", VpcId=vpc_id)
    assert cloud.ensure() == ""
    assert cloud.fails("CreateDefaultSubnet", AvailabilityZone="us-east-1a").shape == "DefaultVpcDoesNotExist"
    made = cloud("CreateDefaultVpc")["Vpc"]
    assert made["IsDefault"]
    assert cloud.ensure() == made["VpcId"]


def test_a_default_subnet_can_be_made_anew(cloud: Cloud) -> None:
    cloud.ensure()
    error = cloud.fails("CreateDefaultSubnet", AvailabilityZone="us-east-1b")
    assert error.shape == "DefaultSubnetAlreadyExistsInAvailabilityZone"
    (old,) = cloud("DescribeSubnets", Filters=by("availability-zone", "us-east-1b"))["Subnets"]
    cloud("DeleteSubnet", SubnetId=old["SubnetId"])
    new = cloud("CreateDefaultSubnet", AvailabilityZone="us-east-1b")["Subnet"]
    assert (new["CidrBlock"], new["DefaultForAz"], new["MapPublicIpOnLaunch"]) == ("172.31.16.0/20", True, True)


@pytest.mark.parametrize(
    ("cidr", "code"),
    [("10.0.0.0/8", "InvalidVpc.Range"), ("10.0.0.0/29", "InvalidVpc.Range"), ("ten", "InvalidParameterValue")],
)
def test_bad_vpc_blocks(cloud: Cloud, cidr: str, code: str) -> None:
    assert cloud.fails("CreateVpc", CidrBlock=cidr).shape == code


def test_a_vpc_is_born_with_its_parts_and_dies_with_them(cloud: Cloud) -> None:
    vpc_id = str(cloud("CreateVpc", CidrBlock="10.0.7.9/16")["Vpc"]["VpcId"])
    assert cloud("DescribeVpcs")["Vpcs"][0]["CidrBlock"] == "10.0.0.0/16"
    (table,) = cloud("DescribeRouteTables", Filters=by("association.main", "true"))["RouteTables"]
    assert table["Routes"] == [
        {
            "DestinationCidrBlock": "10.0.0.0/16",
            "GatewayId": "local",
            "Origin": "CreateRouteTable",
            "State": "active",
        }
    ]
    (group,) = cloud("DescribeSecurityGroups")["SecurityGroups"]
    assert (group["GroupName"], group["Description"]) == ("default", "default VPC security group")
    # Only the default VPC's group admits this machine.
    assert group["IpPermissions"][0]["IpRanges"] == []
    cloud("DeleteVpc", VpcId=vpc_id)
    assert cloud("DescribeRouteTables")["RouteTables"] == []
    assert cloud("DescribeNetworkAcls")["NetworkAcls"] == []
    assert cloud("DescribeSecurityGroups")["SecurityGroups"] == []
    assert cloud("DescribeSecurityGroupRules")["SecurityGroupRules"] == []


def test_what_keeps_a_vpc_from_being_deleted(cloud: Cloud) -> None:
    vpc_id = cloud.vpc()
    subnet_id = cloud.subnet(vpc_id)
    error = cloud.fails("DeleteVpc", VpcId=vpc_id)
    assert (error.shape, error.message) == (
        "DependencyViolation",
        f"The vpc '{vpc_id}' has dependencies and cannot be deleted.",
    )
    cloud("DeleteSubnet", SubnetId=subnet_id)
    group_id = cloud.group(vpc_id)
    assert cloud.fails("DeleteVpc", VpcId=vpc_id).shape == "DependencyViolation"
    cloud("DeleteSecurityGroup", GroupId=group_id)
    table_id = cloud("CreateRouteTable", VpcId=vpc_id)["RouteTable"]["RouteTableId"]
    assert cloud.fails("DeleteVpc", VpcId=vpc_id).shape == "DependencyViolation"
    cloud("DeleteRouteTable", RouteTableId=table_id)
    cloud("DeleteVpc", VpcId=vpc_id)


def test_vpc_attributes(cloud: Cloud) -> None:
    vpc_id = cloud.vpc()

    def value(attribute: str, member: str) -> bool:
        return cloud("DescribeVpcAttribute", VpcId=vpc_id, Attribute=attribute)[member]["Value"]

    assert value("enableDnsSupport", "EnableDnsSupport") is True
    assert value("enableDnsHostnames", "EnableDnsHostnames") is False
    assert value("enableNetworkAddressUsageMetrics", "EnableNetworkAddressUsageMetrics") is False
    cloud("ModifyVpcAttribute", VpcId=vpc_id, EnableDnsHostnames={"Value": True})
    cloud("ModifyVpcAttribute", VpcId=vpc_id, EnableDnsSupport={"Value": False})
    assert value("enableDnsHostnames", "EnableDnsHostnames") is True
    assert value("enableDnsSupport", "EnableDnsSupport") is False
    both = cloud.fails(
        "ModifyVpcAttribute", VpcId=vpc_id, EnableDnsSupport={"Value": True}, EnableDnsHostnames={"Value": True}
    )
    assert both.shape == "InvalidParameterCombination"


def test_subnets_lie_apart_inside_their_vpc(cloud: Cloud) -> None:
    vpc_id = cloud.vpc()
    subnet = cloud("CreateSubnet", VpcId=vpc_id, CidrBlock="10.0.1.0/24", AvailabilityZoneId="use1-az2")["Subnet"]
    assert subnet["AvailabilityZone"] == "us-east-1b"
    assert subnet["AvailableIpAddressCount"] == 251
    assert subnet["SubnetArn"] == f"arn:aws:ec2:us-east-1:123456789012:subnet/{subnet['SubnetId']}"

    def refused(cidr: str, **more: str) -> tuple[str, str]:
        error = cloud.fails("CreateSubnet", VpcId=vpc_id, CidrBlock=cidr, **more)
        return error.shape, error.message

    conflict = ("InvalidSubnet.Conflict", "The CIDR '10.0.0.0/20' conflicts with another subnet")
    assert refused("10.0.0.0/20") == conflict
    assert refused("10.1.0.0/24") == ("InvalidSubnet.Range", "The CIDR '10.1.0.0/24' is invalid.")
    code, text = refused("10.0.2.0/24", AvailabilityZone="us-east-1z")
    assert code == "InvalidParameterValue"
    assert text.endswith("availability zones: us-east-1a, us-east-1b, us-east-1c.")


def test_subnet_attributes(cloud: Cloud) -> None:
    subnet_id = cloud.subnet(cloud.vpc())
    cloud("ModifySubnetAttribute", SubnetId=subnet_id, MapPublicIpOnLaunch={"Value": True})
    cloud("ModifySubnetAttribute", SubnetId=subnet_id, PrivateDnsHostnameTypeOnLaunch="resource-name")
    (subnet,) = cloud("DescribeSubnets", SubnetIds=[subnet_id])["Subnets"]
    assert subnet["MapPublicIpOnLaunch"] is True
    assert subnet["PrivateDnsNameOptionsOnLaunch"]["HostnameType"] == "resource-name"


def test_gateways_attach_to_one_vpc_each(cloud: Cloud) -> None:
    one, two = cloud.vpc("10.1.0.0/16"), cloud.vpc("10.2.0.0/16")
    first = cloud("CreateInternetGateway")["InternetGateway"]["InternetGatewayId"]
    second = cloud("CreateInternetGateway")["InternetGateway"]["InternetGatewayId"]
    cloud("AttachInternetGateway", InternetGatewayId=first, VpcId=one)
    assert (
        cloud.fails("AttachInternetGateway", InternetGatewayId=first, VpcId=two).shape == "Resource.AlreadyAssociated"
    )
    assert cloud.fails("AttachInternetGateway", InternetGatewayId=second, VpcId=one).shape == "InvalidParameterValue"
    assert cloud.fails("DetachInternetGateway", InternetGatewayId=second, VpcId=one).shape == "Gateway.NotAttached"
    assert cloud.fails("DeleteInternetGateway", InternetGatewayId=first).shape == "DependencyViolation"
    found = cloud("DescribeInternetGateways", Filters=by("attachment.vpc-id", one))["InternetGateways"]
    assert [gateway["Attachments"] for gateway in found] == [[{"State": "available", "VpcId": one}]]
    cloud("DetachInternetGateway", InternetGatewayId=first, VpcId=one)
    cloud("DeleteInternetGateway", InternetGatewayId=first)


def test_routes_make_subnets_public(cloud: Cloud) -> None:
    vpc_id = cloud.vpc()
    subnet_id = cloud.subnet(vpc_id)
    table_id = cloud("CreateRouteTable", VpcId=vpc_id)["RouteTable"]["RouteTableId"]
    gateway_id = cloud("CreateInternetGateway")["InternetGateway"]["InternetGatewayId"]
    route = {"RouteTableId": table_id, "DestinationCidrBlock": "0.0.0.0/0", "GatewayId": gateway_id}
    assert cloud.fails("CreateRoute", **route).shape == "InvalidParameterValue"
    cloud("AttachInternetGateway", InternetGatewayId=gateway_id, VpcId=vpc_id)
    assert cloud("CreateRoute", **route) == {"Return": True}
    assert cloud("CreateRoute", **route) == {"Return": True}
    assert not public(cloud, subnet_id)
    association_id = cloud("AssociateRouteTable", RouteTableId=table_id, SubnetId=subnet_id)["AssociationId"]
    assert public(cloud, subnet_id)
    assert cloud.fails("DeleteRouteTable", RouteTableId=table_id).shape == "DependencyViolation"
    cloud("DetachInternetGateway", InternetGatewayId=gateway_id, VpcId=vpc_id)
    assert not public(cloud, subnet_id)
    (table,) = cloud("DescribeRouteTables", Filters=by("route.state", "blackhole"))["RouteTables"]
    assert table["RouteTableId"] == table_id
    cloud("DisassociateRouteTable", AssociationId=association_id)
    assert cloud.fails("DisassociateRouteTable", AssociationId=association_id).shape == "InvalidAssociationID.NotFound"
    cloud("DeleteRoute", RouteTableId=table_id, DestinationCidrBlock="0.0.0.0/0")
    gone = cloud.fails("DeleteRoute", RouteTableId=table_id, DestinationCidrBlock="0.0.0.0/0")
    assert (gone.shape, gone.message) == (
        "InvalidRoute.NotFound",
        f"no route with destination-cidr-block 0.0.0.0/0 in route table {table_id}",
    )
    local = cloud.fails("DeleteRoute", RouteTableId=table_id, DestinationCidrBlock="10.0.0.0/16")
    assert local.message == f"cannot remove local route 10.0.0.0/16 in route table {table_id}"


def test_a_subnet_follows_one_table(cloud: Cloud) -> None:
    vpc_id = cloud.vpc()
    subnet_id = cloud.subnet(vpc_id)
    one, two = (cloud("CreateRouteTable", VpcId=vpc_id)["RouteTable"]["RouteTableId"] for _ in range(2))
    made = cloud("AssociateRouteTable", RouteTableId=one, SubnetId=subnet_id)["AssociationId"]
    assert cloud("AssociateRouteTable", RouteTableId=one, SubnetId=subnet_id)["AssociationId"] == made
    clash = cloud.fails("AssociateRouteTable", RouteTableId=two, SubnetId=subnet_id)
    assert clash.shape == "Resource.AlreadyAssociated"
    moved = cloud("ReplaceRouteTableAssociation", AssociationId=made, RouteTableId=two)["NewAssociationId"]
    (table,) = cloud("DescribeRouteTables", Filters=by("association.subnet-id", subnet_id))["RouteTables"]
    assert (table["RouteTableId"], table["Associations"][0]["RouteTableAssociationId"]) == (two, moved)
    cloud("DeleteSubnet", SubnetId=subnet_id)
    cloud("DeleteRouteTable", RouteTableId=two)


def test_a_subnet_stays_as_long_as_a_db_subnet_group_has_it(cloud: Cloud) -> None:
    vpc_id = cloud.vpc()
    grouped, free = cloud.subnet(vpc_id), cloud.subnet(vpc_id, "10.0.2.0/24")
    group = DBSubnetGroup(
        scope=cloud.scope,
        db_subnet_group_name="g",
        description="d",
        vpc_id=vpc_id,
        subnets=(GroupedSubnet(grouped, "us-east-1a"),),
    )
    with cloud.store.transaction() as tx:
        tx.insert(group)
    refused = cloud.fails("DeleteSubnet", SubnetId=grouped)
    assert refused.shape == "DependencyViolation"
    assert refused.message == f"The subnet '{grouped}' has dependencies and cannot be deleted."
    cloud("DeleteSubnet", SubnetId=free)
    with cloud.store.transaction() as tx:
        tx.delete(group)
    cloud("DeleteSubnet", SubnetId=grouped)


def test_the_main_table_can_be_replaced_but_not_removed(cloud: Cloud) -> None:
    vpc_id = cloud.vpc()
    (main,) = cloud("DescribeRouteTables")["RouteTables"]
    association_id = main["Associations"][0]["RouteTableAssociationId"]
    assert cloud.fails("DisassociateRouteTable", AssociationId=association_id).shape == "InvalidParameterValue"
    assert cloud.fails("DeleteRouteTable", RouteTableId=main["RouteTableId"]).shape == "DependencyViolation"
    other = cloud("CreateRouteTable", VpcId=vpc_id)["RouteTable"]["RouteTableId"]
    cloud("ReplaceRouteTableAssociation", AssociationId=association_id, RouteTableId=other)
    (table,) = cloud("DescribeRouteTables", Filters=by("association.main", "true"))["RouteTables"]
    assert table["RouteTableId"] == other
    cloud("DeleteRouteTable", RouteTableId=main["RouteTableId"])
    cloud("DeleteVpc", VpcId=vpc_id)


def test_a_route_is_replaced_in_place(cloud: Cloud) -> None:
    vpc_id = cloud.vpc()
    table_id = cloud("CreateRouteTable", VpcId=vpc_id)["RouteTable"]["RouteTableId"]
    old, new = (cloud("CreateInternetGateway")["InternetGateway"]["InternetGatewayId"] for _ in range(2))
    cloud("AttachInternetGateway", InternetGatewayId=old, VpcId=vpc_id)
    to_old = {"RouteTableId": table_id, "DestinationIpv6CidrBlock": "::/0", "GatewayId": old}
    cloud("CreateRoute", **to_old)
    cloud("DetachInternetGateway", InternetGatewayId=old, VpcId=vpc_id)
    cloud("AttachInternetGateway", InternetGatewayId=new, VpcId=vpc_id)
    to_new = to_old | {"GatewayId": new}
    assert cloud.fails("CreateRoute", **to_new).shape == "RouteAlreadyExists"
    cloud("ReplaceRoute", **to_new)
    (table,) = cloud("DescribeRouteTables", RouteTableIds=[table_id])["RouteTables"]
    assert table["Routes"][1] == {
        "DestinationIpv6CidrBlock": "::/0",
        "GatewayId": new,
        "Origin": "CreateRoute",
        "State": "active",
    }
    local = {"RouteTableId": table_id, "DestinationCidrBlock": "10.0.0.0/16", "GatewayId": new}
    assert cloud.fails("ReplaceRoute", **local).shape == "InvalidParameterValue"
    unknown = to_new | {"GatewayId": "igw-0missing"}
    assert cloud.fails("ReplaceRoute", **unknown).shape == "InvalidGatewayID.NotFound"
    malformed = {"RouteTableId": table_id, "DestinationCidrBlock": "::/0", "GatewayId": new}
    assert cloud.fails("CreateRoute", **malformed).shape == "InvalidParameterValue"
