"""Whom tests of access deny and allow: a user without permissions, a role that may do everything."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from harness.access import Key, document_of
from harness.service import Service


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


@pytest.fixture
def role(service: Service) -> Iterator[str]:
    """The ARN of a role that anybody may assume and that may do everything."""
    iam = service.client("iam")
    name = f"r{secrets.token_hex(4)}"
    trust = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": ["sts:AssumeRole", "sts:TagSession"]}
    arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=document_of(trust))["Role"]["Arn"]
    everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=document_of(everything))
    yield arn
    iam.delete_role_policy(RoleName=name, PolicyName="p")
    iam.delete_role(RoleName=name)
