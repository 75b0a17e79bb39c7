"""Shapes that today's services hardly use: recursion, flattened lists and maps, floats, blobs, no input at all."""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import urlencode

import pytest
from botocore.model import OperationModel, ServiceModel
from botocore.parsers import create_parser
from botocore.serialize import create_serializer

from mainstay.model.errors import ApiError
from mainstay.protocol.aws import scalars
from mainstay.protocol.aws.message import HttpRequest
from mainstay.protocol.aws.parse import parse
from mainstay.protocol.aws.serialize import serialize_result
from mainstay.protocol.aws.vocabulary import Protocol

SHAPES: dict[str, Any] = {
    "Tree": {
        "type": "structure",
        "members": {
            "Name": {"shape": "String"},
            "Child": {"shape": "Tree"},
            "Trees": {"shape": "Trees"},
            "Flat": {"shape": "FlatList"},
            "Named": {"shape": "NamedFlatList"},
            "Map": {"shape": "Map"},
            "FlatMap": {"shape": "FlatMap"},
            "Float": {"shape": "Float"},
            "Double": {"shape": "Double"},
            "Blob": {"shape": "Blob"},
        },
    },
    "Trees": {"type": "list", "member": {"shape": "Tree"}},
    "FlatList": {"type": "list", "member": {"shape": "String"}, "flattened": True},
    "NamedFlatList": {"type": "list", "member": {"shape": "String", "locationName": "OneName"}, "flattened": True},
    "Map": {"type": "map", "key": {"shape": "String"}, "value": {"shape": "Tree"}},
    "FlatMap": {
        "type": "map",
        "key": {"shape": "String", "locationName": "K"},
        "value": {"shape": "String", "locationName": "V"},
        "flattened": True,
    },
    "String": {"type": "string"},
    "Float": {"type": "float"},
    "Double": {"type": "double"},
    "Blob": {"type": "blob"},
}
VALUE: dict[str, Any] = {
    "Name": "root",
    "Child": {"Name": "child", "Child": {"Name": "grandchild"}},
    "Trees": [{"Name": "a"}, {"Trees": [{"Name": "b"}]}],
    "Flat": ["1", "2"],
    "Named": ["3"],
    "Map": {"k": {"Name": "v"}},
    "FlatMap": {"x": "y", "z": ""},
    "Float": 1.5,
    "Double": -0.25,
    "Blob": b"\x00\xff",
}


def operation(protocol: Protocol, *, has_input: bool = True) -> OperationModel:
    metadata = {
        "protocol": protocol,
        "apiVersion": "1",
        "endpointPrefix": "x",
        "targetPrefix": "X",
        "jsonVersion": "1.1",
    }
    described: dict[str, Any] = {"name": "Do", "http": {"method": "POST", "requestUri": "/"}}
    if has_input:
        described |= {"input": {"shape": "Tree"}, "output": {"shape": "Tree", "resultWrapper": "DoResult"}}
    return ServiceModel(
        {"metadata": metadata, "operations": {"Do": described}, "shapes": SHAPES}, "made-up"
    ).operation_model("Do")


def received(body: bytes) -> HttpRequest:
    return HttpRequest(method="POST", path="/", query="", headers=(), body=body)


@pytest.mark.parametrize("protocol", ["query", "json"])
def test_requests_of_botocore_are_read(protocol: Protocol) -> None:
    model = operation(protocol)
    body = create_serializer(protocol, include_validation=False).serialize_to_request(VALUE, model)["body"]
    encoded = body if isinstance(body, bytes) else urlencode(body).encode()
    assert parse(model, protocol, received(encoded)) == VALUE


@pytest.mark.parametrize("protocol", ["query", "json"])
def test_answers_are_read_by_botocore(protocol: Protocol) -> None:
    model = operation(protocol)
    answer = serialize_result(model, protocol, VALUE, "id")
    assert model.output_shape is not None
    parsed = create_parser(protocol).parse(
        {"status_code": 200, "headers": dict(answer.headers), "body": answer.body}, model.output_shape
    )
    parsed.pop("ResponseMetadata")
    assert parsed == VALUE


@pytest.mark.parametrize("protocol", ["query", "json"])
@pytest.mark.parametrize(("number", "text"), [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity")])
def test_numbers_that_are_none_are_words(protocol: Protocol, number: float, text: str) -> None:
    assert text.encode() in serialize_result(operation(protocol), protocol, {"Double": number}, "id").body
    sent = b"Double=" + text.encode() if protocol == "query" else b'{"Double":"' + text.encode() + b'"}'
    found = parse(operation(protocol), protocol, received(sent))["Double"]
    assert found == number or (math.isnan(found) and math.isnan(number))


@pytest.mark.parametrize("protocol", ["query", "ec2", "json"])
def test_an_operation_without_input_ignores_what_is_sent(protocol: Protocol) -> None:
    body = b'{"a":1}' if protocol == "json" else b"a=1"
    assert parse(operation(protocol, has_input=False), protocol, received(body)) == {}


@pytest.mark.parametrize(
    ("protocol", "body", "code"),
    [
        ("query", b"Child=x", "InvalidParameterValue"),
        ("query", b"Double=0x1", "InvalidParameterValue"),
        ("query", b"Blob=%21", "InvalidParameterValue"),
        ("json", b'{"Child":[]}', "SerializationException"),
        ("json", b'{"Trees":{}}', "SerializationException"),
        ("json", b'{"Trees":[null]}', "SerializationException"),
        ("json", b'{"Double":"0x1"}', "SerializationException"),
        ("json", b'{"Double":true}', "SerializationException"),
        ("json", b'{"Map":[]}', "SerializationException"),
        ("json", b'{"Name":1}', "SerializationException"),
        (
            "query",
            b"Map.entry.1.key=a&Map.entry.1.value.Name=x&Map.entry.2.key=a&Map.entry.2.value.Name=y",
            "Malformed",
        ),
    ],
)
def test_other_kinds_of_values_are_refused(protocol: Protocol, body: bytes, code: str) -> None:
    with pytest.raises(ApiError, match=code):
        parse(operation(protocol), protocol, received(body))


def test_an_empty_structure_in_a_form_is_empty() -> None:
    assert parse(operation("query"), "query", received(b"Child=")) == {"Child": {}}


@pytest.mark.parametrize("text", ["1", "+1.5", "-.5", "1.", "1e10", "2E-3"])
def test_floats_are_decimal(text: str) -> None:
    assert scalars.float_from_text(text) == float(text)


@pytest.mark.parametrize("text", ["", ".", "1_0", " 1", "nan", "inf", "1e99999", "٣", "9" * 41])
def test_other_texts_are_no_floats(text: str) -> None:
    with pytest.raises(ValueError, match="not a number"):
        scalars.float_from_text(text)
