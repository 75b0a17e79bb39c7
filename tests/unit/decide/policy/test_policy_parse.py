"""What is a policy and what is not; errors say where."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mainstay.decide.policy import MalformedPolicy, PolicyKind, parse_policy, policy_size

ALLOW: dict[str, Any] = {"Effect": "Allow", "Action": "rds:*", "Resource": "*"}
TRUST: dict[str, Any] = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "rds.amazonaws.com"}}


def text(statement: Any, **document: Any) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statement, **document})


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("{", "line 1 column 2"),
        ("[" * 100_000, "Syntax errors"),
        ("[]", "not an object"),
        ('{"Version": "2012-10-17", "Version": "2012-10-17"}', "'Version' appears twice"),
        ('{"Statement": NaN}', "NaN is no JSON value"),
        (text([]), "Statement is missing or empty"),
        (text([ALLOW], Foo=1), "unknown element 'Foo'"),
        (text([ALLOW], Version="2011-01-01"), "must be version 2012-10-17 or greater"),
        (text([ALLOW, "x"]), "at Statement[1]"),
        (text([{**ALLOW, "Effect": "allow"}]), "Effect must be Allow or Deny"),
        (text([{**ALLOW, "NotAction": "x:y"}]), "Action and NotAction exclude each other"),
        (text([{**ALLOW, "Action": "Describe"}]), "must be prefaced by a vendor"),
        (text([{**ALLOW, "Action": []}]), "must contain actions"),
        (
            text([{**ALLOW, "Resource": ["*", "db1"]}]),
            'Resource db1 must be in ARN format or "*". (at Statement[0].Res',
        ),
        (text([{"Effect": "Allow", "Action": "rds:*"}]), "must contain resources"),
        (text([{**ALLOW, "Principal": "*"}]), "should not specify a principal"),
        (text([{**ALLOW, "Sid": "a b"}]), "must be alpha-numeric"),
        (text([{**ALLOW, "Sid": "a"}, {**ALLOW, "Sid": "a"}]), "must be unique"),
        (text([{**ALLOW, "Condition": {"StringEqual": {}}}]), "Invalid Condition type : StringEqual."),
        (text([{**ALLOW, "Condition": {"NullIfExists": {"a:b": "true"}}}]), "Invalid Condition type"),
        (text([{**ALLOW, "Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/33"}}}]), "Condition.IpAddress.aws:Sou"),
        (text([{**ALLOW, "Condition": {"NumericEquals": {"a:b": "nan"}}}]), "does not fit NumericEquals"),
        (text([{**ALLOW, "Condition": {"Bool": {"username": "true"}}}]), "prefaced by a vendor"),
        (text([{**ALLOW, "Condition": {"Bool": {"a:b": {"c": 1}}}}]), "Condition.Bool.a:b"),
    ],
)
def test_broken_identity_policies_say_where(broken: str, message: str) -> None:
    with pytest.raises(MalformedPolicy) as caught:
        parse_policy(broken)
    assert message in caught.value.message
    assert caught.value.shape == "MalformedPolicyDocumentException"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Resource": "*"}, "Has prohibited field Resource"),
        ({"Action": "s3:*"}, "may only specify STS AssumeRole actions"),
        ({"Principal": {"AWS": "bob"}}, 'Invalid principal in policy: "AWS":"bob"'),
        ({"Principal": {"AWS": "arn:aws:iam::123456789012:user/*"}}, "Invalid principal"),
        ({"Principal": {"Service": "rds"}}, "Invalid principal"),
        ({"Principal": {"Nobody": "x"}}, "unknown kind"),
        ({"Principal": []}, "Invalid principal"),
    ],
)
def test_broken_trust_policies(change: dict[str, Any], message: str) -> None:
    with pytest.raises(MalformedPolicy, match=message.replace("(", r"\(")):
        parse_policy(text([{**TRUST, **change}]), PolicyKind.TRUST)


def test_trust_needs_a_principal_and_no_allow_with_not_principal() -> None:
    with pytest.raises(MalformedPolicy, match="Missing required field Principal"):
        parse_policy(text([{"Effect": "Allow", "Action": "sts:AssumeRole"}]), PolicyKind.TRUST)
    with pytest.raises(MalformedPolicy, match="NotPrincipal"):
        statement = {"Effect": "Allow", "Action": "sts:AssumeRole", "NotPrincipal": "*"}
        parse_policy(text([statement]), PolicyKind.TRUST)


def test_one_statement_may_stand_without_a_list_and_account_numbers_become_arns() -> None:
    document = parse_policy(text({**TRUST, "Principal": {"AWS": "123456789012"}}), PolicyKind.TRUST)
    principals = document.statements[0].principals
    assert principals is not None
    assert principals.aws == {"arn:aws:iam::123456789012:root"}


def test_parsed_documents_are_remembered() -> None:
    assert parse_policy(text([ALLOW])) is parse_policy(text([ALLOW]))


def test_size_leaves_out_white_space() -> None:
    assert policy_size(' {"a":\n\t1} ') == 7


def test_context_keys_are_those_of_conditions_and_variables() -> None:
    statement = {
        **ALLOW,
        "Resource": "arn:aws:rds:*:*:db:${aws:username}",
        "Condition": {"StringEquals": {"rds:DatabaseEngine": "${aws:PrincipalTag/Engine, 'postgres'}"}},
    }
    keys = parse_policy(text([statement])).context_keys()
    assert keys == {"aws:username", "rds:databaseengine", "aws:principaltag/engine"}


def test_errors_never_carry_what_cannot_be_sent() -> None:
    with pytest.raises(MalformedPolicy) as caught:
        parse_policy('{"Statement": [{"Effect": "Allow", "Action": "a:b", "Resource": "\\ud800"}]}')
    caught.value.message.encode()
