"""Security groups and their rules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from harness.ec2_calls import Cloud
from mainstay.model.ec2 import SecurityGroupRevision
from mainstay.services.revisions import current_revision


def permission(port: int = 5432, *cidrs: str, **more: Any) -> dict[str, Any]:
    ranges = [{"CidrIp": cidr} for cidr in cidrs]
    return {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "IpRanges": ranges, **more}


def revision(cloud: Cloud) -> int:
    with cloud.store.read() as reader:
        return current_revision(reader, SecurityGroupRevision, cloud.scope)


def ingress(cloud: Cloud, group_id: str) -> list[dict[str, Any]]:
    return cloud("DescribeSecurityGroups", GroupIds=[group_id])["SecurityGroups"][0]["IpPermissions"]


@pytest.fixture
def vpc_id(cloud: Cloud) -> str:
    return cloud.vpc()


@pytest.fixture
def group_id(cloud: Cloud, vpc_id: str) -> str:
    return cloud.group(vpc_id)


def test_a_new_group_lets_everything_out_and_nothing_in(cloud: Cloud, group_id: str) -> None:
    (group,) = cloud("DescribeSecurityGroups", GroupIds=[group_id])["SecurityGroups"]
    assert group["IpPermissions"] == []
    (egress,) = group["IpPermissionsEgress"]
    assert (egress["IpProtocol"], egress["IpRanges"]) == ("-1", [{"CidrIp": "0.0.0.0/0"}])
    assert group["SecurityGroupArn"] == f"arn:aws:ec2:us-east-1:123456789012:security-group/{group_id}"


@pytest.mark.parametrize("name", ["sg-mine", "default", "", "n" * 256, "snow\u2603", " padded"])
def test_bad_names(cloud: Cloud, vpc_id: str, name: str) -> None:
    error = cloud.fails("CreateSecurityGroup", GroupName=name, Description="d", VpcId=vpc_id)
    assert error.shape in ("InvalidParameterValue", "MissingParameter")


def test_names_are_unique_in_a_vpc(cloud: Cloud, vpc_id: str, group_id: str) -> None:
    error = cloud.fails("CreateSecurityGroup", GroupName="db", Description="d", VpcId=vpc_id)
    assert (error.shape, error.message) == (
        "InvalidGroup.Duplicate",
        f"The security group 'db' already exists for VPC '{vpc_id}'",
    )
    cloud.group(cloud.vpc("10.9.0.0/16"))


def test_groups_go_to_the_default_vpc_and_by_name_there(cloud: Cloud) -> None:
    assert cloud.fails("CreateSecurityGroup", GroupName="db", Description="d").shape == "VPCIdNotSpecified"
    vpc_id = cloud.ensure()
    made = cloud("CreateSecurityGroup", GroupName="db", Description="d")["GroupId"]
    (group,) = cloud("DescribeSecurityGroups", GroupNames=["db"])["SecurityGroups"]
    assert (group["GroupId"], group["VpcId"]) == (made, vpc_id)
    error = cloud.fails("DescribeSecurityGroups", GroupNames=["nope"])
    assert error.message == f"The security group 'nope' does not exist in default VPC '{vpc_id}'"
    cloud("DeleteSecurityGroup", GroupName="db")


def test_authorize_answers_with_the_rules(cloud: Cloud, group_id: str) -> None:
    tags = [{"ResourceType": "security-group-rule", "Tags": [{"Key": "a", "Value": "1"}]}]
    ranges: dict[str, Any] = {"IpRanges": [{"CidrIp": "100.68.0.18/18", "Description": "office"}]}
    answer = cloud(
        "AuthorizeSecurityGroupIngress",
        GroupId=group_id,
        IpPermissions=[permission(**ranges)],
        TagSpecifications=tags,
    )
    (rule,) = answer["SecurityGroupRules"]
    rule_id = rule["SecurityGroupRuleId"]
    assert rule_id.startswith("sgr-")
    assert rule == {
        "SecurityGroupRuleId": rule_id,
        "GroupId": group_id,
        "GroupOwnerId": "123456789012",
        "IsEgress": False,
        "IpProtocol": "tcp",
        "FromPort": 5432,
        "ToPort": 5432,
        "CidrIpv4": "100.68.0.0/18",
        "Description": "office",
        "Tags": [{"Key": "a", "Value": "1"}],
        "SecurityGroupRuleArn": f"arn:aws:ec2:us-east-1:123456789012:security-group-rule/{rule_id}",
    }
    assert cloud("DescribeSecurityGroupRules", SecurityGroupRuleIds=[rule_id])["SecurityGroupRules"] == [rule]


def test_the_older_members_say_the_same(cloud: Cloud, group_id: str) -> None:
    cloud(
        "AuthorizeSecurityGroupIngress",
        GroupId=group_id,
        IpProtocol="6",
        FromPort=5432,
        ToPort=5432,
        CidrIp="10.0.0.0/8",
    )
    (entry,) = ingress(cloud, group_id)
    assert entry["IpProtocol"] == "tcp"
    cloud(
        "RevokeSecurityGroupIngress",
        GroupId=group_id,
        IpProtocol="tcp",
        FromPort=5432,
        ToPort=5432,
        CidrIp="10.0.0.0/8",
    )
    assert ingress(cloud, group_id) == []


def test_rules_of_one_port_are_shown_together(cloud: Cloud, group_id: str) -> None:
    other = {"UserIdGroupPairs": [{"GroupId": group_id}], "Ipv6Ranges": [{"CidrIpv6": "2001:db8::/32"}]}
    wanted = [permission(5432, "10.0.0.0/8", "192.0.2.0/24", **other), permission(3306, "10.0.0.0/8")]
    answer = cloud("AuthorizeSecurityGroupIngress", GroupId=group_id, IpPermissions=wanted)
    assert len(answer["SecurityGroupRules"]) == 5
    first, second = ingress(cloud, group_id)
    assert (first["FromPort"], second["FromPort"]) == (3306, 5432)
    assert {one["CidrIp"] for one in second["IpRanges"]} == {"10.0.0.0/8", "192.0.2.0/24"}
    assert second["UserIdGroupPairs"] == [{"GroupId": group_id, "UserId": "123456789012"}]


def test_duplicates_are_refused_and_nothing_is_kept(cloud: Cloud, group_id: str) -> None:
    cloud("AuthorizeSecurityGroupIngress", GroupId=group_id, IpPermissions=[permission(5432, "10.0.0.0/8")])
    before = revision(cloud)
    wanted = [permission(3306, "10.0.0.0/8"), permission(5432, "10.1.2.3/8")]
    error = cloud.fails("AuthorizeSecurityGroupIngress", GroupId=group_id, IpPermissions=wanted)
    assert (error.shape, error.message) == (
        "InvalidPermission.Duplicate",
        'the specified rule "peer: 10.0.0.0/8, TCP, from port: 5432, to port: 5432, ALLOW" already exists',
    )
    assert len(ingress(cloud, group_id)) == 1
    assert revision(cloud) == before
    twice = [permission(1, "10.0.0.0/8"), permission(1, "10.0.0.0/8")]
    assert cloud.fails("AuthorizeSecurityGroupIngress", GroupId=group_id, IpPermissions=twice).shape == (
        "InvalidParameterValue"
    )


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (permission(5432, "10.0.0.0"), "InvalidParameterValue"),
        (permission(5432, "2001:db8::/32"), "InvalidParameterValue"),
        (permission(5432), "InvalidParameterValue"),
        (permission(65536, "10.0.0.0/8"), "InvalidParameterValue"),
        (permission(5432, "10.0.0.0/8", ToPort=22), "InvalidParameterValue"),
        ({"IpProtocol": "tcp", "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}, "InvalidParameterValue"),
        (permission(5432, "10.0.0.0/8", IpProtocol="carrier-pigeon"), "InvalidPermission.Malformed"),
        (permission(5432, IpRanges=[{"CidrIp": "10.0.0.0/8", "Description": "ü"}]), "InvalidParameterValue"),
        (permission(5432, PrefixListIds=[{"PrefixListId": "pl-1"}]), "UnsupportedOperation"),
        (permission(5432, UserIdGroupPairs=[{"GroupId": "sg-0missing"}]), "InvalidGroup.NotFound"),
        (permission(5432, UserIdGroupPairs=[{"GroupId": "sg-1", "UserId": "999999999999"}]), "InvalidGroup.NotFound"),
    ],
)
def test_bad_permissions(cloud: Cloud, group_id: str, bad: dict[str, Any], code: str) -> None:
    assert cloud.fails("AuthorizeSecurityGroupIngress", GroupId=group_id, IpPermissions=[bad]).shape == code


def test_source_groups_are_of_the_same_vpc(cloud: Cloud, group_id: str) -> None:
    elsewhere = cloud.group(cloud.vpc("10.9.0.0/16"))
    pairs = [{"GroupId": elsewhere}]
    error = cloud.fails(
        "AuthorizeSecurityGroupIngress", GroupId=group_id, IpPermissions=[permission(UserIdGroupPairs=pairs)]
    )
    assert error.message == "You have specified two resources that belong to different networks."


def test_a_group_holds_sixty_rules(cloud: Cloud, group_id: str) -> None:
    cidrs = [f"10.0.0.{number}/32" for number in range(60)]
    cloud("AuthorizeSecurityGroupIngress", GroupId=group_id, IpPermissions=[permission(5432, *cidrs)])
    one_more = [permission(5432, "10.0.1.0/32")]
    error = cloud.fails("AuthorizeSecurityGroupIngress", GroupId=group_id, IpPermissions=one_more)
    assert error.shape == "RulesPerSecurityGroupLimitExceeded"
    # The other direction counts by itself.
    cloud("AuthorizeSecurityGroupEgress", GroupId=group_id, IpPermissions=one_more)


def test_revoke_by_permission_and_by_id(cloud: Cloud, group_id: str) -> None:
    wanted = [permission(5432, "10.0.0.0/8", "192.0.2.0/24")]
    made = cloud("AuthorizeSecurityGroupIngress", GroupId=group_id, IpPermissions=wanted)["SecurityGroupRules"]
    ids = {rule["CidrIpv4"]: rule["SecurityGroupRuleId"] for rule in made}
    revoked = cloud("RevokeSecurityGroupIngress", GroupId=group_id, IpPermissions=[permission(5432, "10.0.0.0/8")])
    (gone,) = revoked["RevokedSecurityGroupRules"]
    assert gone["SecurityGroupRuleId"] == ids["10.0.0.0/8"]
    cloud("RevokeSecurityGroupIngress", GroupId=group_id, SecurityGroupRuleIds=[ids["192.0.2.0/24"]])
    assert ingress(cloud, group_id) == []
    missing = cloud.fails("RevokeSecurityGroupIngress", GroupId=group_id, IpPermissions=wanted)
    assert (missing.shape, missing.message) == (
        "InvalidPermission.NotFound",
        "The specified rule does not exist in this security group.",
    )
    unknown = cloud.fails("RevokeSecurityGroupIngress", GroupId=group_id, SecurityGroupRuleIds=[ids["10.0.0.0/8"]])
    assert unknown.shape == "InvalidSecurityGroupRuleId.NotFound"


def test_an_egress_rule_is_not_revoked_as_ingress(cloud: Cloud, group_id: str) -> None:
    (rule,) = cloud("DescribeSecurityGroupRules", Filters=[{"Name": "group-id", "Values": [group_id]}])[
        "SecurityGroupRules"
    ]
    assert rule["IsEgress"]
    ids = [rule["SecurityGroupRuleId"]]
    assert cloud.fails("RevokeSecurityGroupIngress", GroupId=group_id, SecurityGroupRuleIds=ids).shape == (
        "InvalidSecurityGroupRuleId.NotFound"
    )
    everything = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    cloud("RevokeSecurityGroupEgress", GroupId=group_id, IpPermissions=everything)
    assert cloud("DescribeSecurityGroups", GroupIds=[group_id])["SecurityGroups"][0]["IpPermissionsEgress"] == []


def test_modify_keeps_the_id_and_the_kind_of_peer(cloud: Cloud, group_id: str) -> None:
    made = cloud("AuthorizeSecurityGroupIngress", GroupId=group_id, IpPermissions=[permission(5432, "10.0.0.0/8")])
    rule_id = made["SecurityGroupRules"][0]["SecurityGroupRuleId"]

    def update(**content: Any) -> list[dict[str, Any]]:
        return [{"SecurityGroupRuleId": rule_id, "SecurityGroupRule": {"IpProtocol": "tcp", **content}}]

    changed = update(FromPort=3306, ToPort=3307, CidrIpv4="192.0.2.0/24", Description="new")
    cloud("ModifySecurityGroupRules", GroupId=group_id, SecurityGroupRules=changed)
    (rule,) = cloud("DescribeSecurityGroupRules", SecurityGroupRuleIds=[rule_id])["SecurityGroupRules"]
    assert (rule["FromPort"], rule["ToPort"], rule["CidrIpv4"], rule["Description"]) == (
        3306,
        3307,
        "192.0.2.0/24",
        "new",
    )
    other_kind = update(FromPort=1, ToPort=1, CidrIpv6="::/0")
    assert cloud.fails("ModifySecurityGroupRules", GroupId=group_id, SecurityGroupRules=other_kind).shape == (
        "InvalidParameterValue"
    )
    two_peers = update(FromPort=1, ToPort=1, CidrIpv6="::/0", CidrIpv4="10.0.0.0/8")
    assert cloud.fails("ModifySecurityGroupRules", GroupId=group_id, SecurityGroupRules=two_peers).shape == (
        "InvalidParameterCombination"
    )
    cloud("AuthorizeSecurityGroupIngress", GroupId=group_id, IpPermissions=[permission(5432, "10.0.0.0/8")])
    clash = update(FromPort=5432, ToPort=5432, CidrIpv4="10.0.0.0/8")
    assert cloud.fails("ModifySecurityGroupRules", GroupId=group_id, SecurityGroupRules=clash).shape == (
        "InvalidPermission.Duplicate"
    )


def test_descriptions_change_by_permission_and_by_id(cloud: Cloud, group_id: str) -> None:
    made = cloud("AuthorizeSecurityGroupIngress", GroupId=group_id, IpPermissions=[permission(5432, "10.0.0.0/8")])
    described = permission(5432, IpRanges=[{"CidrIp": "10.0.0.0/8", "Description": "office"}])
    cloud("UpdateSecurityGroupRuleDescriptionsIngress", GroupId=group_id, IpPermissions=[described])
    assert ingress(cloud, group_id)[0]["IpRanges"] == [{"CidrIp": "10.0.0.0/8", "Description": "office"}]
    by_id = [{"SecurityGroupRuleId": made["SecurityGroupRules"][0]["SecurityGroupRuleId"]}]
    cloud("UpdateSecurityGroupRuleDescriptionsIngress", GroupId=group_id, SecurityGroupRuleDescriptions=by_id)
    assert ingress(cloud, group_id)[0]["IpRanges"] == [{"CidrIp": "10.0.0.0/8"}]
    missing = cloud.fails("UpdateSecurityGroupRuleDescriptionsEgress", GroupId=group_id, IpPermissions=[described])
    assert missing.shape == "InvalidPermission.NotFound"


def test_the_default_group_stays(cloud: Cloud, vpc_id: str) -> None:
    (group,) = cloud("DescribeSecurityGroups", Filters=[{"Name": "group-name", "Values": ["default"]}])[
        "SecurityGroups"
    ]
    error = cloud.fails("DeleteSecurityGroup", GroupId=group["GroupId"])
    assert (error.shape, error.message) == (
        "CannotDelete",
        f'the specified group: "{group["GroupId"]}" name: "default" cannot be deleted by a user',
    )


def test_a_group_that_others_name_stays(cloud: Cloud, vpc_id: str, group_id: str) -> None:
    app = cloud.group(vpc_id, "app")
    pairs = [permission(UserIdGroupPairs=[{"GroupId": app}])]
    cloud("AuthorizeSecurityGroupIngress", GroupId=group_id, IpPermissions=pairs)
    error = cloud.fails("DeleteSecurityGroup", GroupId=app)
    assert (error.shape, error.message) == ("DependencyViolation", f"resource {app} has a dependent object")
    itself = [permission(UserIdGroupPairs=[{"GroupId": group_id}])]
    cloud("AuthorizeSecurityGroupIngress", GroupId=group_id, IpPermissions=itself)
    assert cloud("DeleteSecurityGroup", GroupId=group_id) == {"Return": True, "GroupId": group_id}
    cloud("DeleteSecurityGroup", GroupId=app)


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("ip-permission.cidr", "10.0.0.0/8", True),
        ("ip-permission.cidr", "0.0.0.0/0", False),
        ("egress.ip-permission.cidr", "0.0.0.0/0", True),
        ("ip-permission.from-port", "5432", True),
        ("ip-permission.protocol", "udp", False),
        ("group-name", "d?", True),
        ("ip-permission.group-name", "db", False),
    ],
)
def test_filters_on_rules(cloud: Cloud, group_id: str, name: str, value: str, found: bool) -> None:
    cloud("AuthorizeSecurityGroupIngress", GroupId=group_id, IpPermissions=[permission(5432, "10.0.0.0/8")])
    groups = cloud("DescribeSecurityGroups", Filters=[{"Name": name, "Values": [value]}])["SecurityGroups"]
    assert (group_id in [group["GroupId"] for group in groups]) == found


def test_every_rule_change_is_announced(cloud: Cloud, group_id: str) -> None:
    def steps() -> Iterator[None]:
        made = cloud("AuthorizeSecurityGroupIngress", GroupId=group_id, IpPermissions=[permission(1, "10.0.0.0/8")])
        yield
        rule_id = made["SecurityGroupRules"][0]["SecurityGroupRuleId"]
        content = {"IpProtocol": "-1", "CidrIpv4": "10.0.0.0/8"}
        update = [{"SecurityGroupRuleId": rule_id, "SecurityGroupRule": content}]
        cloud("ModifySecurityGroupRules", GroupId=group_id, SecurityGroupRules=update)
        yield
        cloud("RevokeSecurityGroupIngress", GroupId=group_id, SecurityGroupRuleIds=[rule_id])
        yield

    before = revision(cloud)
    for count, _ in enumerate(steps(), start=1):
        assert revision(cloud) == before + count
        assert cloud.listener.scopes == [cloud.scope] * count


def test_source_groups_by_name_and_other_protocols(cloud: Cloud) -> None:
    cloud.ensure()
    group_id = cloud("CreateSecurityGroup", GroupName="db", Description="d")["GroupId"]
    app = cloud("CreateSecurityGroup", GroupName="app", Description="d")["GroupId"]
    cloud("AuthorizeSecurityGroupIngress", GroupName="db", SourceSecurityGroupName="app")
    ping = {"IpProtocol": "icmp", "FromPort": 8, "ToPort": -1, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}
    numbered = {"IpProtocol": "50", "FromPort": 1, "ToPort": 2, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}
    cloud("AuthorizeSecurityGroupIngress", GroupId=group_id, IpPermissions=[ping, numbered])
    entries = {entry["IpProtocol"]: entry for entry in ingress(cloud, group_id)}
    assert entries["-1"]["UserIdGroupPairs"] == [{"GroupId": app, "UserId": "123456789012"}]
    assert (entries["icmp"]["FromPort"], entries["icmp"]["ToPort"]) == (8, -1)
    assert "FromPort" not in entries["50"]
