"""Which operation is asked for, by every kind of evidence, and the errors for what does not exist."""

from __future__ import annotations

import pytest

from mainstay.host.aws_models import read_model
from mainstay.model.errors import ApiError
from mainstay.protocol.aws.identify import identify, read_dialect
from mainstay.protocol.aws.message import HttpRequest
from mainstay.protocol.aws.models import SERVICES, ServedService, ServiceModels

KMS = ServedService(
    name="kms", signing_name="kms", api_version="2014-11-01", protocols=("json",), target_prefix="TrentService"
)
CLOUDWATCH = ServedService(
    name="cloudwatch",
    signing_name="monitoring",
    api_version="2010-08-01",
    protocols=("json", "query"),
    target_prefix="GraniteServiceVersion20100801",
)
MODELS = ServiceModels((*SERVICES, KMS, CLOUDWATCH), read_model)
RDS_CALL = b"Action=DescribeDBInstances&Version=2014-10-31"


def request(body: bytes = b"", query: str = "", signed_for: str = "", **headers: str) -> HttpRequest:
    pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
    if signed_for:
        credential = f"AWS4-HMAC-SHA256 Credential=AK/20260101/eu-central-1/{signed_for}/aws4_request, Signature=0"
        pairs.append(("authorization", credential))
    return HttpRequest(method="POST", path="/", query=query, headers=tuple(pairs), body=body)


def refused(bad: HttpRequest) -> ApiError:
    with pytest.raises(ApiError) as caught:
        identify(bad, MODELS)
    return caught.value


def test_a_signed_form_is_identified_by_its_scope() -> None:
    found = identify(request(RDS_CALL, signed_for="rds"), MODELS)
    assert (found.service, found.operation, found.protocol, found.region_hint) == (
        "rds",
        "DescribeDBInstances",
        "query",
        "eu-central-1",
    )


def test_an_action_in_the_query_string_is_read() -> None:
    scope = "X-Amz-Credential=AK%2F20260101%2Fus-east-1%2Fsts%2Faws4_request"
    found = identify(request(query=f"Action=GetCallerIdentity&Version=2011-06-15&{scope}"), MODELS)
    assert (found.service, found.operation, found.region_hint) == ("sts", "GetCallerIdentity", "us-east-1")


@pytest.mark.parametrize(
    ("body", "service", "protocol"),
    [
        (RDS_CALL, "rds", "query"),
        (b"Action=DescribeVpcs&Version=2016-11-15", "ec2", "ec2"),
        (b"Action=ListUsers&Version=2010-05-08", "iam", "query"),
    ],
)
def test_an_unsigned_form_is_identified_by_its_version(body: bytes, service: str, protocol: str) -> None:
    found = identify(request(body), MODELS)
    assert (found.service, found.protocol, found.region_hint) == (service, protocol, "")


def test_an_unsigned_json_call_is_identified_by_its_target() -> None:
    found = identify(request(b"{}", x_amz_target="TrentService.Encrypt"), MODELS)
    assert (found.service, found.operation, found.protocol) == ("kms", "Encrypt", "json")


def test_a_service_with_two_protocols_answers_in_the_one_that_arrived() -> None:
    target = "GraniteServiceVersion20100801.ListMetrics"
    assert identify(request(b"{}", signed_for="monitoring", x_amz_target=target), MODELS).protocol == "json"
    form = request(b"Action=ListMetrics&Version=2010-08-01", signed_for="monitoring")
    assert identify(form, MODELS).protocol == "query"


def test_an_unknown_action_is_invalid_action() -> None:
    error = refused(request(b"Action=Nothing&Version=2014-10-31", signed_for="rds"))
    assert (error.shape, error.status) == ("InvalidAction", 400)
    assert error.message == "Could not find operation Nothing for version 2014-10-31"
    assert "not valid for this web service" in refused(request(b"Action=Nothing", signed_for="ec2")).message


def test_an_action_of_another_service_is_unknown() -> None:
    assert refused(request(b"Action=ListUsers", signed_for="rds")).shape == "InvalidAction"


@pytest.mark.parametrize("target", ["TrentService.Nothing", "Other.Encrypt", "", "Encrypt"])
def test_an_unknown_target_is_unknown_operation(target: str) -> None:
    error = refused(request(b"{}", signed_for="kms", x_amz_target=target))
    assert (error.shape, error.status) == ("UnknownOperationException", 400)


def test_a_missing_action_is_missing_action() -> None:
    assert refused(request(b"Version=2014-10-31", signed_for="rds")).shape == "MissingAction"
    assert refused(request(b"Action=", signed_for="rds")).shape == "MissingAction"


def test_another_api_version_is_refused() -> None:
    error = refused(request(b"Action=DescribeDBInstances&Version=2014-09-01", signed_for="rds"))
    assert error.shape == "NoSuchVersion"


def test_an_action_given_twice_is_refused() -> None:
    twice = request(b"Action=DescribeDBInstances&Version=2014-10-31", query="Action=DeleteDBInstance", signed_for="rds")
    assert refused(twice).shape == "MalformedQueryString"


def test_services_that_are_not_served_are_refused_in_the_clients_protocol() -> None:
    assert refused(request(RDS_CALL, signed_for="s3")).shape == "InvalidAction"
    json_call = request(b"{}", signed_for="dynamodb", x_amz_target="DynamoDB_20120810.ListTables")
    assert refused(json_call).shape == "UnknownOperationException"
    assert read_dialect(json_call, MODELS).service is None
    assert read_dialect(json_call, MODELS).protocol == "json"


def test_a_request_without_any_evidence_has_no_service() -> None:
    assert read_dialect(request(b"\xff=%ff"), MODELS).service is None
    assert refused(request()).shape == "InvalidAction"
