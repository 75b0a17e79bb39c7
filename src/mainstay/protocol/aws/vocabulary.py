"""The words in which each family of AWS services says the same thing.

RDS and its kin answer `SignatureDoesNotMatch` with 403, EC2 `AuthFailure` with 401, the JSON services
`InvalidSignatureException` with 400. Code elsewhere raises the *common* code (the query spelling); this module alone
knows the other spellings and the HTTP status of codes that no service model lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from mainstay.model.errors import ApiError

Protocol = Literal["query", "ec2", "json"]

VALIDATION_ERROR_SERVICES = frozenset({"iam", "sts"})
"""Query services that report a broken constraint as `ValidationError` with the text of AWS's validation framework."""

_CodeAndStatus = tuple[str, int]

_QUERY: Mapping[str, _CodeAndStatus] = {
    "AccessDenied": ("AccessDenied", 403),
    "ExpiredToken": ("ExpiredToken", 403),
    "IncompleteSignature": ("IncompleteSignature", 400),
    "InternalFailure": ("InternalFailure", 500),
    "InvalidClientTokenId": ("InvalidClientTokenId", 403),
    "MissingAuthenticationToken": ("MissingAuthenticationToken", 403),
    "OptInRequired": ("OptInRequired", 403),
    "RequestEntityTooLarge": ("RequestEntityTooLarge", 413),
    "ServiceUnavailable": ("ServiceUnavailable", 503),
    "SignatureDoesNotMatch": ("SignatureDoesNotMatch", 403),
    "SignatureExpired": ("SignatureDoesNotMatch", 403),
    "Throttling": ("Throttling", 400),
}
_EC2: Mapping[str, _CodeAndStatus] = {
    **_QUERY,
    "AccessDenied": ("UnauthorizedOperation", 403),
    "AuthFailure": ("AuthFailure", 401),
    "ExpiredToken": ("RequestExpired", 400),
    "InternalFailure": ("InternalError", 500),
    "InvalidClientTokenId": ("AuthFailure", 401),
    "MissingAuthenticationToken": ("AuthFailure", 401),
    "ServiceUnavailable": ("Unavailable", 503),
    "SignatureDoesNotMatch": ("AuthFailure", 401),
    "SignatureExpired": ("RequestExpired", 400),
    "Throttling": ("RequestLimitExceeded", 503),
    "UnauthorizedOperation": ("UnauthorizedOperation", 403),
}
_JSON: Mapping[str, _CodeAndStatus] = {
    "AccessDenied": ("AccessDeniedException", 400),
    "ExpiredToken": ("ExpiredTokenException", 400),
    "IncompleteSignature": ("IncompleteSignatureException", 400),
    "InternalFailure": ("InternalFailure", 500),
    "InvalidAction": ("UnknownOperationException", 400),
    "InvalidClientTokenId": ("UnrecognizedClientException", 400),
    "MissingAction": ("UnknownOperationException", 400),
    "MissingAuthenticationToken": ("MissingAuthenticationTokenException", 400),
    "RequestEntityTooLarge": ("RequestEntityTooLargeException", 413),
    "ServiceUnavailable": ("ServiceUnavailableException", 503),
    "SignatureDoesNotMatch": ("InvalidSignatureException", 400),
    "SignatureExpired": ("InvalidSignatureException", 400),
    "Throttling": ("ThrottlingException", 400),
}
_TABLES: Mapping[Protocol, Mapping[str, _CodeAndStatus]] = {"query": _QUERY, "ec2": _EC2, "json": _JSON}


def wire_code(protocol: Protocol, code: str, status: int) -> _CodeAndStatus:
    """The spelling and HTTP status of a code that the service's model does not list.

    Codes unknown here pass unchanged. A `status` other than 400 was chosen by the raiser on purpose and is kept.
    """
    known = _TABLES[protocol].get(code)
    if known is None:
        return code, status
    return known if status == 400 else (known[0], status)


def fault(protocol: Protocol, code: str, message: str) -> ApiError:
    """An error given by its common code, spelled as this protocol's services spell it."""
    spelled, status = wire_code(protocol, code, 400)
    return ApiError(spelled, message, status=status)


def malformed(protocol: Protocol, message: str) -> ApiError:
    """The request cannot be read at all: broken escapes, broken JSON, a limit of the encoding exceeded."""
    return ApiError("SerializationException" if protocol == "json" else "MalformedQueryString", message)


def too_large(protocol: Protocol, message: str) -> ApiError:
    """The request is bigger than we accept (HTTP 413)."""
    return fault(protocol, "RequestEntityTooLarge", message)


def bad_value(service: str, protocol: Protocol, message: str) -> ApiError:
    """One value cannot be converted to the type that the model gives it."""
    if protocol == "json":
        return ApiError("SerializationException", message)
    return ApiError("ValidationError" if service in VALIDATION_ERROR_SERVICES else "InvalidParameterValue", message)
