"""AWS's global condition keys decide over calls that boto3 makes: each once as it holds and once as it does not."""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from harness.access import Key, allow, document_of, refused, send, signed, told
from harness.service import Service

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

ACCOUNT = "123456789012"
HOUR = datetime.timedelta(hours=1)


def at(offset: datetime.timedelta) -> str:
    return (datetime.datetime.now(datetime.UTC) + offset).strftime("%Y-%m-%dT%H:%M:%SZ")


def epoch(offset: datetime.timedelta) -> str:
    return str(int((datetime.datetime.now(datetime.UTC) + offset).timestamp()))


Condition = dict[str, dict[str, str]]
OF_EVERY_CALL: dict[str, tuple[Callable[[str], Condition], Callable[[str], Condition]]] = {
    "aws:CurrentTime": (
        lambda _: {"DateLessThan": {"aws:CurrentTime": at(HOUR)}},
        lambda _: {"DateGreaterThan": {"aws:CurrentTime": at(HOUR)}},
    ),
    "aws:EpochTime": (
        lambda _: {"NumericGreaterThan": {"aws:EpochTime": epoch(-HOUR)}},
        lambda _: {"NumericLessThan": {"aws:EpochTime": epoch(-HOUR)}},
    ),
    "aws:SecureTransport": (
        lambda _: {"Bool": {"aws:SecureTransport": "false"}},
        lambda _: {"Bool": {"aws:SecureTransport": "true"}},
    ),
    "aws:SourceIp": (
        lambda _: {"IpAddress": {"aws:SourceIp": "127.0.0.0/8"}},
        lambda _: {"NotIpAddress": {"aws:SourceIp": "127.0.0.0/8"}},
    ),
    "aws:UserAgent": (
        lambda _: {"StringLike": {"aws:UserAgent": "Boto3/*"}},
        lambda _: {"StringNotLike": {"aws:UserAgent": "Boto3/*"}},
    ),
    "aws:RequestedRegion": (
        lambda _: {"StringEquals": {"aws:RequestedRegion": "eu-west-1"}},
        lambda _: {"StringNotEquals": {"aws:RequestedRegion": "eu-west-1"}},
    ),
    "aws:PrincipalArn": (
        lambda who: {"ArnEquals": {"aws:PrincipalArn": f"arn:aws:iam::{ACCOUNT}:user/{who}"}},
        lambda who: {"ArnNotEquals": {"aws:PrincipalArn": f"arn:aws:iam::{ACCOUNT}:user/{who}"}},
    ),
    "aws:PrincipalAccount": (
        lambda _: {"StringEquals": {"aws:PrincipalAccount": ACCOUNT}},
        lambda _: {"StringNotEquals": {"aws:PrincipalAccount": ACCOUNT}},
    ),
    "aws:PrincipalType": (
        lambda _: {"StringEquals": {"aws:PrincipalType": "User"}},
        lambda _: {"StringEquals": {"aws:PrincipalType": "AssumedRole"}},
    ),
    "aws:PrincipalTag": (
        lambda _: {"StringEquals": {"aws:PrincipalTag/team": "red"}},
        lambda _: {"StringEquals": {"aws:PrincipalTag/team": "blue"}},
    ),
    "aws:username": (
        lambda who: {"StringEquals": {"aws:username": who}},
        lambda who: {"StringNotEquals": {"aws:username": who}},
    ),
    "aws:userid": (
        lambda _: {"StringLike": {"aws:userid": "AIDA*"}},
        lambda _: {"StringLike": {"aws:userid": "AROA*"}},
    ),
    "aws:ViaAWSService": (
        lambda _: {"Bool": {"aws:ViaAWSService": "false"}},
        lambda _: {"Bool": {"aws:ViaAWSService": "true"}},
    ),
    "aws:PrincipalIsAWSService": (
        lambda _: {"Bool": {"aws:PrincipalIsAWSService": "false"}},
        lambda _: {"Bool": {"aws:PrincipalIsAWSService": "true"}},
    ),
    "aws:MultiFactorAuthPresent": (  # only temporary credentials say anything of it
        lambda _: {"Null": {"aws:MultiFactorAuthPresent": "true"}},
        lambda _: {"Bool": {"aws:MultiFactorAuthPresent": "false"}},
    ),
}
CALLS: dict[str, Callable[[Any], Any]] = {
    "rds": lambda client: client.describe_db_instances(),
    "ec2": lambda client: client.describe_vpcs(),
    "secretsmanager": lambda client: client.list_secrets(),
}
DENIED = "AccessDenied|UnauthorizedOperation"


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("key_name", OF_EVERY_CALL)
def test_of_every_call(service: Service, user: tuple[str, Key], key_name: str, name: str) -> None:
    who, key = user
    service.client("iam").tag_user(UserName=who, Tags=[{"Key": "team", "Value": "red"}])
    holds, fails = OF_EVERY_CALL[key_name]
    client = service.client(name, region="eu-west-1", key=key)
    everything = {"Effect": "Allow", "Action": "*"}
    allow(service, who, {**everything, "Condition": holds(who)})
    CALLS[name](client)
    allow(service, who, {**everything, "Condition": fails(who)})
    with pytest.raises(ClientError, match=DENIED):
        CALLS[name](client)
    allow(service, who, everything, {"Effect": "Deny", "Action": "*", "Condition": holds(who)})
    with pytest.raises(ClientError, match=DENIED):
        CALLS[name](client)
    allow(service, who, everything, {"Effect": "Deny", "Action": "*", "Condition": fails(who)})
    CALLS[name](client)


