"""Invariants of policy evaluation, against a small second implementation of wildcards."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mainstay.decide.policy import (
    AccessRequest,
    MalformedPolicy,
    PolicyDocument,
    PolicyKind,
    PolicySet,
    Reason,
    evaluate,
    parse_policy,
)
from mainstay.decide.policy.patterns import Piece, like

SMALL = st.text("ab*?:", max_size=8)


def matches_slowly(pattern: str, value: str) -> bool:
    @cache
    def match(i: int, j: int) -> bool:
        if i == len(pattern):
            return j == len(value)
        if pattern[i] == "*":
            return match(i + 1, j) or (j < len(value) and match(i, j + 1))
        return j < len(value) and pattern[i] in ("?", value[j]) and match(i + 1, j + 1)

    return match(0, 0)


@given(SMALL, st.text("ab*?:\n", max_size=8))
def test_wildcards_mean_what_they_say(pattern: str, value: str) -> None:
    assert like((Piece(pattern),), value) is matches_slowly(pattern, value)


@given(st.text("ab*?", max_size=6), st.text("ab*?", max_size=6))
def test_literal_pieces_match_only_themselves(text: str, value: str) -> None:
    assert like((Piece(text, literal=True),), value) is (text == value)


actions = st.sampled_from(["*", "rds:*", "rds:Describe*", "rds:DeleteDBInstance", "ec2:*"])
resources = st.sampled_from(["*", "arn:aws:rds:*:*:db:a*", "arn:aws:rds:us-east-1:1:db:abc", "arn:aws:s3:::x"])
conditions = st.sampled_from(
    [{}, {"Bool": {"aws:x": "true"}}, {"StringNotEquals": {"aws:y": "1"}}, {"Null": {"aws:x": "true"}}]
)
statements = st.fixed_dictionaries(
    {
        "Effect": st.sampled_from(["Allow", "Deny"]),
        "Action": actions,
        "Resource": resources,
        "Condition": conditions,
    }
)
requests = st.builds(
    AccessRequest.of,
    st.sampled_from(["rds:DescribeDBInstances", "rds:DeleteDBInstance", "ec2:RunInstances"]),
    st.sampled_from(["*", "arn:aws:rds:us-east-1:1:db:abc", "arn:aws:rds:us-east-1:1:db:zzz"]),
    st.sampled_from([{}, {"aws:x": "true"}, {"aws:y": "1"}]),
)


def document(items: list[dict[str, Any]]) -> PolicyDocument:
    return parse_policy(json.dumps({"Version": "2012-10-17", "Statement": items}))


documents = st.lists(statements, min_size=1, max_size=4).map(document)
sets = st.lists(documents, max_size=3).map(tuple)


@given(sets, sets, requests)
def test_a_boundary_or_session_policy_never_allows_more(
    identity: tuple[PolicyDocument, ...], limit: tuple[PolicyDocument, ...], request: AccessRequest
) -> None:
    free = evaluate(request, PolicySet(identity)).allowed
    assert evaluate(request, PolicySet(identity, limit)).allowed <= free
    assert evaluate(request, PolicySet(identity, None, limit)).allowed <= free
    assert evaluate(request, PolicySet(identity, limit, limit)).allowed == (
        free and evaluate(request, PolicySet(limit)).allowed
    )


@given(sets, st.data(), requests)
def test_an_explicit_deny_wins_wherever_it_stands(
    identity: tuple[PolicyDocument, ...], data: st.DataObject, request: AccessRequest
) -> None:
    everything = document([{"Effect": "Deny", "Action": "*", "Resource": "*"}])
    place = data.draw(st.integers(0, len(identity)))
    decision = evaluate(request, PolicySet((*identity[:place], everything, *identity[place:])))
    assert decision.reason is Reason.EXPLICIT_DENY


@given(sets, requests)
def test_the_order_of_policies_does_not_matter(identity: tuple[PolicyDocument, ...], request: AccessRequest) -> None:
    forward, backward = evaluate(request, PolicySet(identity)), evaluate(request, PolicySet(identity[::-1]))
    assert forward.reason is backward.reason


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
elements = st.sampled_from(
    ["Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Principal", "NotPrincipal", "Condition", "X"]
)
plausible = json_values | st.sampled_from(["Allow", "*", "sts:AssumeRole", {"AWS": "*"}, {"Bool": {"a:b": "true"}}])


@given(st.dictionaries(elements, plausible), st.sampled_from(PolicyKind), st.booleans())
def test_no_document_raises_anything_but_malformed_policy(
    statement: dict[str, Any], kind: PolicyKind, complete: bool
) -> None:
    if complete:
        statement = {"Effect": "Allow", "Action": "sts:AssumeRole", **statement}
    try:
        parse_policy(json.dumps({"Statement": [statement]}), kind)
    except MalformedPolicy as error:
        error.message.encode()


@given(st.text(max_size=60))
def test_no_text_raises_anything_but_malformed_policy(text: str) -> None:
    try:
        parse_policy(text)
    except MalformedPolicy:
        pass
