"""Every operator, missing keys and several values."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mainstay.decide.policy import AccessRequest, PolicySet, evaluate, parse_policy


def holds(
    operator: str, operand: Any, context: dict[str, Any], key: str = "my:Key", version: str = "2012-10-17"
) -> bool:
    statement = {"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {operator: {key: operand}}}
    document = parse_policy(json.dumps({"Version": version, "Statement": [statement]}))
    return evaluate(AccessRequest.of("a:b", "*", context), PolicySet((document,))).allowed


CASES = [
    ("StringEquals", "a", "a", True),
    ("StringEquals", "a*", "ab", False),
    ("StringEquals", ["x", "a"], "a", True),
    ("StringNotEquals", ["x", "a"], "a", False),
    ("StringNotEquals", ["x", "y"], "a", True),
    ("StringEqualsIgnoreCase", "ABC", "abc", True),
    ("StringNotEqualsIgnoreCase", "ABC", "abc", False),
    ("StringLike", "pre*/?z", "prefix/yz", True),
    ("StringLike", "pre?", "pre", False),
    ("StringLike", "a${*}c", "abc", False),
    ("StringLike", "a${*}c", "a*c", True),
    ("StringNotLike", "pre*", "prefix", False),
    ("NumericEquals", 5, "5.0", True),
    ("NumericNotEquals", "5", "5", False),
    ("NumericLessThan", "5", "4", True),
    ("NumericLessThan", "5", "5", False),
    ("NumericLessThanEquals", "5", "5", True),
    ("NumericGreaterThan", "5", "6", True),
    ("NumericGreaterThanEquals", "5", "4", False),
    ("NumericEquals", "5", "five", False),
    ("DateLessThan", "2030-01-01T00:00:00Z", "2029-12-31T23:59:59+00:00", True),
    ("DateGreaterThan", "2030-01-01", "1893456000", False),
    ("DateEquals", "2030-01-01", "1893456000", True),
    ("DateGreaterThanEquals", "1893456000", "2030-01-01T01:00:00+01:00", True),
    ("Bool", True, "TRUE", True),
    ("Bool", "false", "true", False),
    ("BinaryEquals", "QUI=", "QUI=", True),
    ("BinaryEquals", "QUI=", "QUM=", False),
    ("IpAddress", "10.0.0.0/8", "10.9.8.7", True),
    ("IpAddress", ["10.0.0.1", "2001:db8::/32"], "2001:db8::1", True),
    ("IpAddress", "10.0.0.0/8", "no address", False),
    ("NotIpAddress", "10.0.0.0/8", "10.9.8.7", False),
    ("NotIpAddress", "10.0.0.0/8", "11.9.8.7", True),
    ("ArnLike", "arn:aws:rds:*:*:db:a*", "arn:aws:rds:eu-west-1:1:db:abc", True),
    ("ArnEquals", "arn:aws:rds:*:db:a", "arn:aws:rds:eu-west-1:1:db:a", False),
    ("ArnNotLike", "arn:aws:rds:*:*:db:a*", "arn:aws:rds:eu-west-1:1:db:abc", False),
    ("ArnNotEquals", "arn:aws:rds:*:*:db:b", "arn:aws:rds:eu-west-1:1:db:abc", True),
]


@pytest.mark.parametrize(("operator", "operand", "value", "expected"), CASES)
def test_operator(operator: str, operand: Any, value: str, expected: bool) -> None:
    assert holds(operator, operand, {"MY:key": value}) is expected


@pytest.mark.parametrize("operator", sorted({case[0] for case in CASES}))
def test_a_missing_key_satisfies_negated_operators_and_if_exists_only(operator: str) -> None:
    operand = next(case[1] for case in CASES if case[0] == operator)
    assert holds(operator, operand, {}) is ("Not" in operator)
    assert holds(operator + "IfExists", operand, {})


@pytest.mark.parametrize(("operator", "operand", "value", "expected"), CASES)
def test_if_exists_judges_a_present_key(operator: str, operand: Any, value: str, expected: bool) -> None:
    assert holds(operator + "IfExists", operand, {"my:key": value}) is expected


def test_null() -> None:
    assert holds("Null", "true", {})
    assert not holds("Null", "true", {"my:key": "x"})
    assert holds("Null", False, {"my:key": "x"})
    assert not holds("Null", "false", {})


@pytest.mark.parametrize(
    ("operator", "values", "expected"),
    [
        ("ForAllValues:StringEquals", ["a", "b"], True),
        ("ForAllValues:StringEquals", ["a", "z"], False),
        ("ForAllValues:StringEquals", [], True),
        ("ForAllValues:StringNotEquals", ["y", "z"], True),
        ("ForAllValues:StringNotEquals", ["a", "z"], False),
        ("ForAnyValue:StringEquals", ["a", "z"], True),
        ("ForAnyValue:StringEquals", ["y", "z"], False),
        ("ForAnyValue:StringEquals", [], False),
        ("ForAnyValue:StringNotEquals", ["a", "z"], True),
        ("ForAnyValue:StringNotEquals", ["a", "b"], False),
        ("ForAnyValue:StringNotEquals", [], False),
        ("ForAnyValue:StringEqualsIfExists", [], True),
    ],
)
def test_several_values(operator: str, values: list[str], expected: bool) -> None:
    assert holds(operator, ["a", "b"], {"my:key": values}) is expected


def test_variables_defaults_and_versions() -> None:
    context = {"my:key": "bob", "aws:username": "bob"}
    assert holds("StringEquals", "${AWS:UserName}", context)
    assert not holds("StringEquals", "${aws:username}", context, version="2008-10-17")
    assert holds("StringEquals", "${my:none, 'bob'}", context)
    assert not holds("StringEquals", "${my:none}", context)
    assert holds("StringNotEquals", "${my:none}", context)


def test_wildcards_inside_a_variables_value_stand_for_themselves() -> None:
    assert not holds("StringLike", "${aws:username}", {"aws:username": "*", "my:key": "bob"})
