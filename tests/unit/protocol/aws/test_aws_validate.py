"""Constraints of the models, in each service's words; patterns in linear time."""

from __future__ import annotations

import time
from typing import Any

import pytest
from botocore.model import OperationModel, ServiceModel, StructureShape

from mainstay.host.aws_models import MODELS
from mainstay.model.errors import ApiError
from mainstay.protocol.aws import limits
from mainstay.protocol.aws.message import HttpRequest
from mainstay.protocol.aws.models import SERVICES
from mainstay.protocol.aws.parse import parse
from mainstay.protocol.aws.patterns import compiled
from mainstay.protocol.aws.validate import validate
from mainstay.protocol.aws.vocabulary import Protocol


def refusal(service: str, operation: str, parameters: dict[str, Any]) -> ApiError:
    protocol: Protocol = "ec2" if service == "ec2" else "query"
    shape = MODELS.operation(service, operation).input_shape
    assert isinstance(shape, StructureShape)
    with pytest.raises(ApiError) as caught:
        validate(shape, parameters, service, protocol)
    return caught.value


def model_of(shape: dict[str, Any], **shapes: dict[str, Any]) -> OperationModel:
    """A JSON service with one operation whose input is this shape."""
    service = ServiceModel(
        {
            "metadata": {"protocol": "json", "apiVersion": "1", "endpointPrefix": "x"},
            "operations": {"Do": {"name": "Do", "input": {"shape": "In"}}},
            "shapes": {"In": shape, **shapes},
        },
        "made-up",
    )
    return service.operation_model("Do")


def check_json(operation: OperationModel, body: bytes) -> dict[str, Any]:
    return parse(operation, "json", HttpRequest(method="POST", path="/", query="", headers=(), body=body))


def test_a_missing_parameter_is_named() -> None:
    error = refusal("rds", "DeleteDBInstance", {})
    assert (error.shape, error.message) == (
        "MissingParameter",
        "The request must contain the parameter DBInstanceIdentifier",
    )
    nested = refusal("rds", "DescribeDBInstances", {"Filters": [{"Name": "engine"}]})
    assert nested.message == "The request must contain the parameter Filters.1.Values"


def test_iam_lists_every_problem_in_the_words_of_its_framework() -> None:
    error = refusal("iam", "CreateUser", {"UserName": "a b", "Tags": [{"Key": "k"}]})
    assert error.shape == "ValidationError"
    assert error.message == (
        "2 validation errors detected: Value 'a b' at 'userName' failed to satisfy constraint: Member must satisfy "
        r"regular expression pattern: [\w+=,.@-]+; Value null at 'tags.1.member.value' failed to satisfy constraint: "
        "Member must not be null"
    )


@pytest.mark.parametrize(("length", "accepted"), [(0, False), (1, True), (64, True), (65, False)])
def test_lengths_are_checked_at_their_edges(length: int, accepted: bool) -> None:
    shape = MODELS.operation("iam", "CreateUser").input_shape
    assert isinstance(shape, StructureShape)
    if accepted:
        validate(shape, {"UserName": "a" * length}, "iam", "query")
    else:
        edge = "greater than or equal to 1" if length == 0 else "less than or equal to 64"
        error = refusal("iam", "CreateUser", {"UserName": "a" * length})
        assert error.message.endswith(f"Member must have length {edge}")
        assert error.message.startswith("1 validation error detected"), "a wrong length is not matched as well"


@pytest.mark.parametrize(("value", "accepted"), [(4, False), (5, True), (1000, True), (1001, False)])
def test_ranges_are_checked_at_their_edges(value: int, accepted: bool) -> None:
    shape = MODELS.operation("ec2", "DescribeVpcs").input_shape
    assert isinstance(shape, StructureShape)
    if accepted:
        validate(shape, {"MaxResults": value}, "ec2", "ec2")
    else:
        assert refusal("ec2", "DescribeVpcs", {"MaxResults": value}).shape == "InvalidParameterValue"


def test_enums_are_checked_where_the_shape_has_them() -> None:
    proxy = {"DBProxyName": "p", "EngineFamily": "ORACLE", "RoleArn": "r" * 20, "VpcSubnetIds": [], "Auth": []}
    error = refusal("rds", "CreateDBProxy", proxy)
    assert error.shape == "InvalidParameterValue"
    assert "(ORACLE) for parameter EngineFamily" in error.message
    shape = MODELS.operation("rds", "CreateDBInstance").input_shape
    assert isinstance(shape, StructureShape)
    given = {"DBInstanceIdentifier": "d", "DBInstanceClass": "x", "Engine": "anything"}
    validate(shape, given, "rds", "query")


