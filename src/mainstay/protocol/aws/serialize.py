"""Results and errors as HTTP answers in the client's protocol.

What a handler returns is written by the operation's output shape: absent and None members are omitted, empty lists and
structures are empty elements (Terraform tells them apart). Every answer carries `x-amzn-RequestId`; the HTTP server
adds `Date` and `Content-Length`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import msgspec
from botocore.model import OperationModel, ServiceModel, StructureShape

from mainstay.model.errors import ApiError
from mainstay.protocol.aws.json_encoder import JsonCompiler, clean, encode_json
from mainstay.protocol.aws.message import HttpResponse
from mainstay.protocol.aws.vocabulary import Protocol, wire_code
from mainstay.protocol.aws.xml_encoder import Encoder, XmlCompiler, escape

_COMPILED_SERVICES_MAX = 64
_COMPILED_OPERATIONS_MAX = 2048
_XML = "text/xml;charset=UTF-8"
_DEFAULT_JSON_VERSION = "1.1"

Result = Mapping[str, Any] | None
_Writer = Callable[[Result, str], bytes]


class _ModelledError(msgspec.Struct, frozen=True, kw_only=True):
    """An exception shape: its names on the wire and its HTTP status (None if the model does not say)."""

    shape: str
    code: str
    status: int | None
    is_server_fault: bool


def serialize_result(
    operation_model: OperationModel, protocol: Protocol, result: Result, request_id: str
) -> HttpResponse:
    """The answer to a call that succeeded."""
    body = _writer(operation_model, protocol)(result, request_id)
    return HttpResponse(status=200, headers=_headers(operation_model.service_model, protocol, request_id), body=body)


def serialize_error(
    service_model: ServiceModel | None, protocol: Protocol, error: ApiError, request_id: str
) -> HttpResponse:
    """The answer to a call that failed. `service_model` is None when the request names no service that we serve."""
    modelled = _modelled_errors(service_model).get(error.shape) if service_model is not None else None
    extra: tuple[tuple[str, str], ...] = ()
    if modelled is None:
        code, status = wire_code(protocol, error.shape, error.status)
    else:
        code = modelled.shape if protocol == "json" else modelled.code
        default_status = 500 if modelled.is_server_fault else 400
        status = modelled.status or default_status
    sender = "Sender" if status < 500 else "Receiver"
    if protocol == "json":
        body = encode_json({"__type": clean(code), "message": clean(error.message)})
        extra = (("x-amzn-ErrorType", code),)
        if modelled is not None and service_model is not None and service_model.is_query_compatible:
            extra += (("x-amzn-query-error", f"{modelled.code};{sender}"),)
    elif protocol == "ec2":
        body = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Response><Errors><Error><Code>{escape(code)}</Code>'
            f"<Message>{escape(error.message)}</Message></Error></Errors>"
            f"<RequestID>{escape(request_id)}</RequestID></Response>"
        ).encode()
    else:
        namespace = service_model.metadata.get("xmlNamespace", "") if service_model is not None else ""
        attribute = f' xmlns="{escape(str(namespace))}"' if namespace else ""
        body = (
            f"<ErrorResponse{attribute}><Error><Type>{sender}</Type><Code>{escape(code)}</Code>"
            f"<Message>{escape(error.message)}</Message></Error>"
            f"<RequestId>{escape(request_id)}</RequestId></ErrorResponse>"
        ).encode()
    return HttpResponse(status=status, headers=(*_headers(service_model, protocol, request_id), *extra), body=body)


def _headers(service_model: ServiceModel | None, protocol: Protocol, request_id: str) -> tuple[tuple[str, str], ...]:
    content_type = _XML
    if protocol == "json":
        metadata: Mapping[str, Any] = service_model.metadata if service_model is not None else {}
        content_type = f"application/x-amz-json-{metadata.get('jsonVersion', _DEFAULT_JSON_VERSION)}"
    return (("Content-Type", content_type), ("x-amzn-RequestId", request_id))


@lru_cache(maxsize=_COMPILED_SERVICES_MAX)
def _modelled_errors(service_model: ServiceModel) -> Mapping[str, _ModelledError]:
    """Exception shapes by shape name and by wire code; a shape's own name wins over another shape's code."""
    by_shape: dict[str, _ModelledError] = {}
    for name in service_model.shape_names:
        shape = service_model.shape_for(name)
        if not isinstance(shape, StructureShape) or not shape.metadata.get("exception"):
            continue
        traits = shape.metadata.get("error", {})
        by_shape[name] = _ModelledError(
            shape=name,
            code=str(traits.get("code", name)),
            status=traits.get("httpStatusCode"),
            is_server_fault=bool(traits.get("fault")) or traits.get("senderFault") is False,
        )
    return {error.code: error for error in by_shape.values()} | by_shape


@lru_cache(maxsize=_COMPILED_SERVICES_MAX)
def _xml_compiler(_service_model: ServiceModel, protocol: Protocol) -> XmlCompiler:
    return XmlCompiler(is_ec2=protocol == "ec2")


@lru_cache(maxsize=_COMPILED_SERVICES_MAX)
def _json_compiler(_service_model: ServiceModel) -> JsonCompiler:
    return JsonCompiler()


@lru_cache(maxsize=_COMPILED_OPERATIONS_MAX)
def _writer(operation_model: OperationModel, protocol: Protocol) -> _Writer:
    """The compiled writer of one operation's answers."""
    if protocol == "json":
        return _json_writer(operation_model)
    return _ec2_writer(operation_model) if protocol == "ec2" else _query_writer(operation_model)


