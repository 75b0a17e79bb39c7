"""Signature Version 4 on the server: reads the signature of a request and verifies it. No I/O, no clock.

`read_signature` checks everything that needs no secret (form, scope, dates, which headers are signed); the caller then
looks up the secret of `access_key_id`, and `verify` compares. Signatures come in the Authorization header or,
presigned, in the query string. An IAM database token is a presigned GET of "host:port/" for the service "rds-db" and
is read the same way. Refusals use the words of the service's protocol.
"""

from __future__ import annotations

import hmac
import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from hashlib import sha256
from urllib.parse import unquote

import msgspec

from mainstay.model.errors import ApiError
from mainstay.protocol.aws import canonical, limits
from mainstay.protocol.aws.message import HttpRequest
from mainstay.protocol.aws.vocabulary import Protocol, fault, too_large

_TIMESTAMP = "%Y%m%dT%H%M%SZ"
_TIMESTAMP_SHAPE = re.compile(r"\d{8}T\d{6}Z", re.ASCII)
_HEX_64 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_ACCESS_KEY = re.compile(r"[\w-]{1,128}", re.ASCII)
_SCOPE_PART = re.compile(r"[\w-]{1,64}", re.ASCII)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]{1,128}", re.ASCII)
_EXPIRES = re.compile(r"\d{1,6}", re.ASCII)
_EMPTY_HASH = sha256(b"").hexdigest()


class SigningRules(msgspec.Struct, frozen=True, kw_only=True):
    """What a signature must be scoped to. `service` is the signing name; `regions` are all that are accepted for it."""

    service: str
    protocol: Protocol
    regions: frozenset[str]


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """A well-formed signature that may or may not be right. `signed_at` is epoch seconds, `timestamp` the same as sent.

    `expires_s` is the life of a presigned request, None for one signed in its headers.
    """

    access_key_id: str
    date: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    signature: str
    session_token: str | None
    presigned: bool
    timestamp: str
    signed_at: float
    expires_s: int | None
    protocol: Protocol


class _Claims(msgspec.Struct, frozen=True, kw_only=True):
    """The raw texts of a signature, wherever they came from."""

    credential: str
    signed_headers: str
    signature: str
    timestamp: str
    session_token: str | None
    expires: str | None


def read_signature(request: HttpRequest, now: float, rules: SigningRules) -> Signature:
    """The signature of a request, checked in all that needs no secret. `now` is epoch seconds."""
    protocol = rules.protocol
    _refuse_oversized(request, protocol)
    query = _signature_parameters(request, protocol)
    in_header = request.header("authorization") is not None
    if in_header and query:
        raise _incomplete(protocol, "Only one of the Authorization header and X-Amz-* query parameters may be used.")
    if not in_header and not query:
        raise fault(protocol, "MissingAuthenticationToken", "Request is missing Authentication Token")
    claims = _presigned_claims(query, protocol) if query else _header_claims(request, protocol)
    signature = _checked(claims, rules)
    _check_signed_headers(request, signature)
    _check_time(signature, now)
    return signature


def verify(request: HttpRequest, signature: Signature, secret_key: str, now: float) -> None:
    """Returns if this secret signed this request and the signature is still in its time, else raises `ApiError`.

    The time is checked again because a caller may keep a `Signature` for a while.
    """
    _check_time(signature, now)
    payload_hash = sha256(request.body).hexdigest() if request.body else _EMPTY_HASH
    declared = request.header("x-amz-content-sha256")
    if declared is not None and not hmac.compare_digest(declared.encode("utf-8", "replace"), payload_hash.encode()):
        raise fault(
            signature.protocol,
            "SignatureDoesNotMatch",
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
        )
    key = canonical.signing_key(secret_key, signature.date, signature.region, signature.service)
    if not any(
        hmac.compare_digest(expected, signature.signature)
        for expected in _expected_signatures(request, signature, payload_hash, key)
    ):
        raise fault(
            signature.protocol,
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided. Check your AWS Secret "
            "Access Key and signing method. Consult the service documentation for details.",
        )


def _expected_signatures(request: HttpRequest, signature: Signature, payload_hash: str, key: bytes) -> list[str]:
    headers = dict(request.headers)
    signed = [(name, headers[name]) for name in signature.signed_headers]
    scope = "/".join((signature.date, signature.region, signature.service, canonical.TERMINATOR))
    texts = [
        canonical.canonical_request(
            method=request.method,
            path=canonical.canonical_path(request.path),
            query=query,
            headers=signed,
            payload_hash=payload_hash,
        )
        for query in canonical.canonical_queries(request.query)
    ]
    return [canonical.sign(key, canonical.string_to_sign(signature.timestamp, scope, text)) for text in texts]


