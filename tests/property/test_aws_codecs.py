"""Our codecs against botocore: whatever it sends we read, what we answer it reads, what it signs we verify.

And the contract of everything that reads a client's bytes: a value or an `ApiError`, never another exception.
"""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from random import Random
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.model import ListShape, MapShape, OperationModel, Shape, StructureShape
from botocore.parsers import create_parser
from botocore.serialize import create_serializer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mainstay.host.aws_models import MODELS, read_model
from mainstay.model.errors import ApiError
from mainstay.protocol.aws import canonical
from mainstay.protocol.aws.form import read_tree
from mainstay.protocol.aws.identify import identify, read_dialect
from mainstay.protocol.aws.message import HttpRequest
from mainstay.protocol.aws.models import SERVICES, ServedService, ServiceModels
from mainstay.protocol.aws.parse import parse
from mainstay.protocol.aws.parse_form import FormReader
from mainstay.protocol.aws.parse_json import JsonReader
from mainstay.protocol.aws.serialize import serialize_error, serialize_result
from mainstay.protocol.aws.sigv4 import SigningRules, read_signature, verify
from mainstay.protocol.aws.vocabulary import Protocol

JSON_ROW = ServedService(
    name="kms", signing_name="kms", api_version="2014-11-01", protocols=("json",), target_prefix="TrentService"
)
ALL = ServiceModels((*SERVICES, JSON_ROW), read_model)
TEXTS = (
    "plain",
    "",
    "a b+c%20&d=e;f",
    "<tag attr='x'>\"&amp;",
    "überraschung 漢字 🙂",
    " lead and trail ",
    "tab\tnl\ncr\r",
)
DEPTH_MAX = 6
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
FORM = "application/x-www-form-urlencoded; charset=utf-8"
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def protocol_of(service: str) -> Protocol:
    return ALL.rows[service].protocols[0]


def sample(shape: Shape, random: Random, depth: int = 0) -> Any:
    """A random value of the shape; structures below DEPTH_MAX are empty."""
    if isinstance(shape, StructureShape):
        if depth > DEPTH_MAX:
            return {}
        share = min(1.0, 8 / max(len(shape.members), 1))
        return {n: sample(m, random, depth + 1) for n, m in shape.members.items() if random.random() < share}
    if isinstance(shape, ListShape):
        return [
            sample(shape.member, random, depth + 1) for _ in range(random.choice((0, 1, 2, 12)) if depth < 3 else 1)
        ]
    if isinstance(shape, MapShape):
        return {f"key {n}<": sample(shape.value, random, depth + 1) for n in range(random.randrange(3))}
    match shape.type_name:
        case "integer":
            return random.choice((0, 1, -1, 2**31 - 1, -(2**31)))
        case "long":
            return random.choice((0, 2**63 - 1, -(2**63)))
        case "boolean":
            return random.random() < 0.5
        case "float" | "double":
            return random.choice((0.0, -1.5, 1e300, 0.1))
        case "timestamp":
            return datetime.fromtimestamp(random.randrange(4 * 10**12) / 1000, UTC).replace(
                microsecond=random.choice((0, 5000))
            )
        case "blob":
            return random.randbytes(random.randrange(5))
    return random.choice(TEXTS)


def pruned(value: Any, *, lists_too: bool) -> Any:
    """Without what a form cannot say: empty structures, and for ec2 empty lists, wherever they stand."""
    if isinstance(value, dict):
        items = {key: pruned(item, lists_too=lists_too) for key, item in value.items()}
        return {key: item for key, item in items.items() if item != {} and not (lists_too and item == [])}
    if isinstance(value, list):
        items_left = [pruned(item, lists_too=lists_too) for item in value]
        return [item for item in items_left if item != {} and not (lists_too and item == [])]
    return value


operations = st.sampled_from([row.name for row in (*SERVICES, JSON_ROW)]).flatmap(
    lambda service: st.tuples(st.just(service), st.sampled_from(list(ALL.service(service).operation_names)))
)


