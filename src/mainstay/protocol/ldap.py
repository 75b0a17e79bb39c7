"""As much of LDAP (RFC 4511) as a server of simple binds needs. No I/O: bytes in, requests out.

Guarantees (tests/property/test_ldap.py): any bytes give requests or `LdapError`, never another exception, the same ones
however they are cut into pieces; no more than `message_bytes_max` bytes are ever kept.
BER is read as RFC 4511 section 5.1 limits it: definite lengths, primitive strings.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from mainstay.model.errors import MainstayError

VERSION = 3
MESSAGE_ID_MAX = 2**31 - 1
LENGTH_OCTETS_MAX = 4

INTEGER = 0x02
OCTET_STRING = 0x04
ENUMERATED = 0x0A
SEQUENCE = 0x30
BIND_REQUEST = 0x60
BIND_RESPONSE = 0x61
UNBIND_REQUEST = 0x42
SIMPLE = 0x80


class ResultCode(IntEnum):
    """Result codes of RFC 4511 section 4.1.9 that we give."""

    SUCCESS = 0
    PROTOCOL_ERROR = 2
    AUTH_METHOD_NOT_SUPPORTED = 7
    INVALID_CREDENTIALS = 49
    UNAVAILABLE = 52
    UNWILLING_TO_PERFORM = 53


class LdapError(MainstayError):
    """The peer does not speak LDAP, or more of it than we read. The connection is of no more use."""


@dataclass(frozen=True, slots=True)
class BindRequest:
    """A simple bind: who, and the proof. `simple` is false for any other kind, whose proof is not read."""

    message_id: int
    version: int
    name: bytes
    password: bytes = field(repr=False)
    simple: bool = True


@dataclass(frozen=True, slots=True)
class UnbindRequest:
    """The peer says goodbye; there is no answer."""

    message_id: int


@dataclass(frozen=True, slots=True)
class OtherRequest:
    """Anything else. `tag` is that of its protocolOp."""

    message_id: int
    tag: int


Request = BindRequest | UnbindRequest | OtherRequest


class MessageReader:
    """Cuts a stream of bytes into requests."""

    def __init__(self, message_bytes_max: int) -> None:
        """`message_bytes_max` bounds one whole message."""
        self._bytes_max = message_bytes_max
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Request]:
        """The requests that are complete now. Raises `LdapError`; the reader must not be used after that."""
        self._buffer += data
        requests: list[Request] = []
        while (end := self._message_end()) is not None:
            message = bytes(self._buffer[:end])
            del self._buffer[:end]
            requests.append(_request(message))
        return requests

    def _message_end(self) -> int | None:
        """Where the first message ends, None while it is not complete."""
        buffer = self._buffer
        if buffer and buffer[0] != SEQUENCE:
            raise LdapError("this is not an LDAP message")
        if len(buffer) < 2:
            return None
        octets = buffer[1] & 0x7F if buffer[1] & 0x80 else 0
        if buffer[1] == 0x80 or octets > LENGTH_OCTETS_MAX:
            raise LdapError("the message has a length of a form that LDAP does not use")
        if len(buffer) < 2 + octets:
            return None
        end = 2 + octets + (int.from_bytes(buffer[2 : 2 + octets], "big") if octets else buffer[1])
        if end > self._bytes_max:
            raise LdapError(f"the message is longer than {self._bytes_max} bytes")
        return end if len(buffer) >= end else None


def bind_response(message_id: int, code: ResultCode, diagnostic: str = "") -> bytes:
    """The answer to a bind. The diagnostic message is for people."""
    result = _element(ENUMERATED, _integer(code)) + _element(OCTET_STRING, b"")
    result += _element(OCTET_STRING, diagnostic.encode("utf-8", "replace"))
    return _element(SEQUENCE, _element(INTEGER, _integer(message_id)) + _element(BIND_RESPONSE, result))


def _request(message: bytes) -> Request:
    _, content, rest = _take(message)
    assert not rest  # noqa: S101 - the reader cut it so
    tag, id_octets, rest = _take(content)
    message_id = _read_integer(tag, id_octets, MESSAGE_ID_MAX)
    operation, body, controls = _take(rest)
    if controls:
        raise LdapError("controls are not supported")
    if operation == BIND_REQUEST:
        return _bind_request(message_id, body)
    if operation == UNBIND_REQUEST:
        if body:
            raise LdapError("an unbind request has no content")
        return UnbindRequest(message_id)
    return OtherRequest(message_id, operation)


def _bind_request(message_id: int, body: bytes) -> BindRequest:
    tag, octets, rest = _take(body)
    version = _read_integer(tag, octets, 127)
    tag, name, rest = _take(rest)
    if tag != OCTET_STRING:
        raise LdapError("the name of a bind must be an octet string")
    tag, proof, rest = _take(rest)
    if rest:
        raise LdapError("there is something after the bind's credentials")
    simple = tag == SIMPLE
    return BindRequest(message_id, version, name, proof if simple else b"", simple)


def _take(data: bytes) -> tuple[int, bytes, bytes]:
    """Tag and content of the first element, and what follows it."""
    if len(data) < 2:
        raise LdapError("the message ends in the middle of an element")
    tag, first, start = data[0], data[1], 2
    if tag & 0x1F == 0x1F:
        raise LdapError("LDAP has no tags of several octets")
    length = first
    if first & 0x80:
        octets = first & 0x7F
        if not 1 <= octets <= LENGTH_OCTETS_MAX:
            raise LdapError("an element has a length of a form that LDAP does not use")
        if len(data) < 2 + octets:
            raise LdapError("the message ends in the middle of a length")
        start = 2 + octets
        length = int.from_bytes(data[2:start], "big")
    if len(data) < start + length:
        raise LdapError("an element is longer than its message")
    return tag, data[start : start + length], data[start + length :]


def _read_integer(tag: int, octets: bytes, greatest: int) -> int:
    """An INTEGER from 0 to `greatest`."""
    if tag != INTEGER or not 1 <= len(octets) <= 5:
        raise LdapError("an integer is missing")
    value = int.from_bytes(octets, "big", signed=True)
    if not 0 <= value <= greatest:
        raise LdapError(f"an integer is not between 0 and {greatest}")
    return value


def _element(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content


def _integer(value: int) -> bytes:
    """A non-negative integer in two's complement, as short as possible."""
    return value.to_bytes(value.bit_length() // 8 + 1, "big")