def _refuse_oversized(request: HttpRequest, protocol: Protocol) -> None:
    if len(request.query) > limits.QUERY_STRING_CHARACTERS_MAX:
        raise too_large(protocol, f"The query string must not exceed {limits.QUERY_STRING_CHARACTERS_MAX} characters.")
    for name, value in request.headers:
        if len(value) > limits.HEADER_CHARACTERS_MAX:
            message = f"The header {name[:128]} must not exceed {limits.HEADER_CHARACTERS_MAX} characters."
            raise too_large(protocol, message)


def _signature_parameters(request: HttpRequest, protocol: Protocol) -> dict[str, str]:
    """The X-Amz-* parameters of a presigned request; empty if it is none. Each may be given once."""
    found: dict[str, str] = {}
    if "X-Amz-" not in request.query:
        return found
    for pair in request.query.split("&"):
        key, _, value = pair.partition("=")
        name = unquote(key)
        if name.startswith("X-Amz-"):
            if name in found:
                raise _incomplete(protocol, f"The query parameter {name[:64]} is given more than once.")
            found[name] = unquote(value)
    return found


def _presigned_claims(query: Mapping[str, str], protocol: Protocol) -> _Claims:
    algorithm = query.get("X-Amz-Algorithm")
    required = ("X-Amz-Credential", "X-Amz-Signature", "X-Amz-SignedHeaders", "X-Amz-Date", "X-Amz-Expires")
    missing = [name for name in required if not query.get(name)]
    if missing:
        raise _incomplete(protocol, f"AWS query-string parameters must include {', '.join(missing)}.")
    _check_algorithm(algorithm or "", protocol)
    return _Claims(
        credential=query["X-Amz-Credential"],
        signed_headers=query["X-Amz-SignedHeaders"],
        signature=query["X-Amz-Signature"],
        timestamp=query["X-Amz-Date"],
        session_token=query.get("X-Amz-Security-Token"),
        expires=query["X-Amz-Expires"],
    )


def _header_claims(request: HttpRequest, protocol: Protocol) -> _Claims:
    algorithm, _, rest = (request.header("authorization") or "").strip().partition(" ")
    _check_algorithm(algorithm, protocol)
    parts: dict[str, str] = {}
    for part in rest.split(","):
        name, _, value = part.strip().partition("=")
        if name in parts:
            raise _incomplete(protocol, f"Authorization header repeats {name[:64]!r}.")
        parts[name] = value
    missing = [name for name in ("Credential", "Signature", "SignedHeaders") if not parts.get(name)]
    if missing:
        raise _incomplete(protocol, " ".join(f"Authorization header requires '{name}' parameter." for name in missing))
    return _Claims(
        credential=parts["Credential"],
        signed_headers=parts["SignedHeaders"],
        signature=parts["Signature"],
        timestamp=_header_timestamp(request, protocol),
        session_token=request.header("x-amz-security-token"),
        expires=None,
    )


def _check_algorithm(algorithm: str, protocol: Protocol) -> None:
    if algorithm != canonical.ALGORITHM:
        raise _incomplete(protocol, f"Unsupported AWS 'algorithm': {algorithm[:64]!r}.")


def _header_timestamp(request: HttpRequest, protocol: Protocol) -> str:
    """X-Amz-Date, or the standard Date header in the same form."""
    given = request.header("x-amz-date")
    if given is not None:
        return given
    date = request.header("date")
    if date is None:
        raise _incomplete(
            protocol, "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header."
        )
    if _TIMESTAMP_SHAPE.fullmatch(date):
        return date
    try:
        moment = parsedate_to_datetime(date)
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC).strftime(_TIMESTAMP)
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        raise _incomplete(protocol, "The 'Date' header is not a valid date.") from error