def sent(operation: OperationModel, protocol: Protocol, parameters: dict[str, Any]) -> HttpRequest:
    """The request that botocore would send."""
    wire = create_serializer(protocol, include_validation=False).serialize_to_request(parameters, operation)
    body = wire["body"]
    return HttpRequest(
        method="POST",
        path="/",
        query="",
        headers=tuple((name.lower(), value) for name, value in wire["headers"].items()),
        body=body if isinstance(body, bytes) else urlencode(body).encode(),
    )


@given(operations, st.randoms(use_true_random=False))
@relaxed
def test_what_botocore_sends_is_read_back(chosen: tuple[str, str], random: Random) -> None:
    service, name = chosen
    protocol, operation = protocol_of(service), ALL.operation(service, name)
    shape = operation.input_shape
    parameters = sample(shape, random) if shape is not None else {}
    if protocol != "json":
        parameters = pruned(parameters, lists_too=protocol == "ec2")
    request = sent(operation, protocol, parameters)
    found = identify(request, ALL)
    assert (found.service, found.operation, found.protocol) == (service, name, protocol)
    if not isinstance(shape, StructureShape):
        assert parse(operation, protocol, request) == {}
    elif protocol == "json":
        assert JsonReader(service).read(shape, request.body) == seconds_only(parameters)
    else:
        assert FormReader(service, protocol).structure(shape, read_tree(request, protocol), "") == parameters


def seconds_only(value: Any) -> Any:
    """botocore sends JSON timestamps in whole seconds."""
    if isinstance(value, dict):
        return {key: seconds_only(item) for key, item in value.items()}
    if isinstance(value, list):
        return [seconds_only(item) for item in value]
    return value.replace(microsecond=0) if isinstance(value, datetime) else value


@given(operations, st.randoms(use_true_random=False))
@relaxed
def test_what_we_answer_is_read_by_botocore(chosen: tuple[str, str], random: Random) -> None:
    service, name = chosen
    protocol, operation = protocol_of(service), ALL.operation(service, name)
    shape = operation.output_shape
    result = sample(shape, random) if shape is not None else None
    answer = serialize_result(operation, protocol, result, "id-1")
    parsed = create_parser(protocol).parse(
        {"status_code": answer.status, "headers": dict(answer.headers), "body": answer.body},
        shape,  # type: ignore[arg-type] # the stubs do not know of operations without output
    )
    metadata = parsed.pop("ResponseMetadata")
    if protocol != "json":
        assert metadata["RequestId"] == "id-1"
    assert metadata["HTTPHeaders"]["x-amzn-requestid"] == "id-1"
    assert parsed == (result or {})


@given(st.sampled_from(["rds", "iam", "sts", "kms"]), st.data(), st.sampled_from(TEXTS))
@relaxed
def test_modelled_errors_are_read_by_botocore(service: str, data: st.DataObject, text: str) -> None:
    model, protocol = ALL.service(service), protocol_of(service)
    shape = data.draw(st.sampled_from([one for one in model.error_shapes if isinstance(one, StructureShape)]))
    answer = serialize_error(model, protocol, ApiError(shape.name, text), "id-2")
    parsed = create_parser(protocol).parse(
        {"status_code": answer.status, "headers": dict(answer.headers), "body": answer.body},
        None,  # type: ignore[arg-type] # botocore does so for errors
    )
    assert parsed["Error"]["Code"] == shape.error_code
    assert (parsed["Error"]["Message"] or "") == text
    assert answer.status == shape.metadata.get("error", {}).get("httpStatusCode", answer.status)


# Signatures ----------------------------------------------------------------------------------------------------------

path_pieces = st.lists(
    st.sampled_from(["/", ".", "..", "a", "%20", "+", "~", "é", "漢", "-_", "%2F", "a b", "@", "=", "!"]), max_size=8
)
query_tokens = st.text(alphabet="aZ09-_.~+%é漢 /:@!*'()", max_size=6)
clean_tokens = st.text(max_size=8)
header_values = st.text(alphabet=st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20)