def test_secrets_are_not_echoed() -> None:
    error = refusal("iam", "CreateLoginProfile", {"UserName": "u", "Password": "p\0ssw0rd"})
    assert "0ssw0rd" not in error.message
    assert "Value at 'password'" in error.message


def test_json_services_say_validation_exception() -> None:
    operation = model_of(
        {"type": "structure", "required": ["A"], "members": {"A": {"shape": "S"}, "M": {"shape": "M"}}},
        S={"type": "string", "max": 3},
        M={"type": "map", "key": {"shape": "S"}, "value": {"shape": "S"}, "max": 1},
    )
    assert check_json(operation, b'{"A":"abc","M":{"abc":"abc"}}') == {"A": "abc", "M": {"abc": "abc"}}
    for body in (b"{}", b'{"A":"abcd"}', b'{"A":"","M":{"abcd":""}}', b'{"A":"","M":{"a":"","b":""}}'):
        with pytest.raises(ApiError, match="ValidationException: 1 validation error detected"):
            check_json(operation, body)


def test_no_more_problems_are_listed_than_a_person_reads() -> None:
    tags = [{"Key": ""}] * 40
    assert refusal("iam", "CreateUser", {"UserName": "u", "Tags": tags}).message.startswith("10 validation errors")


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_nesting_depth_of_json(extra: int) -> None:
    operation = model_of({"type": "structure", "members": {"In": {"shape": "In"}}})
    depth = limits.NESTING_DEPTH_MAX + extra
    body = b'{"In":' * (depth - 1) + b"{}" + b"}" * (depth - 1)
    if extra <= 0:
        assert check_json(operation, body)
    else:
        with pytest.raises(ApiError, match="nested deeper"):
            check_json(operation, body)


class TestPatterns:
    def test_unicode_categories_are_understood(self) -> None:
        expression = compiled(r"[\p{L}\p{Z}\p{N}_.:/=+\-@]*")
        assert expression is not None
        assert expression.fullmatch("Größe 漢字 ٣_.:/=+-@")
        assert not expression.fullmatch("tab\t")
        assert not expression.fullmatch("a*")

    def test_classes_are_ascii_as_in_java(self) -> None:
        expression = compiled(r"[\w]+")
        assert expression is not None
        assert not expression.fullmatch("é")

    def test_unusable_patterns_are_not_checked(self) -> None:
        assert compiled("([a-z]+)*") is None, "exponential and not reviewed"
        assert compiled(r"\p{Alnum}") is None, "not Python"
        assert compiled(r"^arn:aws([a-z-]+)?:ec2:[a-z\d-]+:\d{12}:placement-group/^.{1,255}$") is None

    @pytest.mark.parametrize("service", [row.name for row in SERVICES])
    def test_every_pattern_we_serve_is_usable_and_fast(self, service: str) -> None:
        """A hostile value of the greatest length a form may carry; exponential time would never end."""
        model = MODELS.service(service)
        every = {model.shape_for(name).metadata.get("pattern") for name in model.shape_names}
        patterns = {one for one in every if one is not None}
        assert patterns or service == "rds"
        for pattern in patterns:
            expression = compiled(pattern)
            if "placement-group/^" in pattern:
                continue
            assert expression is not None, pattern
            for hostile in (
                "a" * 5000 + "!\0",
                "a-" * 2500 + "\0",
                "/a" * 2500 + "\0",
                "arn:aws:" + "a-" * 2500 + "\0",
            ):
                before = time.process_time()
                expression.fullmatch(hostile)
                assert time.process_time() - before < 2, pattern

    @pytest.mark.parametrize("value", ["a", "a-b", "ab-c1-d", "a1", "a--b", "-a", "a-", "1a", "", "aé"])
    def test_the_linear_equivalent_matches_the_same_values(self, value: str) -> None:
        import re

        original = r"[a-zA-Z](?:-?[a-zA-Z0-9]+)*"
        expression = compiled(original)
        assert expression is not None
        assert bool(expression.fullmatch(value)) == bool(re.fullmatch(original, value, re.ASCII))