def _checked(claims: _Claims, rules: SigningRules) -> Signature:
    """The claims as a `Signature`, each part checked against form and rules."""
    protocol = rules.protocol
    parts = claims.credential.split("/")
    if len(parts) != 5:
        raise _incomplete(
            protocol,
            "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term.",
        )
    access_key_id, date, region, service, terminator = parts
    if _ACCESS_KEY.fullmatch(access_key_id) is None or not all(map(_SCOPE_PART.fullmatch, parts[1:])):
        raise _incomplete(protocol, "Credential has an element that is empty or has invalid characters.")
    _check_scope(region, service, terminator, rules)
    if _HEX_64.fullmatch(claims.signature) is None:
        raise _mismatch(protocol, "The signature must be 64 lower-case hexadecimal digits.")
    signed_at = _epoch_seconds(claims.timestamp, protocol)
    if claims.timestamp[:8] != date:
        raise _mismatch(
            protocol,
            f"Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '{date}' != "
            f"'{claims.timestamp[:8]}', from '{claims.timestamp}'.",
        )
    names = tuple(sorted(claims.signed_headers.split(";")))
    if len(names) > limits.SIGNED_HEADERS_MAX:
        raise _incomplete(protocol, f"SignedHeaders must not have more than {limits.SIGNED_HEADERS_MAX} names.")
    if len(set(names)) != len(names) or not all(map(_HEADER_NAME.fullmatch, names)):
        raise _incomplete(protocol, "SignedHeaders must be distinct lower-case header names, separated by ';'.")
    return Signature(
        access_key_id=access_key_id,
        date=date,
        region=region,
        service=service,
        signed_headers=names,
        signature=claims.signature,
        session_token=claims.session_token,
        presigned=claims.expires is not None,
        timestamp=claims.timestamp,
        signed_at=signed_at,
        expires_s=_expires_s(claims.expires, protocol),
        protocol=protocol,
    )


def _check_scope(region: str, service: str, terminator: str, rules: SigningRules) -> None:
    if service != rules.service:
        raise _mismatch(rules.protocol, f"Credential should be scoped to correct service: '{rules.service}'.")
    if region not in rules.regions:
        raise _mismatch(rules.protocol, f"Credential should be scoped to a valid region, not '{region}'.")
    if terminator != canonical.TERMINATOR:
        raise _mismatch(
            rules.protocol,
            f"Credential should be scoped with a valid terminator: '{canonical.TERMINATOR}', not '{terminator}'.",
        )


def _epoch_seconds(timestamp: str, protocol: Protocol) -> float:
    try:
        if _TIMESTAMP_SHAPE.fullmatch(timestamp):
            return datetime.strptime(timestamp, _TIMESTAMP).replace(tzinfo=UTC).timestamp()
    except ValueError:
        pass  # such as month 13: the same answer as for any other text
    raise _incomplete(protocol, "Date must be in ISO-8601 'basic format', such as 20260131T120000Z.")


def _expires_s(text: str | None, protocol: Protocol) -> int | None:
    if text is None:
        return None
    if _EXPIRES.fullmatch(text) is None or not 1 <= int(text) <= limits.PRESIGNED_EXPIRES_MAX_S:
        raise _incomplete(
            protocol, f"X-Amz-Expires must be a number of seconds from 1 to {limits.PRESIGNED_EXPIRES_MAX_S}."
        )
    return int(text)


def _check_signed_headers(request: HttpRequest, signature: Signature) -> None:
    """Every header that has a say must be signed and given once; otherwise somebody on the way could change it."""
    protocol = signature.protocol
    counts = Counter(name for name, _ in request.headers)
    signed = set(signature.signed_headers)
    for name in signature.signed_headers:
        if name not in counts:
            raise _mismatch(protocol, f"The signed header '{name}' is not present in the request.")
    must_be_signed = {"host"} | {name for name in counts if name.startswith("x-amz-")}
    if not signature.presigned and "x-amz-date" not in counts:
        must_be_signed.add("date")
    unsigned = sorted(must_be_signed - signed)
    if unsigned:
        names = ", ".join(unsigned)[:256]
        raise _mismatch(
            protocol, f"'Host' and all 'X-Amz-' headers must be signed; these are not 'SignedHeaders': {names}."
        )
    for name in (*signature.signed_headers, "authorization"):
        if counts[name] > 1:
            raise _incomplete(protocol, f"The header '{name}' is given more than once.")


def _check_time(signature: Signature, now: float) -> None:
    protocol, skew_s = signature.protocol, limits.CLOCK_SKEW_MAX_S
    if signature.signed_at > now + skew_s:
        raise fault(
            protocol,
            "SignatureExpired" if protocol == "ec2" else "SignatureDoesNotMatch",
            f"Signature not yet current: {signature.timestamp} is still later than {_text(now + skew_s)} "
            f"({_text(now)} + 5 min.)",
        )
    life_s = skew_s if signature.expires_s is None else signature.expires_s
    if signature.signed_at < now - life_s:
        life = "5 min." if signature.expires_s is None else f"{life_s} s"
        raise fault(
            protocol,
            "SignatureExpired",
            f"Signature expired: {signature.timestamp} is now earlier than {_text(now - life_s)} "
            f"({_text(now)} - {life})",
        )


def _text(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).strftime(_TIMESTAMP)


def _incomplete(protocol: Protocol, message: str) -> ApiError:
    return fault(protocol, "IncompleteSignature", message)


def _mismatch(protocol: Protocol, message: str) -> ApiError:
    return fault(protocol, "SignatureDoesNotMatch", message)