def as_received(request: AWSRequest, body: bytes) -> HttpRequest:
    assert request.method is not None
    parts = urlsplit(str(request.url))
    headers = [(name.lower(), str(value)) for name, value in request.headers.items()]
    if "host" not in dict(headers):
        headers.append(("host", parts.netloc))
    return HttpRequest(method=request.method, path=parts.path, query=parts.query, headers=tuple(headers), body=body)


def rules(protocol: Protocol = "query", service: str = "rds") -> SigningRules:
    return SigningRules(service=service, protocol=protocol, regions=frozenset({"eu-central-1"}))


@given(path_pieces, st.lists(st.tuples(query_tokens, query_tokens), max_size=5), header_values, st.binary(max_size=40))
@relaxed
def test_header_signatures_of_botocore_are_verified(
    pieces: list[str], pairs: list[tuple[str, str]], header: str, body: bytes
) -> None:
    """The query is sent exactly as written here, canonical or not, with repeated keys and empty values."""
    query = "&".join(f"{key}={value}" for key, value in pairs)
    url = f"http://db.example:8080/{''.join(pieces)}" + (f"?{query}" if query else "")
    request = AWSRequest("POST", url, headers={"Content-Type": FORM, "X-Amz-Meta": header}, data=body)
    signer = SigV4Auth(Credentials("AKIDEXAMPLE", SECRET, "token=="), "rds", "eu-central-1")
    signer.add_auth(request)
    received = as_received(request, body)
    now = datetime.strptime(received.header("x-amz-date") or "", "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    signature = read_signature(received, now, rules())
    verify(received, signature, SECRET, now)
    assert (signature.access_key_id, signature.session_token, signature.presigned) == ("AKIDEXAMPLE", "token==", False)
    with pytest.raises(ApiError):
        verify(received, signature, SECRET + "x", now)
    with pytest.raises(ApiError):
        verify(HttpRequest(**{**as_dict(received), "body": body + b"."}), signature, SECRET, now)

    headers = dict(received.headers)
    ours = canonical.canonical_request(
        method="POST",
        path=canonical.canonical_path(received.path),
        query=canonical.canonical_queries(received.query)[0],
        headers=[(name, headers[name]) for name in signature.signed_headers],
        payload_hash=signer.payload(request),
    )
    del request.headers["Authorization"]
    assert ours == signer.canonical_request(request)


@given(st.dictionaries(clean_tokens, clean_tokens, max_size=4), st.integers(1, 604800))
@relaxed
def test_presigned_requests_of_botocore_are_verified(parameters: dict[str, str], expires_s: int) -> None:
    parameters = {k: v for k, v in parameters.items() if not k.startswith("X-Amz-")}
    url = "https://db.example:5432/?" + urlencode(parameters)
    request = AWSRequest("GET", url)
    SigV4QueryAuth(Credentials("AKIDEXAMPLE", SECRET), "rds", "eu-central-1", expires=expires_s).add_auth(request)
    received = as_received(request, b"")
    stamp = request.context["timestamp"]
    now = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    signature = read_signature(received, now, rules())
    verify(received, signature, SECRET, now + expires_s)
    assert signature.presigned
    assert dict(received.headers)["host"] == "db.example:5432"
    with pytest.raises(ApiError):
        verify(received, signature, SECRET, now + expires_s + 1)
    with pytest.raises(ApiError):
        verify(HttpRequest(**{**as_dict(received), "query": received.query + "&x=1"}), signature, SECRET, now)


def as_dict(request: HttpRequest) -> dict[str, Any]:
    return {name: getattr(request, name) for name in request.__struct_fields__}


# Garbage -------------------------------------------------------------------------------------------------------------

AUTHORIZATION = (
    "AWS4-HMAC-SHA256 Credential=AK/20260101/eu-central-1/rds/aws4_request, SignedHeaders=host;x-amz-date, Signature="
    + "0" * 64
)
fragments = st.sampled_from(
    [
        *(
            "Action=DescribeDBInstances",
            "Version=2014-10-31",
            "&",
            "=",
            ".",
            "1",
            "0",
            "%",
            "%zz",
            "%ff",
            "+",
            "{",
            "}",
        ),
        *("Filters", ".Filter", ".member.1", "&Filters.Filter.1.Values.Value.2=x", "&MaxRecords=", "9" * 30, "²", "٣"),
        *("Action=DescribeInstances&Version=2016-11-15", "&Filter.1.Value=", "&StartTime=", "99999-01-01", "\ud800"),
        *(
            "X-Amz-Credential=AK/20260101/eu-central-1/rds/aws4_request",
            "&X-Amz-Signature=",
            "&X-Amz-Date=20261301T000000Z",
        ),
        *('{"KeyId":', '"x"', "[[[", "]", "null", "1e999", "-1", "true", '{"Tags":[{"TagKey":"k"}]}', AUTHORIZATION),
        *(
            "AWS4-HMAC-SHA256 ",
            "Credential=",
            ",",
            "SignedHeaders=a;b",
            "Signature=",
            "TrentService.Encrypt",
            "20260101T000000Z",
        ),
    ]
)
texts = st.lists(fragments | st.text(max_size=4), max_size=12).map("".join)
bodies = st.binary(max_size=60) | texts.map(lambda text: text.encode("utf-8", "surrogatepass"))
headers = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "authorization",
                "host",
                "x-amz-date",
                "date",
                "x-amz-target",
                "content-type",
                "content-encoding",
                "x-amz-content-sha256",
                "x-amz-security-token",
            ]
        ),
        st.just("application/x-amz-json-1.1") | st.just("gzip") | st.just(AUTHORIZATION) | texts,
    ),
    max_size=6,
).map(tuple)
garbage = st.builds(
    HttpRequest,
    method=st.sampled_from(["GET", "POST", "\ud800"]),
    path=texts,
    query=texts,
    headers=headers,
    body=bodies,
)


