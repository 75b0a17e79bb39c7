"""What holds for every EC2 operation: members, DryRun, demands, filters, pages, tags."""

from __future__ import annotations

import time

import botocore.session
import pytest

from harness.ec2_calls import Cloud
from mainstay.model.ec2 import Vpc
from mainstay.services.ec2 import operations
from mainstay.services.ec2.listing import FILTER_VALUES_LIMIT
from mainstay.services.ec2.table import honoured_members

MODEL = botocore.session.get_session().get_service_model("ec2")


@pytest.mark.parametrize("name", sorted(operations.built))
def test_honoured_members_are_in_the_model(name: str) -> None:
    shape = MODEL.operation_model(name).input_shape
    assert shape is not None
    members = set(shape.members)
    # ModifyVpcAttribute and a few more have no DryRun.
    assert honoured_members[name] - {"DryRun"} <= members
    assert set(shape.required_members) <= honoured_members[name]


def test_an_unsupported_member_is_refused_by_name(cloud: Cloud) -> None:
    error = cloud.fails("CreateVpc", CidrBlock="10.0.0.0/16", Ipv4IpamPoolId="ipam-pool-1")
    assert error.shape == "UnsupportedOperation"
    assert "Ipv4IpamPoolId" in error.message


def test_false_members_ask_for_nothing(cloud: Cloud) -> None:
    cloud("CreateVpc", CidrBlock="10.0.0.0/16", AmazonProvidedIpv6CidrBlock=False)
    subnet_id = cloud.subnet(cloud.vpc())
    cloud("ModifySubnetAttribute", SubnetId=subnet_id, AssignIpv6AddressOnCreation={"Value": False})
    error = cloud.fails("ModifySubnetAttribute", SubnetId=subnet_id, AssignIpv6AddressOnCreation={"Value": True})
    assert error.shape == "UnsupportedOperation"


def test_dry_run_changes_nothing(cloud: Cloud) -> None:
    error = cloud.fails("CreateVpc", CidrBlock="10.0.0.0/16", DryRun=True)
    assert (error.shape, error.status) == ("DryRunOperation", 412)
    assert error.message == "Request would have succeeded, but DryRun flag is set."
    assert cloud("DescribeVpcs")["Vpcs"] == []


def test_demands_name_the_resource_and_its_tags(cloud: Cloud) -> None:
    tags = [{"ResourceType": "vpc", "Tags": [{"Key": "team", "Value": "a"}]}]
    vpc_id = cloud("CreateVpc", CidrBlock="10.0.0.0/16", TagSpecifications=tags)["Vpc"]["VpcId"]
    (demand,) = cloud.demands("DeleteVpc", VpcId=vpc_id)
    assert demand.action == "ec2:DeleteVpc"
    assert demand.resource == f"arn:aws:ec2:us-east-1:123456789012:vpc/{vpc_id}"
    assert demand.context["aws:ResourceTag/team"] == "a"


def test_tags_at_creation_demand_create_tags(cloud: Cloud) -> None:
    tags = [{"ResourceType": "vpc", "Tags": [{"Key": "team", "Value": "a"}]}]
    create, tag = cloud.demands("CreateVpc", CidrBlock="10.0.0.0/16", TagSpecifications=tags)
    assert (create.action, tag.action) == ("ec2:CreateVpc", "ec2:CreateTags")
    assert tag.context == {"aws:TagKeys": ["team"], "aws:RequestTag/team": "a", "ec2:CreateAction": "CreateVpc"}
    assert len(cloud.demands("CreateVpc", CidrBlock="10.0.0.0/16")) == 1
    (describe,) = cloud.demands("DescribeVpcs")
    assert describe.resource == "*"


def test_pages_follow_each_other_while_resources_vanish(cloud: Cloud) -> None:
    ids = sorted(cloud.vpc(f"10.{number}.0.0/16") for number in range(12))
    first = cloud("DescribeVpcs", MaxResults=5)
    assert [vpc["VpcId"] for vpc in first["Vpcs"]] == ids[:5]
    cloud("DeleteVpc", VpcId=ids[1])
    second = cloud("DescribeVpcs", MaxResults=5, NextToken=first["NextToken"])
    assert [vpc["VpcId"] for vpc in second["Vpcs"]] == ids[5:10]
    third = cloud("DescribeVpcs", MaxResults=5, NextToken=second["NextToken"])
    assert [vpc["VpcId"] for vpc in third["Vpcs"]] == ids[10:]
    assert "NextToken" not in third


