"""Which policy decides: AWS's evaluation order for one account."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from mainstay.decide.policy import (
    AccessRequest,
    PolicyDocument,
    PolicyKind,
    PolicySet,
    PolicySource,
    Principal,
    Reason,
    evaluate,
    evaluate_resource_policy,
    parse_policy,
)

ACCOUNT = "123456789012"
DB = f"arn:aws:rds:us-east-1:{ACCOUNT}:db:orders"
ROOT = f"arn:aws:iam::{ACCOUNT}:root"
BOB = Principal(kind="user", arn=f"arn:aws:iam::{ACCOUNT}:user/bob", account_id=ACCOUNT)
SESSION = Principal(
    kind="role",
    arn=f"arn:aws:sts::{ACCOUNT}:assumed-role/admin/s1",
    account_id=ACCOUNT,
    role_arn=f"arn:aws:iam::{ACCOUNT}:role/admin",
)


def doc(*statements: dict[str, Any], kind: PolicyKind = PolicyKind.IDENTITY) -> PolicyDocument:
    return parse_policy(json.dumps({"Version": "2012-10-17", "Statement": list(statements)}), kind)


def allow(action: Any = "*", resource: Any = "*", **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


def deny(action: Any = "*", resource: Any = "*", **more: Any) -> dict[str, Any]:
    return {"Effect": "Deny", "Action": action, "Resource": resource, **more}


def ask(policies: PolicySet, action: str = "rds:DeleteDBInstance", resource: str = DB, **more: Any) -> Any:
    principal = more.pop("principal", BOB)
    return evaluate(AccessRequest.of(action, resource, {"aws:username": "bob"}, principal), policies, **more)


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        (allow("rds:deletedbinstance"), True),
        (allow("RDS:Delete*"), True),
        (allow("rds:Delete??Instance"), True),
        (allow("*:*"), True),
        (allow("rds:Describe*"), False),
        (allow("ec2:*"), False),
        ({"Effect": "Allow", "NotAction": "iam:*", "Resource": "*"}, True),
        ({"Effect": "Allow", "NotAction": ["rds:Del*"], "Resource": "*"}, False),
        (allow("rds:*", DB), True),
        (allow("rds:*", DB.upper().replace("ARN:AWS", "arn:aws")), False),
        (allow("rds:*", "arn:aws:rds:*:*:db:ord*"), True),
        (allow("rds:*", "arn:aws:rds"), True),
        (allow("rds:*", "arn:aws:rds:*:db:orders"), False),
        (allow("rds:*", "arn:aws:rds:us-east-1:*:*"), True),
        (allow("rds:*", "arn:aws:rds:us-east-1:*:db:${aws:username}"), False),
        (allow("rds:*", "arn:aws:rds:us-east-1:*:db:${aws:none, 'orders'}"), True),
        ({"Effect": "Allow", "Action": "*", "NotResource": DB}, False),
        ({"Effect": "Allow", "Action": "*", "NotResource": "arn:aws:s3:::*"}, True),
    ],
)
def test_matching(statement: dict[str, Any], allowed: bool) -> None:
    assert ask(PolicySet((doc(statement),))).allowed is allowed


def test_explicit_deny_wins_and_names_its_statement() -> None:
    decision = ask(PolicySet((doc(allow()), doc(allow(), deny("rds:Delete*", Sid="Never")))))
    assert (decision.reason, decision.statement_id) == (Reason.EXPLICIT_DENY, "Never")
    assert decision.source is PolicySource.IDENTITY


def test_nothing_said_is_an_implicit_deny() -> None:
    assert ask(PolicySet()).reason is Reason.IMPLICIT_DENY


def test_a_statement_without_sid_is_named_by_its_place() -> None:
    assert ask(PolicySet((doc(allow("ec2:*"), allow()),))).statement_id == "Statement[1]"


def test_boundary_and_session_policies_only_narrow() -> None:
    everything, nothing = (doc(allow()),), (doc(allow("ec2:*")),)
    assert ask(PolicySet(everything, everything, everything)).allowed
    assert ask(PolicySet(everything, nothing)).source is PolicySource.BOUNDARY
    assert ask(PolicySet(everything, None, nothing)).source is PolicySource.SESSION
    assert not ask(PolicySet((), everything, everything)).allowed
    assert not ask(PolicySet(everything, ())).allowed


def resource_policy(principal: Any, effect: str = "Allow") -> PolicyDocument:
    statement = {"Effect": effect, "Action": "*", "Resource": "*", "Principal": principal}
    return doc(statement, kind=PolicyKind.RESOURCE)


def test_a_resource_policy_naming_the_user_suffices_even_past_a_boundary() -> None:
    named = resource_policy({"AWS": BOB.arn})
    assert ask(PolicySet(), resource_policy=named).source is PolicySource.RESOURCE
    assert ask(PolicySet((), ()), resource_policy=named).allowed
    assert not ask(PolicySet((doc(deny()),)), resource_policy=named).allowed


def test_a_resource_policy_naming_the_account_leaves_it_to_identity_policies() -> None:
    account = resource_policy({"AWS": ACCOUNT})
    assert not ask(PolicySet(), resource_policy=account).allowed
    assert ask(PolicySet((doc(allow()),)), resource_policy=account, resource_policy_required=True).allowed


def test_a_required_resource_policy_that_is_silent_denies() -> None:
    decision = ask(PolicySet((doc(allow()),)), resource_policy_required=True)
    assert (decision.allowed, decision.source) == (False, PolicySource.RESOURCE)


def test_a_role_named_in_a_resource_policy_stays_inside_its_session_policy() -> None:
    role, session = resource_policy({"AWS": SESSION.role_arn}), resource_policy({"AWS": SESSION.arn})
    assert ask(PolicySet(), resource_policy=role, principal=SESSION).allowed
    assert not ask(PolicySet((), None, ()), resource_policy=role, principal=SESSION).allowed
    assert ask(PolicySet((), None, ()), resource_policy=session, principal=SESSION).allowed


def test_a_resource_policy_can_deny() -> None:
    decision = ask(PolicySet((doc(allow()),)), resource_policy=resource_policy("*", "Deny"))
    assert (decision.reason, decision.source) == (Reason.EXPLICIT_DENY, PolicySource.RESOURCE)


def test_not_principal_denies_everybody_else() -> None:
    statement = {"Effect": "Deny", "Action": "*", "Resource": "*", "NotPrincipal": {"AWS": [BOB.arn, ROOT]}}
    policy, everything = doc(statement, kind=PolicyKind.RESOURCE), PolicySet((doc(allow()),))
    assert ask(everything, resource_policy=policy).allowed
    assert not ask(everything, resource_policy=policy, principal=SESSION).allowed


def test_services_are_judged_by_the_trust_policy_alone() -> None:
    trust = doc(
        {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "monitoring.rds.amazonaws.com"}},
        kind=PolicyKind.TRUST,
    )
    for name, expected in (("monitoring.rds.amazonaws.com", True), ("rds.amazonaws.com", False)):
        request = AccessRequest.of("sts:AssumeRole", ROOT, {}, Principal(kind="service", arn=name))
        assert evaluate_resource_policy(request, trust).allowed is expected


def test_a_pattern_full_of_wildcards_is_not_slow() -> None:
    statement = allow("*", "arn:aws:rds:us-east-1:*:" + "*a" * 300 + "b")
    started = time.perf_counter()
    assert not ask(PolicySet((doc(statement),)), resource="arn:aws:rds:us-east-1:1:" + "a" * 2000).allowed
    assert time.perf_counter() - started < 30.0, "it is exponential"