@given(garbage, st.sampled_from(["query", "ec2", "json"]))
@relaxed
def test_garbage_gives_a_value_or_an_api_error(request: HttpRequest, protocol: Protocol) -> None:
    dialect = read_dialect(request, ALL)
    with contextlib.suppress(ApiError):
        found = identify(request, ALL)
        assert ALL.has_operation(found.service, found.operation)
    for service, name in (("rds", "DescribeDBInstances"), ("ec2", "DescribeInstances"), ("kms", "CreateKey")):
        try:
            parse(ALL.operation(service, name), protocol_of(service), request)
        except ApiError as error:
            model = ALL.service(dialect.service) if dialect.service else None
            assert serialize_error(model, dialect.protocol, error, "id").body
    with contextlib.suppress(ApiError):
        now = 1767225600.0
        signature = read_signature(request, now, rules(protocol))
        verify(request, signature, SECRET, now)


@given(st.binary(max_size=200))
@relaxed
def test_any_json_body_gives_a_value_or_an_api_error(body: bytes) -> None:
    request = HttpRequest(method="POST", path="/", query="", headers=(), body=body)
    with contextlib.suppress(ApiError):
        assert isinstance(parse(ALL.operation("kms", "Encrypt"), "json", request), dict)


def test_deep_json_is_refused_not_followed() -> None:
    request = HttpRequest(method="POST", path="/", query="", headers=(), body=b'{"KeyId":' + b"[" * 900_000)
    with pytest.raises(ApiError, match="SerializationException"):
        parse(ALL.operation("kms", "Encrypt"), "json", request)


def test_the_shared_models_serve_what_is_listed() -> None:
    assert {name: name for name in ("rds", "ec2", "iam", "kms", "sts", "secretsmanager")} == MODELS.served