def test_page_limits_and_tokens_are_checked(cloud: Cloud) -> None:
    assert cloud.fails("DescribeVpcs", MaxResults=1001).shape == "InvalidParameterValue"
    assert cloud.fails("DescribeVpcs", NextToken="not base64!").shape == "InvalidNextToken"


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("prod-db", True),
        ("prod-*", True),
        ("*db", True),
        ("*od-*", True),
        ("prod?db", True),
        ("prod", False),
        ("Prod-db", False),
        ("p*x*b", False),
        ("*", True),
        ("prod\\*", False),
        ("prod.db", False),
        ("**-**", True),
    ],
)
def test_filter_wildcards(cloud: Cloud, pattern: str, matches: bool) -> None:
    vpc_id = cloud.vpc()
    cloud("CreateTags", Resources=[vpc_id], Tags=[{"Key": "Name", "Value": "prod-db"}])
    found = cloud("DescribeVpcs", Filters=[{"Name": "tag:Name", "Values": [pattern]}])["Vpcs"]
    assert bool(found) == matches


def test_an_escaped_star_matches_itself(cloud: Cloud) -> None:
    vpc_id = cloud.vpc()
    cloud("CreateTags", Resources=[vpc_id], Tags=[{"Key": "Name", "Value": "a*b"}])
    assert cloud("DescribeVpcs", Filters=[{"Name": "tag:Name", "Values": ["a\\*b"]}])["Vpcs"]


def test_many_stars_take_no_time(cloud: Cloud) -> None:
    vpc_id = cloud.vpc()
    cloud("CreateTags", Resources=[vpc_id], Tags=[{"Key": "Name", "Value": "a" * 256}])
    began = time.process_time()
    assert not cloud("DescribeVpcs", Filters=[{"Name": "tag:Name", "Values": ["*a" * 60 + "*b"]}])["Vpcs"]
    # Naive matching would take longer than the universe has lasted, so the bound can be generous.
    assert time.process_time() - began < 5


def test_filters_add_up_and_values_are_alternatives(cloud: Cloud) -> None:
    one, two = cloud.vpc("10.1.0.0/16"), cloud.vpc("10.2.0.0/16")
    cloud("CreateTags", Resources=[one, two], Tags=[{"Key": "team", "Value": "a"}])
    both = [{"Name": "tag-key", "Values": ["team"]}, {"Name": "cidr", "Values": ["10.1.0.0/16", "10.3.0.0/16"]}]
    assert [vpc["VpcId"] for vpc in cloud("DescribeVpcs", Filters=both)["Vpcs"]] == [one]


def test_unknown_and_excessive_filters_are_refused(cloud: Cloud) -> None:
    error = cloud.fails("DescribeVpcs", Filters=[{"Name": "colour", "Values": ["red"]}])
    assert (error.shape, error.message) == ("InvalidParameterValue", "The filter 'colour' is invalid")
    many = [str(number) for number in range(FILTER_VALUES_LIMIT + 1)]
    assert cloud.fails("DescribeVpcs", Filters=[{"Name": "cidr", "Values": many}]).shape == "FilterLimitExceeded"


def test_tags_are_written_listed_and_deleted(cloud: Cloud) -> None:
    vpc_id = cloud.vpc()
    subnet_id = cloud.subnet(vpc_id)
    cloud("CreateTags", Resources=[vpc_id, subnet_id], Tags=[{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}])
    cloud("CreateTags", Resources=[vpc_id], Tags=[{"Key": "a", "Value": "3"}])
    listed = cloud("DescribeTags", Filters=[{"Name": "resource-type", "Values": ["vpc"]}])["Tags"]
    assert listed == [
        {"ResourceId": vpc_id, "ResourceType": "vpc", "Key": "a", "Value": "3"},
        {"ResourceId": vpc_id, "ResourceType": "vpc", "Key": "b", "Value": "2"},
    ]
    cloud("DeleteTags", Resources=[vpc_id], Tags=[{"Key": "a", "Value": "other"}, {"Key": "b"}])
    assert cloud("DescribeVpcs")["Vpcs"][0]["Tags"] == [{"Key": "a", "Value": "3"}]
    cloud("DeleteTags", Resources=[vpc_id])
    assert cloud("DescribeVpcs")["Vpcs"][0]["Tags"] == []
    assert len(cloud("DescribeTags")["Tags"]) == 2


