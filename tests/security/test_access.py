"""Who may call the AWS front over real HTTP: AWS's code and status for every way of not being allowed."""

from __future__ import annotations

import datetime
import json
import secrets
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from harness.service import Service
from mainstay.protocol.aws.limits import BODY_BYTES_MAX

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]

FORMS = {
    "rds": "Action=DescribeDBInstances&Version=2014-10-31",
    "ec2": "Action=DescribeVpcs&Version=2016-11-15",
    "iam": "Action=ListUsers&Version=2010-05-08",
    "sts": "Action=GetCallerIdentity&Version=2011-06-15",
}
Key = tuple[str, str]


def root_key(service: Service) -> Key:
    return service.variables["AWS_ACCESS_KEY_ID"], service.variables["AWS_SECRET_ACCESS_KEY"]


def signed(service: Service, name: str, key: Key, *, body: str = "") -> AWSRequest:
    """A correctly signed POST of the service's simplest call."""
    request = AWSRequest(
        method="POST",
        url=service.variables["AWS_ENDPOINT_URL"] + "/",
        data=body or FORMS[name],
        headers={"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"},
    )
    SigV4Auth(Credentials(*key), name, "us-east-1").add_auth(request)
    return request


def send(request: AWSRequest) -> tuple[int, str]:
    data = request.data.encode() if isinstance(request.data, str) else request.data
    plain = urllib.request.Request(request.url, data, dict(request.headers), method="POST")  # noqa: S310 - our own
    try:
        with urllib.request.urlopen(plain, timeout=10) as answer:  # noqa: S310 - our own
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.parametrize("name", FORMS)
def test_signatures_that_are_not_right(service: Service, name: str) -> None:
    key = root_key(service)
    mismatch = "AuthFailure" if name == "ec2" else "SignatureDoesNotMatch"
    assert send(signed(service, name, key))[0] == 200
    wrong = send(signed(service, name, (key[0], "x" * 40)))
    assert wrong[0] in (401, 403) and mismatch in wrong[1], wrong
    altered = signed(service, name, key)
    altered.data = FORMS[name] + "&MaxRecords=21"
    answer = send(altered)
    assert answer[0] in (401, 403) and mismatch in answer[1], answer
    stale = signed(service, name, key)
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=16)
    stale.headers.replace_header("X-Amz-Date", past.strftime("%Y%m%dT%H%M%SZ"))
    assert 400 <= send(stale)[0] < 500
    unknown = send(signed(service, name, ("AKIA" + "Q" * 16, key[1])))
    assert unknown[0] in (401, 403), unknown
    unsigned = signed(service, name, key)
    del unsigned.headers["Authorization"]
    answer = send(unsigned)
    assert answer[0] in (400, 401, 403) and ("MissingAuthenticationToken" in answer[1] or name == "ec2"), answer
    unhosted = signed(service, name, key)
    text = unhosted.headers["Authorization"].replace("host;", "").replace(";host", "")
    unhosted.headers.replace_header("Authorization", text)
    assert 400 <= send(unhosted)[0] < 500


@pytest.fixture
def user(service: Service) -> Iterator[tuple[str, Key]]:
    """A user without any permission, and its key."""
    iam = service.client("iam")
    name = f"u{secrets.token_hex(4)}"
    iam.create_user(UserName=name)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    yield name, (key["AccessKeyId"], key["SecretAccessKey"])
    for policy in iam.list_user_policies(UserName=name)["PolicyNames"]:
        iam.delete_user_policy(UserName=name, PolicyName=policy)
    for one in iam.list_access_keys(UserName=name)["AccessKeyMetadata"]:
        iam.delete_access_key(UserName=name, AccessKeyId=one["AccessKeyId"])
    iam.delete_user(UserName=name)


def allow(service: Service, name: str, *statements: dict[str, Any]) -> None:
    document = {"Version": "2012-10-17", "Statement": [{"Resource": "*", **one} for one in statements]}
    service.client("iam").put_user_policy(UserName=name, PolicyName="p", PolicyDocument=json.dumps(document))


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


def test_assumed_role_is_confined_by_its_session_policy(service: Service) -> None:
    iam = service.client("iam")
    name = f"r{secrets.token_hex(4)}"
    trust = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
    document = {"Version": "2012-10-17", "Statement": [trust]}
    role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(document))["Role"]["Arn"]
    everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=json.dumps(everything))
    narrow = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iam:List*", "Resource": "*"}]}
    sts = service.client("sts")
    try:
        for policy, expected in ((everything, (200, "")), (narrow, (403, "AccessDenied"))):
            got = sts.assume_role(RoleArn=role, RoleSessionName="s1", Policy=json.dumps(policy))["Credentials"]
            key = (got["AccessKeyId"], got["SecretAccessKey"])
            assert outcome(service, key, got["SessionToken"]) == expected
            assert outcome(service, key)[0] == 403
            assert outcome(service, key, got["SessionToken"][:-8] + "AAAAAAAA")[0] in (400, 403)
    finally:
        iam.delete_role_policy(RoleName=name, PolicyName="p")
        iam.delete_role(RoleName=name)


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