def test_the_region_of_services_without_regions(service: Service, user: tuple[str, Key]) -> None:
    who, key = user
    outside = {"StringNotEquals": {"aws:RequestedRegion": "us-east-1"}}
    allow(service, who, {"Effect": "Allow", "Action": "*"}, {"Effect": "Deny", "Action": "*", "Condition": outside})
    service.client("iam", region="eu-west-1", key=key).list_users()  # is in us-east-1 wherever one asks
    with pytest.raises(ClientError, match="AccessDenied"):
        service.client("rds", region="eu-west-1", key=key).describe_db_instances()
    service.client("rds", region="us-east-1", key=key).describe_db_instances()


def test_a_page_that_refers(service: Service, user: tuple[str, Key]) -> None:
    who, key = user
    allow(
        service,
        who,
        {
            "Effect": "Allow",
            "Action": "rds:Describe*",
            "Condition": {"StringLike": {"aws:Referer": "https://console.example/*"}},
        },
    )
    assert refused(signed(service, "rds", key)) == (403, "AccessDenied")
    assert send(told(signed(service, "rds", key), Referer="https://console.example/databases"))[0] == 200


def test_keys_of_a_session(service: Service, role: str) -> None:
    iam, sts = service.client("iam"), service.client("sts")
    name = role.rpartition("/")[2]

    def may(condition: Condition) -> bool:
        statement = {"Effect": "Allow", "Action": "rds:Describe*", "Resource": "*", "Condition": condition}
        iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=document_of(statement))
        try:
            rds.describe_db_instances()
        except ClientError as error:
            assert error.response["Error"]["Code"] == "AccessDenied"
            return False
        return True

    tags = [{"Key": "cost", "Value": "7"}]
    got = sts.assume_role(RoleArn=role, RoleSessionName="s1", Tags=tags)["Credentials"]
    rds = service.client("rds", key=(got["AccessKeyId"], got["SecretAccessKey"]), token=got["SessionToken"])
    assert may({"StringEquals": {"aws:PrincipalTag/cost": "7"}})
    assert not may({"StringEquals": {"aws:PrincipalTag/cost": "8"}})
    assert may({"ArnEquals": {"aws:PrincipalArn": role}})  # the role's, not the session's
    assert not may({"ArnLike": {"aws:PrincipalArn": f"arn:aws:sts::{ACCOUNT}:assumed-role/*"}})
    assert may({"StringLike": {"aws:userid": "AROA*:s1"}})
    assert may({"Null": {"aws:username": "true"}})
    assert may({"Bool": {"aws:MultiFactorAuthPresent": "false"}})
    assert may({"DateLessThan": {"aws:TokenIssueTime": at(HOUR)}})
    assert not may({"DateLessThan": {"aws:TokenIssueTime": at(-HOUR)}})


def test_tags_that_a_request_brings(service: Service, user: tuple[str, Key]) -> None:
    who, key = user
    root = service.client("rds")
    family = root.describe_db_engine_versions(Engine="postgres")["DBEngineVersions"][0]["DBParameterGroupFamily"]

    def may_make(client: Any, *tags: tuple[str, str]) -> bool:
        name = f"g{secrets.token_hex(4)}"
        given = [{"Key": tag, "Value": value} for tag, value in tags]
        try:
            client.create_db_parameter_group(
                DBParameterGroupName=name, DBParameterGroupFamily=family, Description="d", Tags=given
            )
        except ClientError as error:
            assert error.response["Error"]["Code"] == "AccessDenied"
            return False
        root.delete_db_parameter_group(DBParameterGroupName=name)
        return True

    rds = service.client("rds", key=key)
    allow(
        service, who, {"Effect": "Allow", "Action": "rds:*", "Condition": {"StringEquals": {"aws:RequestTag/t": "a"}}}
    )
    assert may_make(rds, ("t", "a"), ("u", "b"))
    assert not may_make(rds, ("t", "b"))
    assert not may_make(rds)
    only = {"ForAllValues:StringEquals": {"aws:TagKeys": ["t", "u"]}}
    allow(service, who, {"Effect": "Allow", "Action": "rds:*", "Condition": only})
    assert may_make(rds, ("t", "x"), ("u", "y"))
    assert not may_make(rds, ("t", "x"), ("v", "y"))


def test_tags_of_resources_in_every_protocol(service: Service, user: tuple[str, Key]) -> None:
    who, key = user
    own = {"StringEquals": {"aws:ResourceTag/team": "red"}}
    allow(service, who, {"Effect": "Allow", "Action": "*", "Condition": own})
    ec2, store = service.client("ec2"), service.client("secretsmanager")
    for team, right in (("red", True), ("blue", False)):
        group = ec2.create_security_group(
            GroupName=f"g{secrets.token_hex(4)}",
            Description="d",
            TagSpecifications=[{"ResourceType": "security-group", "Tags": [{"Key": "team", "Value": team}]}],
        )["GroupId"]
        secret = store.create_secret(
            Name=f"s{secrets.token_hex(4)}", SecretString="x", Tags=[{"Key": "team", "Value": team}]
        )["ARN"]
        calls: tuple[Callable[..., object], ...] = (
            lambda group=group: service.client("ec2", key=key).delete_security_group(GroupId=group),
            lambda secret=secret: service.client("secretsmanager", key=key).delete_secret(
                SecretId=secret, ForceDeleteWithoutRecovery=True
            ),
        )
        for call in calls:
            if right:
                call()
            else:
                with pytest.raises(ClientError, match=DENIED):
                    call()
        if not right:
            ec2.delete_security_group(GroupId=group)
            store.delete_secret(SecretId=secret, ForceDeleteWithoutRecovery=True)