def test_create_tags_is_all_or_nothing(cloud: Cloud) -> None:
    vpc_id = cloud.vpc()
    error = cloud.fails("CreateTags", Resources=[vpc_id, "subnet-0missing"], Tags=[{"Key": "a", "Value": "1"}])
    assert error.shape == "InvalidSubnetID.NotFound"
    assert cloud("DescribeTags")["Tags"] == []


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ([{"Key": "aws:x", "Value": "1"}], "InvalidParameterValue"),
        ([{"Key": "", "Value": "1"}], "InvalidParameterValue"),
        ([{"Key": "k" * 129, "Value": "1"}], "InvalidParameterValue"),
        ([{"Key": "k", "Value": "v" * 257}], "InvalidParameterValue"),
        ([{"Key": "k", "Value": "1"}, {"Key": "k", "Value": "2"}], "InvalidParameterValue"),
        ([{"Key": f"k{number}", "Value": "1"} for number in range(51)], "TagLimitExceeded"),
    ],
)
def test_bad_tags_are_refused(cloud: Cloud, tags: list[dict[str, str]], code: str) -> None:
    assert cloud.fails("CreateTags", Resources=[cloud.vpc()], Tags=tags).shape == code


def test_tag_specifications_must_be_of_the_type_made(cloud: Cloud) -> None:
    wrong = [{"ResourceType": "subnet", "Tags": [{"Key": "a", "Value": "1"}]}]
    error = cloud.fails("CreateVpc", CidrBlock="10.0.0.0/16", TagSpecifications=wrong)
    assert error.message == "'subnet' is not a valid taggable resource type for this operation."


def test_ids_that_name_nothing(cloud: Cloud) -> None:
    expected = {
        ("DescribeVpcs", "VpcIds", "vpc-x"): ("InvalidVpcID.NotFound", "The vpc ID 'vpc-x' does not exist"),
        ("DescribeSubnets", "SubnetIds", "subnet-x"): (
            "InvalidSubnetID.NotFound",
            "The subnet ID 'subnet-x' does not exist",
        ),
        ("DescribeSecurityGroups", "GroupIds", "sg-x"): (
            "InvalidGroup.NotFound",
            "The security group 'sg-x' does not exist",
        ),
        ("DescribeSecurityGroups", "GroupIds", "db"): (
            "InvalidGroupId.Malformed",
            'Invalid id: "db" (expecting "sg-...")',
        ),
        ("DescribeRouteTables", "RouteTableIds", "rtb-x"): (
            "InvalidRouteTableID.NotFound",
            "The routeTable ID 'rtb-x' does not exist",
        ),
        ("DescribeInternetGateways", "InternetGatewayIds", "igw-x"): (
            "InvalidInternetGatewayID.NotFound",
            "The internetGateway ID 'igw-x' does not exist",
        ),
        ("DescribeInstances", "InstanceIds", "i-x"): (
            "InvalidInstanceID.NotFound",
            "The instance ID 'i-x' does not exist",
        ),
    }
    for (name, member, value), (code, message) in expected.items():
        error = cloud.fails(name, **{member: [value]})
        assert (error.shape, error.message) == (code, message)


def test_what_never_exists_is_none(cloud: Cloud) -> None:
    assert cloud("DescribeInstances") == {"Reservations": []}
    assert cloud("DescribeNatGateways") == {"NatGateways": []}
    assert cloud("DescribeVpcEndpoints") == {"VpcEndpoints": []}
    assert cloud("DescribeVpcPeeringConnections") == {"VpcPeeringConnections": []}


def test_records_are_stored_under_their_scope(cloud: Cloud) -> None:
    vpc_id = cloud.vpc()
    with cloud.store.read() as reader:
        vpc = reader.get(Vpc, cloud.scope, vpc_id)
    assert vpc is not None and vpc.cidr_block == "10.0.0.0/16"


def test_tagging_demands_every_resource(cloud: Cloud) -> None:
    vpc_id = cloud.vpc()
    subnet_id = cloud.subnet(vpc_id)
    tags = [{"Key": "a", "Value": "1"}]
    demands = cloud.demands("CreateTags", Resources=[vpc_id, subnet_id], Tags=tags)
    assert [demand.resource.rpartition(":")[2] for demand in demands] == [f"vpc/{vpc_id}", f"subnet/{subnet_id}"]
    assert {demand.action for demand in demands} == {"ec2:CreateTags"}
    assert all(demand.context["aws:RequestTag/a"] == "1" for demand in demands)


def test_a_client_token_makes_a_repeated_request_harmless(cloud: Cloud) -> None:
    vpc_id, other = cloud.vpc(), cloud.vpc("10.9.0.0/16")
    first = cloud("CreateRouteTable", VpcId=vpc_id, ClientToken="once")
    assert cloud("CreateRouteTable", VpcId=vpc_id, ClientToken="once") == first
    assert cloud("CreateRouteTable", VpcId=vpc_id, ClientToken="twice") != first
    assert cloud.fails("CreateRouteTable", VpcId=other, ClientToken="once").shape == "IdempotentParameterMismatch"
    cloud.clock.advance(25 * 3600)
    assert cloud("CreateRouteTable", VpcId=other, ClientToken="twice") != first