def _json_writer(operation_model: OperationModel) -> _Writer:
    shape = operation_model.output_shape
    if shape is None:
        return _without_output(operation_model, lambda _request_id: b"")
    turner = _json_compiler(operation_model.service_model).turner(shape)
    return lambda result, _request_id: encode_json(turner(result or {}))


def _query_writer(operation_model: OperationModel) -> _Writer:
    name, namespace = operation_model.wire_name, operation_model.service_model.metadata.get("xmlNamespace", "")
    opening = f'<{name}Response xmlns="{namespace}">'
    shape = operation_model.output_shape

    def closing(request_id: str) -> str:
        return f"<ResponseMetadata><RequestId>{escape(request_id)}</RequestId></ResponseMetadata></{name}Response>"

    if not isinstance(shape, StructureShape):
        return _without_output(operation_model, lambda request_id: (opening + closing(request_id)).encode())
    encode: Encoder = _xml_compiler(operation_model.service_model, "query").members(shape)
    wrapper = shape.serialization.get("resultWrapper", f"{name}Result")

    def write(result: Result, request_id: str) -> bytes:
        parts = [opening, f"<{wrapper}>"]
        encode(result or {}, parts.append)
        parts.append(f"</{wrapper}>")
        parts.append(closing(request_id))
        return "".join(parts).encode()

    return write


def _ec2_writer(operation_model: OperationModel) -> _Writer:
    name = operation_model.wire_name
    namespace = str(operation_model.service_model.metadata.get("xmlNamespace", "")).rstrip("/") + "/"
    opening = f'<?xml version="1.0" encoding="UTF-8"?>\n<{name}Response xmlns="{namespace}">'
    shape = operation_model.output_shape

    def head(request_id: str) -> str:
        return f"{opening}<requestId>{escape(request_id)}</requestId>"

    if not isinstance(shape, StructureShape):
        # EC2 says so where the model has nothing to say, and old clients read it.
        done = f"<return>true</return></{name}Response>"
        return _without_output(operation_model, lambda request_id: (head(request_id) + done).encode())
    encode: Encoder = _xml_compiler(operation_model.service_model, "ec2").members(shape)

    def write(result: Result, request_id: str) -> bytes:
        parts = [head(request_id)]
        encode(result or {}, parts.append)
        parts.append(f"</{name}Response>")
        return "".join(parts).encode()

    return write


def _without_output(operation_model: OperationModel, body: Callable[[str], bytes]) -> _Writer:
    def write(result: Result, request_id: str) -> bytes:
        if result:
            raise ValueError(f"{operation_model.name} has no output, but its handler returned some")
        return body(request_id)

    return write
