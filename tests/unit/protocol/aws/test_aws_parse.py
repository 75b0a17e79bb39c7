"""Forms and JSON bodies become typed parameters; every limit is tested below, at and above."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import pytest

from mainstay.host.aws_models import read_model
from mainstay.model.errors import ApiError
from mainstay.protocol.aws import limits
from mainstay.protocol.aws.form import read_tree
from mainstay.protocol.aws.message import HttpRequest
from mainstay.protocol.aws.models import SERVICES, ServedService, ServiceModels
from mainstay.protocol.aws.parse import parse

KMS = ServedService(
    name="kms", signing_name="kms", api_version="2014-11-01", protocols=("json",), target_prefix="TrentService"
)
LOGS = ServedService(
    name="logs", signing_name="logs", api_version="2014-03-28", protocols=("json",), target_prefix="Logs_20140328"
)
MODELS = ServiceModels((*SERVICES, KMS, LOGS), read_model)


def parsed(
    service: str, operation: str, body: bytes | dict[str, Any], query: str = "", **headers: str
) -> dict[str, Any]:
    protocol = MODELS.rows[service].protocols[0]
    if isinstance(body, dict):
        body = (json.dumps(body) if protocol == "json" else urlencode(body)).encode()
    request = HttpRequest(
        method="POST",
        path="/",
        query=query,
        headers=tuple((name.replace("_", "-"), value) for name, value in headers.items()),
        body=body,
    )
    return parse(MODELS.operation(service, operation), protocol, request)


def code_of(service: str, operation: str, body: bytes | dict[str, Any], query: str = "", **headers: str) -> str:
    with pytest.raises(ApiError) as caught:
        parsed(service, operation, body, query, **headers)
    return caught.value.shape


class TestForms:
    def test_values_get_the_types_of_the_model(self) -> None:
        given = {
            "DBInstanceIdentifier": "db-1",
            "DBInstanceClass": "db.t3.micro",
            "Engine": "postgres",
            "AllocatedStorage": "20",
            "MultiAZ": "True",
            "StorageEncrypted": "false",
        }
        assert parsed("rds", "CreateDBInstance", given) == {
            **given,
            "AllocatedStorage": 20,
            "MultiAZ": True,
            "StorageEncrypted": False,
        }

    @pytest.mark.parametrize("item", ["Filters.Filter", "Filters.member", "Filters"])
    @pytest.mark.parametrize("value", ["Values.Value", "Values.member"])
    def test_lists_are_read_in_every_spelling(self, item: str, value: str) -> None:
        given = {f"{item}.1.Name": "engine", f"{item}.1.{value}.2": "mysql", f"{item}.1.{value}.1": "postgres"}
        wanted = [{"Name": "engine", "Values": ["postgres", "mysql"]}]
        assert parsed("rds", "DescribeDBInstances", given) == {"Filters": wanted}

    def test_ec2_lists_are_flat(self) -> None:
        given = {"Filter.1.Name": "vpc-id", "Filter.1.Value.1": "vpc-1", "VpcId.1": "vpc-2"}
        assert parsed("ec2", "DescribeVpcs", given) == {
            "Filters": [{"Name": "vpc-id", "Values": ["vpc-1"]}],
            "VpcIds": ["vpc-2"],
        }

    def test_ec2_members_may_have_a_name_of_their_own_in_requests(self) -> None:
        given = {"NetworkInterface.1.Ipv6Addresses.1.Ipv6Address": "::1", "MinCount": "1", "MaxCount": "1"}
        found = parsed("ec2", "RunInstances", given)
        assert found["NetworkInterfaces"] == [{"Ipv6Addresses": [{"Ipv6Address": "::1"}]}]

    def test_a_bare_key_is_an_empty_list(self) -> None:
        assert parsed("rds", "DescribeDBInstances", {"Filters": ""}) == {"Filters": []}

    def test_timestamps_become_aware(self) -> None:
        wanted = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
        for text in ("2026-01-01T12:00:00Z", "2026-01-01T13:00:00+01:00", "2026-01-01T12:00:00"):
            assert parsed("rds", "DescribeEvents", {"StartTime": text}) == {"StartTime": wanted}

    def test_unknown_parameters_and_the_signature_are_ignored(self) -> None:
        given = {"Nothing": "1", "MaxRecords.1": "5", "Marker": "m", "Action": "A", "Version": "V"}
        assert parsed("rds", "DescribeDBInstances", given, query="X-Amz-Signature=0&X-Amz-Date=1") == {"Marker": "m"}

    def test_plus_and_percent_are_decoded(self) -> None:
        assert parsed("rds", "DescribeDBInstances", b"Marker=a+b%2B%C3%A9&") == {"Marker": "a b+é"}

    @pytest.mark.parametrize(
        ("operation", "given"),
        [
            ("DescribeDBInstances", {"MaxRecords": "ten"}),
            ("DescribeDBInstances", {"MaxRecords": ""}),
            ("DescribeDBInstances", {"MaxRecords": str(2**31)}),
            ("DescribeDBInstances", {"Filters": "engine"}),
            ("DescribeDBInstances", {"IncludeShared": "yes"}),
            ("DescribeEvents", {"StartTime": "yesterday"}),
            ("DescribeEvents", {"StartTime": "0001-01-01T00:00:00+23:59"}),
        ],
    )
    def test_values_of_the_wrong_type_are_refused(self, operation: str, given: dict[str, str]) -> None:
        if "IncludeShared" in given:
            operation = "DescribeDBSnapshots"
        assert code_of("rds", operation, given) == "InvalidParameterValue"

    @pytest.mark.parametrize(
        "body",
        [
            b"Marker=1&Marker=2",
            b"Marker=%ff",
            b"Filters.Filter.1.Name=a&Filters.member.1.Name=b",
            b"Filters.Filter.2.Name=a",
            b"Filters.Filter.0.Name=a",
            b"Filters.Filter.01.Name=a",
            b"Filters.Filter.1.Name=a&Filters.Filter.3.Name=b",
            b"Filters.Filter.1.Name=a&Filters.Filter.1.Values.Value.1.x=b",
        ],
    )
    def test_forms_that_make_no_sense_are_refused(self, body: bytes) -> None:
        assert code_of("rds", "DescribeDBInstances", body) == "MalformedQueryString"

    def test_a_parameter_in_query_and_body_is_given_twice(self) -> None:
        assert code_of("rds", "DescribeDBInstances", b"Marker=1", query="Marker=1") == "MalformedQueryString"

    def test_iam_says_validation_error(self) -> None:
        assert code_of("iam", "ListUsers", {"MaxItems": "many"}) == "ValidationError"

    def test_maps_are_read_by_entry(self) -> None:
        sns = ServedService(name="sns", signing_name="sns", api_version="2010-03-31", protocols=("query",))
        operation = ServiceModels((sns,), read_model).operation("sns", "CreateTopic")
        fields = {"Name": "t", "Attributes.entry.1.key": "DisplayName", "Attributes.entry.1.value": "x"}
        request = HttpRequest(method="POST", path="/", query="", headers=(), body=urlencode(fields).encode())
        assert parse(operation, "query", request) == {"Name": "t", "Attributes": {"DisplayName": "x"}}
        for broken in ("Attributes.entry.1.key=a", "Attributes=x", "Attributes.entry.1.value=a"):
            with pytest.raises(ApiError):
                parse(
                    operation, "query", HttpRequest(method="POST", path="/", query=broken, headers=(), body=b"Name=t")
                )


class TestJson:
    def test_values_get_the_types_of_the_model(self) -> None:
        assert parsed("kms", "Encrypt", {"KeyId": "k", "Plaintext": "YWJj", "EncryptionContext": {"a": "b"}}) == {
            "KeyId": "k",
            "Plaintext": b"abc",
            "EncryptionContext": {"a": "b"},
        }

    def test_an_empty_body_is_an_empty_object(self) -> None:
        assert parsed("kms", "ListKeys", b"") == parsed("kms", "ListKeys", b" {} ") == {}

    def test_null_is_absent_and_unknown_members_are_ignored(self) -> None:
        assert parsed("kms", "ListKeys", {"Limit": None, "Nothing": [1]}) == {}

    def test_timestamps_are_numbers_or_text(self) -> None:
        base = {"KeyId": "k", "ImportToken": "YQ==", "EncryptedKeyMaterial": "YQ=="}
        for value in (1767225600, 1767225600.0, "2026-01-01T00:00:00Z"):
            found = parsed("kms", "ImportKeyMaterial", {**base, "ValidTo": value})
            assert found["ValidTo"] == datetime(2026, 1, 1, tzinfo=UTC)

    @pytest.mark.parametrize(
        "body",
        [
            *(b"[]", b"{", b"1", b"\xff", b'{"Limit":"1"}', b'{"Limit":true}', b'{"Limit":1.5}', b'{"Marker":5}'),
            *(b'{"Limit":2147483648}', b'{"Limit":1e30}'),
        ],
    )
    def test_bodies_of_the_wrong_type_are_refused(self, body: bytes) -> None:
        assert code_of("kms", "ListKeys", body) == "SerializationException"

    @pytest.mark.parametrize("name", ["Plaintext", "EncryptionContext", "GrantTokens", "DryRun"])
    def test_members_of_the_wrong_type_are_refused(self, name: str) -> None:
        assert code_of("kms", "Encrypt", {"KeyId": "k", "Plaintext": "YQ==", name: 5}) == "SerializationException"

    @pytest.mark.parametrize("value", [True, "1.5", [], {}])
    def test_booleans_and_integers_are_not_mixed_up(self, value: object) -> None:
        name = "Limit" if value is not True else "Marker"
        assert code_of("kms", "ListKeys", {name: value}) == "SerializationException"
        if not isinstance(value, bool):
            body = {"KeyId": "k", "Plaintext": "YQ==", "DryRun": value}
            assert code_of("kms", "Encrypt", body) == "SerializationException"
        assert parsed("kms", "Encrypt", {"KeyId": "k", "Plaintext": "YQ==", "DryRun": True})["DryRun"] is True

    def test_base64_is_read_strictly(self) -> None:
        assert code_of("kms", "Encrypt", {"KeyId": "k", "Plaintext": "YQ=!"}) == "SerializationException"

    def test_a_timestamp_beyond_time_is_refused(self) -> None:
        body = {"KeyId": "k", "ImportToken": "YQ==", "EncryptedKeyMaterial": "YQ==", "ValidTo": 1e18}
        assert code_of("kms", "ImportKeyMaterial", body) == "SerializationException"


class TestLimits:
    @pytest.mark.parametrize("extra", [-1, 0, 1])
    @pytest.mark.parametrize("service", ["rds", "kms"])
    def test_body_bytes(self, service: str, extra: int) -> None:
        operation, filler = ("DescribeDBInstances", b"&") if service == "rds" else ("ListKeys", b" ")
        body = filler * (limits.BODY_BYTES_MAX + extra)
        if extra <= 0:
            assert parsed(service, operation, body) == {}
        else:
            code = "RequestEntityTooLarge" if service == "rds" else "RequestEntityTooLargeException"
            assert code_of(service, operation, body) == code

    @pytest.mark.parametrize("extra", [-1, 0, 1])
    def test_unpacked_body_bytes(self, extra: int) -> None:
        body = gzip.compress(b"&" * (limits.BODY_BYTES_MAX + extra))
        if extra <= 0:
            assert parsed("rds", "DescribeDBInstances", body, content_encoding="gzip") == {}
        else:
            code = code_of("rds", "DescribeDBInstances", body, content_encoding="gzip")
            assert code == "RequestEntityTooLarge"

    def test_broken_and_unknown_encodings(self) -> None:
        packed = gzip.compress(b"Marker=1")
        assert parsed("rds", "DescribeDBInstances", packed, content_encoding="GZIP") == {"Marker": "1"}
        for body, encoding in ((packed[:-4], "gzip"), (b"Marker=1", "gzip"), (packed, "br")):
            code = code_of("rds", "DescribeDBInstances", body, content_encoding=encoding)
            assert code == "MalformedQueryString"

    @pytest.mark.parametrize("extra", [-1, 0, 1])
    def test_query_string_characters(self, extra: int) -> None:
        query = "&" * (limits.QUERY_STRING_CHARACTERS_MAX + extra)
        if extra <= 0:
            assert parsed("rds", "DescribeDBInstances", b"", query=query) == {}
        else:
            assert code_of("rds", "DescribeDBInstances", b"", query=query) == "RequestEntityTooLarge"

    @pytest.mark.parametrize("extra", [-1, 0, 1])
    def test_form_parameters(self, extra: int) -> None:
        body = {f"p{n}": "" for n in range(limits.FORM_PARAMETERS_MAX + extra)}
        if extra <= 0:
            assert parsed("rds", "DescribeDBInstances", body) == {}
        else:
            assert code_of("rds", "DescribeDBInstances", body) == "MalformedQueryString"

    @pytest.mark.parametrize("extra", [-1, 0, 1])
    def test_nesting_depth_of_a_form(self, extra: int) -> None:
        body = ".".join("a" * (limits.NESTING_DEPTH_MAX + extra)).encode() + b"=1"
        request = HttpRequest(method="POST", path="/", query="", headers=(), body=body)
        if extra <= 0:
            assert read_tree(request, "query").children
        else:
            with pytest.raises(ApiError, match="MalformedQueryString"):
                read_tree(request, "query")

    @pytest.mark.parametrize("extra", [-1, 0, 1])
    def test_list_items_of_a_form(self, extra: int) -> None:
        count = limits.LIST_ITEMS_MAX + extra
        body = {f"InstanceId.{n + 1}": "i" for n in range(count)}
        if extra <= 0:
            assert len(parsed("ec2", "DescribeInstances", body)["InstanceIds"]) == count
        else:
            assert code_of("ec2", "DescribeInstances", body) == "MalformedQueryString"

    @pytest.mark.parametrize("extra", [-1, 0, 1])
    def test_list_items_of_json(self, extra: int) -> None:
        count = limits.JSON_LIST_ITEMS_MAX + extra
        body = {"logGroupName": "g", "logStreamName": "s", "logEvents": [{"timestamp": 1, "message": "m"}] * count}
        if extra <= 0:
            assert len(parsed("logs", "PutLogEvents", body)["logEvents"]) == count
        else:
            assert code_of("logs", "PutLogEvents", body) == "SerializationException"

    @pytest.mark.parametrize("extra", [-1, 0, 1])
    def test_string_characters(self, extra: int) -> None:
        text = "m" * (limits.STRING_CHARACTERS_MAX + extra)
        log = {"logGroupName": "g", "logStreamName": "s", "logEvents": [{"timestamp": 1, "message": text}]}
        if extra <= 0:
            assert parsed("rds", "DescribeDBInstances", {"Marker": text}) == {"Marker": text}
            assert parsed("logs", "PutLogEvents", log)["logEvents"][0]["message"] == text
        else:
            assert code_of("rds", "DescribeDBInstances", {"Marker": text}) == "MalformedQueryString"
            assert code_of("logs", "PutLogEvents", log) == "SerializationException"

    @pytest.mark.parametrize("digits", [limits.INTEGER_DIGITS_MAX, limits.INTEGER_DIGITS_MAX + 1])
    def test_integer_digits(self, digits: int) -> None:
        given = {"MaxRecords": "20".rjust(digits, "0")}
        if digits <= limits.INTEGER_DIGITS_MAX:
            assert parsed("rds", "DescribeDBInstances", given) == {"MaxRecords": 20}
        else:
            assert code_of("rds", "DescribeDBInstances", given) == "InvalidParameterValue"
