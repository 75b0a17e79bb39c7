"""Which operation of which service a request asks for, and in which protocol it must be answered.

Evidence, strongest first: the service in the credential scope, X-Amz-Target, the Version parameter. Nothing here trusts
the signature: it only reads it, so that an unsigned or badly signed call is refused in its own service's words.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

import msgspec

from mainstay.model.errors import ApiError
from mainstay.protocol.aws import limits
from mainstay.protocol.aws.form import common_parameters
from mainstay.protocol.aws.message import HttpRequest
from mainstay.protocol.aws.models import ServiceModels
from mainstay.protocol.aws.vocabulary import Protocol, fault

_SCOPE = re.compile(r"Credential=[^/,\s&]*/[^/,\s&]*/([\w-]*)/([\w-]*)/aws4_request", re.ASCII)
_ECHO_CHARACTERS = 128


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """How to talk to this client, known even when the request is refused. `service` is None if nothing tells it.

    `region_hint` and `signing_name` are what the credential scope claims, empty without one.
    """

    service: str | None
    protocol: Protocol
    signing_name: str = ""
    region_hint: str = ""


class Identified(msgspec.Struct, frozen=True, kw_only=True):
    """The operation that is asked for. It exists in the service's model; whether we have built it is not known here."""

    service: str
    operation: str
    protocol: Protocol
    region_hint: str


def read_dialect(request: HttpRequest, models: ServiceModels) -> Dialect:
    """The service and protocol of any request; never fails, so every refusal can be put into the right format."""
    region, signing_name = _credential_scope(request)
    target_prefix, _ = _target(request)
    service = models.served.get(signing_name)
    if service is None and not signing_name:
        service = models.by_target.get(target_prefix) if target_prefix else _service_of_version(request, models)
    return Dialect(
        service=service,
        protocol=_protocol(request, service, models),
        signing_name=signing_name,
        region_hint=region,
    )


def identify(request: HttpRequest, models: ServiceModels) -> Identified:
    """The operation of a request, or the `ApiError` that AWS answers for one that does not exist."""
    dialect = read_dialect(request, models)
    if dialect.service is None:
        named = f"service {dialect.signing_name!r}" if dialect.signing_name else "service that this request is for"
        raise fault(dialect.protocol, "InvalidAction", f"The {named} is not served here.")
    finder = _json_operation if dialect.protocol == "json" else _form_operation
    return Identified(
        service=dialect.service,
        operation=finder(request, dialect.service, dialect.protocol, models),
        protocol=dialect.protocol,
        region_hint=dialect.region_hint,
    )


def _json_operation(request: HttpRequest, service: str, protocol: Protocol, models: ServiceModels) -> str:
    prefix, operation = _target(request)
    if prefix != models.rows[service].target_prefix or not models.has_operation(service, operation):
        raise fault(protocol, "InvalidAction", f"The operation {_echo(operation)!r} is not known to this service.")
    return operation


def _form_operation(request: HttpRequest, service: str, protocol: Protocol, models: ServiceModels) -> str:
    parameters = common_parameters(request, protocol)
    action = parameters.get("Action", "")
    if not action:
        raise ApiError("MissingAction", "The request is missing an action or a required parameter.")
    current = models.rows[service].api_version
    version = parameters.get("Version") or current
    if version != current:
        raise ApiError("NoSuchVersion", f"The requested version ({_echo(version)}) of service {service} does not exist")
    if not models.has_operation(service, action):
        if protocol == "ec2":
            raise ApiError("InvalidAction", f"The action {_echo(action)} is not valid for this web service.")
        raise ApiError("InvalidAction", f"Could not find operation {_echo(action)} for version {version}")
    return action


def _credential_scope(request: HttpRequest) -> tuple[str, str]:
    """Region and signing name that the signature claims, or two empty strings."""
    authorization = request.header("authorization") or ""
    found = _SCOPE.search(authorization[: limits.HEADER_CHARACTERS_MAX])
    if found is None and "X-Amz-Credential=" in request.query:
        found = _SCOPE.search(unquote(request.query[: limits.QUERY_STRING_CHARACTERS_MAX]))
    return (found[1], found[2]) if found else ("", "")


def _target(request: HttpRequest) -> tuple[str, str]:
    prefix, _, operation = (request.header("x-amz-target") or "").rpartition(".")
    return prefix, operation


def _service_of_version(request: HttpRequest, models: ServiceModels) -> str | None:
    try:
        return models.by_version.get(common_parameters(request).get("Version", ""))
    except ApiError:
        return None  # an unreadable form has no service; reading it again to serve it reports why


def _protocol(request: HttpRequest, service: str | None, models: ServiceModels) -> Protocol:
    content_type = request.header("content-type") or ""
    is_json = request.header("x-amz-target") is not None or content_type.startswith("application/x-amz-json")
    if service is None:
        return "json" if is_json else "query"
    spoken = models.rows[service].protocols
    if is_json and "json" in spoken:
        return "json"
    return next((protocol for protocol in spoken if protocol != "json"), spoken[0])


def _echo(text: str) -> str:
    return text[:_ECHO_CHARACTERS]
