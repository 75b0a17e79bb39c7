"""Who may call the AWS front over real HTTP. Signatures are in test_refusals.py, conditions in test_conditions.py."""

from __future__ import annotations

import json
import re
import secrets
import socket
import ssl
import urllib.error
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from botocore.exceptions import ClientError

from harness.access import Key, allow, document_of, refused, root_key, send, signed, told
from harness.service import Service
from mainstay.protocol.aws.limits import BODY_BYTES_MAX

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


def outcome(service: Service, key: Key, token: str | None = None) -> tuple[int, str]:
    """Status and code of DescribeDBInstances."""
    try:
        service.client("rds", key=key, token=token).describe_db_instances()
    except ClientError as error:
        return error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]
    return 200, ""


def test_policies_decide(service: Service, user: tuple[str, Key]) -> None:
    name, key = user
    denied = (403, "AccessDenied")
    assert outcome(service, key) == denied
    reading = {"Effect": "Allow", "Action": "rds:Describe*"}
    allow(service, name, reading)
    assert outcome(service, key) == (200, "")
    with pytest.raises(ClientError, match="AccessDenied"):
        service.client("rds", key=key).delete_db_instance(DBInstanceIdentifier="none", SkipFinalSnapshot=True)
    with pytest.raises(ClientError, match="UnauthorizedOperation"):
        service.client("ec2", key=key).describe_vpcs()
    with pytest.raises(ClientError, match="AccessDenied"):
        service.client("iam", key=key).list_users()
    allow(service, name, reading, {"Effect": "Deny", "Action": "*"})
    assert outcome(service, key) == denied
    here = {"IpAddress": {"aws:SourceIp": "127.0.0.0/8"}}
    allow(service, name, {**reading, "Condition": here})
    assert outcome(service, key) == (200, "")
    allow(service, name, {**reading, "Condition": {"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}})
    assert outcome(service, key) == denied
    allow(service, name, reading)
    service.client("iam").update_access_key(UserName=name, AccessKeyId=key[0], Status="Inactive")
    assert outcome(service, key) == (403, "InvalidClientTokenId")


def test_conditions_on_the_user_agent(service: Service, user: tuple[str, Key]) -> None:
    name, key = user
    like = {"StringLike": {"aws:UserAgent": "trusted-tool/*"}}
    allow(service, name, {"Effect": "Allow", "Action": "rds:Describe*", "Condition": like})
    assert send(told(signed(service, "rds", key), User_Agent="trusted-tool/1.0 linux"))[0] == 200
    assert refused(told(signed(service, "rds", key), User_Agent="other/1.0")) == (403, "AccessDenied")
    everywhere = {"Effect": "Allow", "Action": "rds:Describe*"}
    allow(service, name, everywhere, {"Effect": "Deny", "Action": "*", "Condition": like})
    assert refused(told(signed(service, "rds", key), User_Agent="trusted-tool/2")) == (403, "AccessDenied")
    assert send(told(signed(service, "rds", key), User_Agent="other/1.0"))[0] == 200


def over_tls(required: bool) -> dict[str, Any]:
    text = "true" if required else "false"
    return {"Effect": "Allow", "Action": "rds:Describe*", "Condition": {"Bool": {"aws:SecureTransport": text}}}


def test_nobody_can_say_that_he_came_another_way_than_he_did(service: Service, user: tuple[str, Key]) -> None:
    name, key = user
    claims = {"X_Forwarded_For": "192.0.2.9", "X_Forwarded_Proto": "https", "Forwarded": "for=192.0.2.9;proto=https"}
    elsewhere = {"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}
    allow(service, name, {"Effect": "Allow", "Action": "rds:Describe*", "Condition": elsewhere})
    assert refused(told(signed(service, "rds", key), **claims)) == (403, "AccessDenied")
    allow(service, name, over_tls(True))
    assert refused(told(signed(service, "rds", key), **claims)) == (403, "AccessDenied")
    allow(service, name, over_tls(False))
    assert send(told(signed(service, "rds", key), **claims))[0] == 200


def outer_address() -> str:
    """An address of this machine that is not loopback; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has only loopback addresses")
        return str(probe.getsockname()[0])


def test_off_loopback_the_api_speaks_tls_and_policies_see_it() -> None:
    with Service(listen=outer_address()) as service:
        assert service.variables["AWS_ENDPOINT_URL"].startswith("https://")
        trusting = ssl.create_default_context(cafile=service.variables["MAINSTAY_CA_BUNDLE"])
        root = root_key(service)

        def do(name: str, body: str) -> str:
            status, text = send(signed(service, name, root, body=body), trusting)
            assert status == 200, text
            return text

        do("iam", "Action=CreateUser&UserName=u&Version=2010-05-08")
        made = do("iam", "Action=CreateAccessKey&UserName=u&Version=2010-05-08")
        key = tuple(re.findall(rf"<{name}>([^<]+)<", made)[0] for name in ("AccessKeyId", "SecretAccessKey"))
        for required, expected in ((True, 200), (False, 403)):
            document = json.dumps({"Version": "2012-10-17", "Statement": [{"Resource": "*", **over_tls(required)}]})
            members = {"UserName": "u", "PolicyName": "p", "PolicyDocument": document, "Version": "2010-05-08"}
            do("iam", urlencode({"Action": "PutUserPolicy", **members}))
            assert send(signed(service, "rds", (key[0], key[1])), trusting)[0] == expected
        with pytest.raises(urllib.error.URLError, match="certificate verify failed"):
            send(signed(service, "rds", root))


def test_a_tag_of_the_resource_decides(service: Service, user: tuple[str, Key]) -> None:
    name, key = user
    root, rds = service.client("rds"), service.client("rds", key=key)
    family = root.describe_db_engine_versions(Engine="postgres")["DBEngineVersions"][0]["DBParameterGroupFamily"]
    groups = {team: f"g{secrets.token_hex(4)}" for team in ("red", "blue")}
    own = {"StringEquals": {"aws:ResourceTag/team": "red"}}
    allow(service, name, {"Effect": "Allow", "Action": "rds:*DBParameterGroup", "Condition": own})
    try:
        for team, group in groups.items():
            root.create_db_parameter_group(
                DBParameterGroupName=group,
                DBParameterGroupFamily=family,
                Description="d",
                Tags=[{"Key": "team", "Value": team}],
            )
        with pytest.raises(ClientError, match="AccessDenied"):
            rds.delete_db_parameter_group(DBParameterGroupName=groups["blue"])
        with pytest.raises(ClientError, match="AccessDenied"):  # he may not tag, so he cannot tag it his own
            arn = f"arn:aws:rds:{rds.meta.region_name}:123456789012:pg:{groups['blue']}"
            rds.add_tags_to_resource(ResourceName=arn, Tags=[{"Key": "team", "Value": "red"}])
        rds.delete_db_parameter_group(DBParameterGroupName=groups.pop("red"))
    finally:
        for group in groups.values():
            root.delete_db_parameter_group(DBParameterGroupName=group)


def test_assumed_role_is_confined_by_its_session_policy(service: Service, role: str) -> None:
    everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    narrow = {"Effect": "Allow", "Action": "iam:List*", "Resource": "*"}
    sts = service.client("sts")
    unknown = (403, "InvalidClientTokenId")
    for policy, expected in ((everything, (200, "")), (narrow, (403, "AccessDenied"))):
        got = sts.assume_role(RoleArn=role, RoleSessionName="s1", Policy=document_of(policy))["Credentials"]
        key = (got["AccessKeyId"], got["SecretAccessKey"])
        assert outcome(service, key, got["SessionToken"]) == expected
        assert outcome(service, key) == unknown
        assert outcome(service, key, got["SessionToken"][:-8] + "AAAAAAAA") == unknown


def talk(service: Service, content: bytes) -> bytes:
    """What the front answers to these bytes, b"" if it hangs up or waits for more."""
    address = urlsplit(service.variables["AWS_ENDPOINT_URL"])
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=2) as client:
        try:
            client.sendall(content)
            return client.recv(4096)
        except (TimeoutError, ConnectionError):
            return b""


def test_bodies_too_large_and_garbage_never_cost_a_5xx(service: Service) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    assert b" 413 " in talk(service, head % (BODY_BYTES_MAX + 1) + b"a" * (BODY_BYTES_MAX + 1))[:20]
    garbage = (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20,
        b"GET\r\n\r\n",
        b"POST / HTTP/9.9\r\n\r\n",
        b"GET /%ff%00?%zz=%&&& HTTP/1.1\r\nHost: x\r\n\r\n",
        head % 5 + b"\xff\xfe\x00\x01\x02",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: AWS4-HMAC-SHA256 =,=,=\r\nContent-Length: 0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nX-Amz-Target: \xff.\xff\r\nContent-Length: 2\r\n\r\n{}",
        head % 100 + b"partial",
    )
    for content in garbage:
        status = talk(service, content)[:12].split(b" ")[1:2]
        assert not status or status[0].startswith(b"4"), (content, status)
    assert outcome(service, root_key(service)) == (200, "")
