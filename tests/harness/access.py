"""Requests signed by hand, what the front answers to them, and policies: for tests of access."""

from __future__ import annotations

import json
import re
import ssl
import urllib.error
import urllib.request
from typing import Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from harness.service import Service

Key = tuple[str, str]

FORMS = {
    "rds": "Action=DescribeDBInstances&Version=2014-10-31",
    "ec2": "Action=DescribeVpcs&Version=2016-11-15",
    "iam": "Action=ListUsers&Version=2010-05-08",
    "sts": "Action=GetCallerIdentity&Version=2011-06-15",
}
TARGETS = {"kms": "TrentService.ListKeys", "secretsmanager": "secretsmanager.ListSecrets"}
SERVICES = (*FORMS, *TARGETS)


def root_key(service: Service) -> Key:
    return service.variables["AWS_ACCESS_KEY_ID"], service.variables["AWS_SECRET_ACCESS_KEY"]


def signed(service: Service, name: str, key: Key, *, body: str = "", token: str | None = None) -> AWSRequest:
    """A correctly signed POST of the service's simplest call."""
    headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    if name in TARGETS:
        headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": TARGETS[name]}
    request = AWSRequest(
        method="POST",
        url=service.variables["AWS_ENDPOINT_URL"] + "/",
        data=body or FORMS.get(name, "{}"),
        headers=headers,
    )
    SigV4Auth(Credentials(*key, token), name, "us-east-1").add_auth(request)
    return request


def send(request: AWSRequest, context: ssl.SSLContext | None = None) -> tuple[int, str]:
    """Status and body of the answer."""
    data = request.data.encode() if isinstance(request.data, str) else request.data
    plain = urllib.request.Request(str(request.url), data, dict(request.headers), method="POST")  # noqa: S310 - our own
    try:
        with urllib.request.urlopen(plain, timeout=10, context=context) as answer:  # noqa: S310 - our own
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def refused(request: AWSRequest, context: ssl.SSLContext | None = None) -> tuple[int, str]:
    """Status and AWS code of a refusal."""
    status, text = send(request, context)
    if text.startswith("{"):
        return status, str(json.loads(text)["__type"])
    found = re.search(r"<Code>(\w+)</Code>", text)
    assert found is not None, text
    return status, found[1]


def told(request: AWSRequest, **headers: str) -> AWSRequest:
    """The request with headers that no signature covers."""
    for name, value in headers.items():
        request.headers[name.replace("_", "-")] = value
    return request


def document_of(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def allow(service: Service, name: str, *statements: dict[str, Any]) -> None:
    """Makes these statements the user's only policy."""
    document = document_of(*({"Resource": "*", **one} for one in statements))
    service.client("iam").put_user_policy(UserName=name, PolicyName="p", PolicyDocument=document)
