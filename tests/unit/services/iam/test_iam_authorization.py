"""From access key to caller to decision, and the temporary credentials of STS."""

from __future__ import annotations

import time
from typing import Any

import pytest

from harness.accounts import Account, document
from mainstay.model.errors import ApiError
from mainstay.model.records import Scope
from mainstay.protocol.aws.vocabulary import wire_code
from mainstay.services.iam.authorization import authorize, request_context_of, require
from mainstay.services.iam.identifiers import account_of_access_key
from mainstay.services.iam.principals import ensure_root_access_key, note_use
from mainstay.services.operations import Call, Demand
from mainstay.settings import Settings

ACCOUNT = "123456789012"
DB = f"arn:aws:rds:us-east-1:{ACCOUNT}:db:orders"
ALLOW_ALL = {"Effect": "Allow", "Action": "*", "Resource": "*"}


def trust(principal: Any, **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": ["sts:AssumeRole", "sts:TagSession"], "Principal": principal, **more}


def may(account: Account, who: Any, action: str = "rds:DeleteDBInstance", resource: str = DB, **context: Any) -> None:
    with account.store.read() as tx:
        authorize(tx, who.caller, [Demand(action=action, resource=resource, context=context)], {})


def error(account: Account, who: Any, **more: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        may(account, who, **more)
    return caught.value


def test_root_key_is_made_once_and_may_do_everything(account: Account) -> None:
    with account.store.transaction() as tx:
        again = ensure_root_access_key(tx, account.vault, account.randomness, ACCOUNT)
    assert again == (account.root_key, account.root_secret) == (account.root_key, account.root.secret_access_key)
    assert account.root.caller.arn == f"arn:aws:iam::{ACCOUNT}:root"
    may(account, account.root)


def test_access_keys_hold_the_account_number(account: Account) -> None:
    assert account_of_access_key(account.root_key) == ACCOUNT
    assert account.root_key.startswith("AKIA") and len(account.root_key) == 20
    assert account_of_access_key("AKIA") is None
    info = account.sts("GetAccessKeyInfo", AccessKeyId=account.root_key)
    assert info == {"Account": ACCOUNT}


def test_a_user_without_policies_is_denied_in_aws_words(account: Account) -> None:
    bob = account.user("bob")
    refused = error(account, bob)
    assert wire_code("query", refused.shape, refused.status) == ("AccessDenied", 403)
    assert wire_code("json", refused.shape, refused.status) == ("AccessDeniedException", 400)
    assert refused.message == (
        f"User: arn:aws:iam::{ACCOUNT}:user/bob is not authorized to perform: rds:DeleteDBInstance on resource: {DB}"
        " because no identity-based policy allows the rds:DeleteDBInstance action"
    )


def test_explicit_deny_in_aws_words(account: Account) -> None:
    bob = account.user("bob", ALLOW_ALL, {"Effect": "Deny", "Action": "rds:Delete*", "Resource": "*"})
    assert error(account, bob).message.endswith(f"{DB} with an explicit deny in an identity-based policy")
    may(account, bob, "rds:StartDBInstance")


def test_policies_come_from_groups_attachments_and_inline(account: Account) -> None:
    bob = account.user("bob")
    account.iam("CreateGroup", GroupName="dbas")
    account.iam("AddUserToGroup", GroupName="dbas", UserName="bob")
    account.iam("AttachGroupPolicy", GroupName="dbas", PolicyArn="arn:aws:iam::aws:policy/AmazonRDSFullAccess")
    may(account, bob)
    account.iam("RemoveUserFromGroup", GroupName="dbas", UserName="bob")
    error(account, bob)
    arn = account.iam("CreatePolicy", PolicyName="p", PolicyDocument=document(ALLOW_ALL))["Policy"]["Arn"]
    account.iam("AttachUserPolicy", UserName="bob", PolicyArn=arn)
    may(account, bob)
    changed = document({**ALLOW_ALL, "Action": "ec2:*"})
    account.iam("CreatePolicyVersion", PolicyArn=arn, PolicyDocument=changed, SetAsDefault=True)
    error(account, bob)


def test_permissions_boundary_limits(account: Account) -> None:
    bob = account.user("bob", ALLOW_ALL, PermissionsBoundary="arn:aws:iam::aws:policy/AmazonRDSReadOnlyAccess")
    assert "because no permissions boundary allows" in error(account, bob).message
    may(account, bob, "rds:DescribeDBInstances", "*")


def test_tags_and_names_of_the_caller_are_condition_keys(account: Account) -> None:
    statement = {
        **ALLOW_ALL,
        "Resource": "arn:aws:rds:*:*:db:${aws:username}-*",
        "Condition": {"StringEquals": {"aws:PrincipalTag/Team": "${aws:ResourceTag/Team}"}},
    }
    bob = account.user("bob", statement, Tags=[{"Key": "Team", "Value": "red"}])
    mine = DB.replace("orders", "bob-1")
    may(account, bob, resource=mine, **{"aws:ResourceTag/Team": "red"})
    error(account, bob, resource=mine, **{"aws:ResourceTag/Team": "blue"})
    error(account, bob, resource=DB, **{"aws:ResourceTag/Team": "red"})


def test_unknown_inactive_and_tokened_keys_are_invalid(account: Account) -> None:
    bob = account.user("bob")
    key = bob.caller.access_key_id
    for key_id, token in (("AKIANOBODY0000000000", None), (key, "token"), ("ASIANOBODY0000000000", None)):
        with pytest.raises(ApiError, match="The security token included in the request is invalid") as caught:
            account.credentials(key_id, token)
        refused = caught.value
        assert wire_code("query", refused.shape, refused.status) == ("InvalidClientTokenId", 403)
        assert wire_code("ec2", refused.shape, refused.status) == ("AuthFailure", 401)
    account.iam("UpdateAccessKey", UserName="bob", AccessKeyId=key, Status="Inactive")
    with pytest.raises(ApiError, match="InvalidClientTokenId"):
        account.credentials(key)
    account.iam("UpdateAccessKey", UserName="bob", AccessKeyId=key, Status="Active")
    assert account.credentials(key).secret_access_key == bob.secret_access_key


def test_secrets_are_not_shown(account: Account) -> None:
    assert account.root_secret not in repr(account.root)


def test_caller_identity_needs_no_permission(account: Account) -> None:
    bob = account.user("bob", {"Effect": "Deny", "Action": "*", "Resource": "*"})
    identity = account.sts("GetCallerIdentity", bob)
    assert identity["Arn"] == f"arn:aws:iam::{ACCOUNT}:user/bob"
    assert identity["UserId"].startswith("AIDA") and len(identity["UserId"]) == 21


def test_assume_role_through_the_account_needs_an_identity_policy(account: Account) -> None:
    account.iam("CreateRole", RoleName="dba", AssumeRolePolicyDocument=document(trust({"AWS": ACCOUNT})))
    account.iam("PutRolePolicy", RoleName="dba", PolicyName="all", PolicyDocument=document(ALLOW_ALL))
    arn = f"arn:aws:iam::{ACCOUNT}:role/dba"
    bob = account.user("bob")
    with pytest.raises(ApiError) as caught:
        account.assume("dba", bob)
    assert caught.value.message.endswith(f"is not authorized to perform: sts:AssumeRole on resource: {arn}")
    eve = account.user("eve", {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": arn})
    session = account.assume("dba", eve)
    assert session.caller.arn == f"arn:aws:sts::{ACCOUNT}:assumed-role/dba/session"
    may(account, session)
    assert account.assume("dba").caller.kind == "role"


def test_assume_role_named_in_the_trust_policy_and_external_id(account: Account) -> None:
    bob = account.user("bob")
    condition = {"StringEquals": {"sts:ExternalId": "secret-7"}}
    statement = trust({"AWS": f"arn:aws:iam::{ACCOUNT}:user/bob"}, Condition=condition)
    account.iam("CreateRole", RoleName="r", AssumeRolePolicyDocument=document(statement))
    with pytest.raises(ApiError, match="AccessDenied"):
        account.assume("r", bob)
    account.assume("r", bob, ExternalId="secret-7")
    with pytest.raises(ApiError, match="AccessDenied"):
        account.assume("r", account.user("eve", ALLOW_ALL), ExternalId="secret-7")
    with pytest.raises(ApiError, match="AccessDenied"):
        account.assume("missing", bob)


def test_session_policies_narrow_a_role(account: Account) -> None:
    account.iam("CreateRole", RoleName="r", AssumeRolePolicyDocument=document(trust({"AWS": ACCOUNT})))
    account.iam("PutRolePolicy", RoleName="r", PolicyName="all", PolicyDocument=document(ALLOW_ALL))
    narrow = account.assume("r", Policy=document({**ALLOW_ALL, "Action": "rds:Describe*"}))
    assert "because no session policy allows" in error(account, narrow).message
    may(account, narrow, "rds:DescribeDBInstances")
    arns = [{"arn": "arn:aws:iam::aws:policy/AmazonRDSReadOnlyAccess"}]
    may(account, account.assume("r", PolicyArns=arns), "rds:DescribeDBInstances")
    error(account, account.assume("r", PolicyArns=arns))


def test_a_session_ends_and_does_not_outlive_its_role(account: Account) -> None:
    text = document(trust({"AWS": ACCOUNT}))
    account.iam("CreateRole", RoleName="r", AssumeRolePolicyDocument=text)
    request: dict[str, Any] = {
        "RoleArn": f"arn:aws:iam::{ACCOUNT}:role/r",
        "RoleSessionName": "s1",
        "DurationSeconds": 900,
    }
    got = account.sts("AssumeRole", **request)["Credentials"]
    key, token = got["AccessKeyId"], got["SessionToken"]
    assert key.startswith("ASIA") and got["Expiration"] == account.clock.wall() + 900
    account.clock.advance(899)
    assert account.credentials(key, token).secret_access_key == got["SecretAccessKey"]
    account.clock.advance(1)
    with pytest.raises(ApiError, match="expired") as caught:
        account.credentials(key, token)
    assert caught.value.shape == "ExpiredToken"
    got = account.sts("AssumeRole", **request)["Credentials"]
    for wrong in (None, "", token, got["SessionToken"][:-8] + "AAAAAAA=", "x" * 100_000, "é"):
        with pytest.raises(ApiError, match="InvalidClientTokenId"):
            account.credentials(got["AccessKeyId"], wrong)
    account.iam("DeleteRole", RoleName="r")
    account.iam("CreateRole", RoleName="r", AssumeRolePolicyDocument=text)
    with pytest.raises(ApiError, match="InvalidClientTokenId"):
        account.credentials(got["AccessKeyId"], got["SessionToken"])


def test_durations_and_names_of_sessions(account: Account) -> None:
    text = document(trust({"AWS": ACCOUNT}))
    account.iam("CreateRole", RoleName="r", AssumeRolePolicyDocument=text)
    for request, words in (
        ({"DurationSeconds": 3601}, "MaxSessionDuration set for this role"),
        ({"DurationSeconds": 899}, "between 900 and 43200"),
        ({"RoleSessionName": "x"}, "length greater than or equal to 2"),
        ({"RoleSessionName": "a b"}, "regular expression"),
        ({"Policy": "x" * 2049}, "less than or equal to 2048"),
        ({"Policy": "{}"}, "Statement is missing"),
        ({"PolicyArns": [{"arn": "arn:aws:iam::aws:policy/Missing"}]}, "does not exist or is not attachable"),
        ({"TokenCode": "123456"}, "MultiFactorAuthentication failed"),
    ):
        with pytest.raises(ApiError, match=words):
            account.assume("r", **request)
    account.iam("UpdateRole", RoleName="r", MaxSessionDuration=7200)
    account.iam("PutRolePolicy", RoleName="r", PolicyName="p", PolicyDocument=document(ALLOW_ALL))
    session = account.assume("r", DurationSeconds=7200)
    with pytest.raises(ApiError, match="role chaining"):
        account.assume("r", session, DurationSeconds=7200)


def test_session_tags_and_their_inheritance(account: Account) -> None:
    account.iam("CreateRole", RoleName="r", AssumeRolePolicyDocument=document(trust({"AWS": ACCOUNT})))
    own = {**ALLOW_ALL, "Condition": {"StringEquals": {"aws:PrincipalTag/Team": "red"}}}
    account.iam("PutRolePolicy", RoleName="r", PolicyName="p", PolicyDocument=document(own))
    tags = [{"Key": "Team", "Value": "red"}]
    error(account, account.assume("r"))
    first = account.assume("r", Tags=tags, TransitiveTagKeys=["Team"])
    may(account, first)
    may(account, account.assume("r", first))
    with pytest.raises(ApiError, match="cannot be overridden"):
        account.assume("r", first, Tags=[{"Key": "team", "Value": "blue"}])
    with pytest.raises(ApiError, match="must be included"):
        account.assume("r", TransitiveTagKeys=["Team"])
    many = [{"Key": f"k{n}", "Value": "x" * 256} for n in range(20)]
    with pytest.raises(ApiError, match="PackedPolicyTooLarge"):
        account.assume("r", Tags=many)


def test_session_token_of_a_user_keeps_its_permissions_but_not_iam(account: Account) -> None:
    bob = account.user("bob", ALLOW_ALL)
    got = account.sts("GetSessionToken", bob)["Credentials"]
    session = account.credentials(got["AccessKeyId"], got["SessionToken"])
    assert session.caller.arn == bob.caller.arn
    may(account, session)
    with pytest.raises(ApiError, match="InvalidClientTokenId"):
        account.iam("ListUsers", session)
    with pytest.raises(ApiError, match="Cannot call GetSessionToken"):
        account.sts("GetSessionToken", session)
    assert account.sts("GetCallerIdentity", session)["Arn"] == bob.caller.arn


def test_last_use_is_written_once_per_quarter_of_an_hour(account: Account) -> None:
    bob = account.user("bob")
    key = bob.caller.access_key_id
    assert account.iam("GetAccessKeyLastUsed", AccessKeyId=key)["AccessKeyLastUsed"]["Region"] == "N/A"
    with account.store.transaction() as tx:
        for now in (1000.0, 1899.0, 1900.0, 1901.0):
            note_use(tx, bob.caller, "rds", "us-east-1", now)
    used = account.iam("GetAccessKeyLastUsed", AccessKeyId=key)
    assert used["AccessKeyLastUsed"] == {"LastUsedDate": 1900.0, "ServiceName": "rds", "Region": "us-east-1"}
    assert used["UserName"] == "bob"


def test_require_takes_the_resources_own_policy_into_account(account: Account, tmp_path: Any) -> None:
    bob = account.user("bob")
    demand = Demand(action="secretsmanager:GetSecretValue", resource="arn:aws:secretsmanager:us-east-1:1:secret:x")
    named = document({**ALLOW_ALL, "Principal": {"AWS": bob.caller.arn}})
    with account.store.transaction() as tx:
        call = Call(
            caller=bob.caller,
            scope=Scope(ACCOUNT, "us-east-1"),
            tx=tx,
            clock=account.clock,
            randomness=account.randomness,
            settings=Settings(home=tmp_path),
            collaborators={},
            source_ip="10.0.0.1",
        )
        assert request_context_of(call)["aws:SourceIp"] == "10.0.0.1"
        require(call, demand, named)
        with pytest.raises(ApiError, match="AccessDenied"):
            require(call, demand)


def test_authorize_is_fast(account: Account) -> None:
    bob = account.user("bob", {**ALLOW_ALL, "Action": "ec2:*"})
    for name in ("AmazonRDSFullAccess", "ReadOnlyAccess", "CloudWatchReadOnlyAccess"):
        account.iam("AttachUserPolicy", UserName="bob", PolicyArn=f"arn:aws:iam::aws:policy/{name}")
    may(account, bob)
    with account.store.read() as tx:
        demands, best = [Demand(action="rds:DeleteDBInstance", resource=DB)], 1.0
        for _ in range(200):
            started = time.perf_counter()
            authorize(tx, bob.caller, demands, {"aws:SourceIp": "10.0.0.1"})
            best = min(best, time.perf_counter() - started)
    assert best < 0.002, f"{best * 1e6:.0f} microseconds"
