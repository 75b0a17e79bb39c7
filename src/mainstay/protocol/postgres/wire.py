"""Messages of the frontend/backend protocol: building them, and reading the fields that a proxy must know.

Source: PostgreSQL documentation, "Frontend/Backend Protocol", 55.7 Message Formats. A message is a type byte, a signed
32-bit length that counts itself, and a body. Everything here is pure.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # to whoever runs the source it is an int; compiled, it is a register and not an object
    from mypy_extensions import i64

HEADER_BYTES: Final = 5
MESSAGE_BYTES_MAX: Final = 1073741824
"""PostgreSQL's own limit of one message (PQ_LARGE_MESSAGE_LIMIT, MaxAllocSize)."""

_header = struct.Struct("!cI")
_length = struct.Struct("!I")
_int16 = struct.Struct("!H")
_int32 = struct.Struct("!i")


class WireError(Exception):
    """The other side does not speak the protocol. `sqlstate` is what to tell it."""

    def __init__(self, message: str, sqlstate: str = "08P01") -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


def message(kind: bytes, body: bytes = b"") -> bytes:
    """One message."""
    return b"".join((kind, _int32_of(len(body) + 4), body))


def _int32_of(number: i64) -> bytes:
    """The number's four bytes."""
    return _INT32[number] if 0 <= number < len(_INT32) else _int32.pack(number)


_INT32: Final = [_int32.pack(number) for number in range(512)]
"""Lengths of messages that are not long: making one each time costs as much as the rest of the message."""


def bind_head(length: i64) -> bytes:
    """The header of a Bind message with this length."""
    return _BIND_HEADS[length] if length < len(_BIND_HEADS) else b"B" + _int32.pack(length)


_BIND_HEADS: Final = [b"B" + one for one in _INT32]


def end_of(data: bytes, position: i64) -> i64:
    """Where the message at `position`, of which at least the header is there, ends if its length is true."""
    # Not int.from_bytes: compiled, this is a few instructions.
    one: i64 = data[position + 1]
    two: i64 = data[position + 2]
    three: i64 = data[position + 3]
    four: i64 = data[position + 4]
    return position + 1 + (one << 24 | two << 16 | three << 8 | four)


def zero_after(data: bytes, position: i64, end: i64) -> i64:
    """Where the first zero byte from `position` on is, before `end`; -1 if there is none."""
    while position < end:  # for names, which are short: compiled, quicker than a call of `find`
        if data[position] == 0:
            return position
        position += 1
    return -1


def text_of(data: bytes, position: i64, end: i64) -> bytes:
    """The body of a message that is one string, without its zero; b"" if it has no body at all."""
    begin = position + HEADER_BYTES
    return data[begin : end - 1] if end > begin else b""  # compiled, no slice may end before it begins


def cstring(text: str) -> bytes:
    """A zero-terminated string. Raises `WireError` for one with a zero inside."""
    if "\0" in text:
        raise WireError("a string contains a zero byte", "22021")
    return text.encode() + b"\0"


def split(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type byte, body) of every complete message; what is left at the end must be empty. For tests and logins."""
    position = 0
    while position < len(data):
        if len(data) - position < HEADER_BYTES:
            raise WireError("a message is cut off")
        (length,) = _length.unpack_from(data, position + 1)
        end = position + 1 + length
        if length < 4 or end > len(data):
            raise WireError("a message is cut off")
        yield data[position], data[position + HEADER_BYTES : end]
        position = end


def error_response(sqlstate: str, text: str, *, severity: str = "ERROR", detail: str = "", hint: str = "") -> bytes:
    """ErrorResponse. `severity` FATAL announces that the connection ends."""
    fields = [("S", severity), ("V", severity), ("C", sqlstate), ("M", text), ("D", detail), ("H", hint)]
    body = b"".join(name.encode() + value.replace("\0", "?").encode() + b"\0" for name, value in fields if value)
    return message(b"E", body + b"\0")


def error_fields(body: bytes) -> dict[str, str]:
    """Fields of an ErrorResponse or NoticeResponse by their letter; a missing SQLSTATE is no error here."""
    fields = {}
    for field in body.split(b"\0"):
        if field:
            fields[chr(field[0])] = field[1:].decode(errors="replace")
    return fields


def sqlstate_and_text(body: bytes) -> tuple[str, str]:
    """Fields C and M of an ErrorResponse, with words for a server that leaves them out."""
    fields = error_fields(body)
    return fields.get("C", "XX000"), fields.get("M", "unknown error")


def ready_for_query(status: bytes) -> bytes:
    """ReadyForQuery; status I, T or E."""
    return b"Z\0\0\0\5" + status


def parameter_status(name: str, value: str) -> bytes:
    """ParameterStatus."""
    return message(b"S", cstring(name) + cstring(value))


def backend_key_data(process_id: int, secret: bytes) -> bytes:
    """BackendKeyData; the secret has 4 bytes in protocol 3.0 and up to 256 in 3.2."""
    return message(b"K", _length.pack(process_id) + secret)


def negotiate_protocol_version(minor: int, refused: Iterable[str]) -> bytes:
    """NegotiateProtocolVersion: the newest minor version we speak, and the options we do not know."""
    names = list(refused)
    return message(b"v", _int32.pack(minor) + _int32.pack(len(names)) + b"".join(map(cstring, names)))


def authentication(code: int, data: bytes = b"") -> bytes:
    """An Authentication message: 0 Ok, 3 CleartextPassword, 5 MD5Password, 10 SASL, 11 SASLContinue, 12 SASLFinal."""
    return message(b"R", _int32_of(code) + data)


def query(text: bytes) -> bytes:
    """A simple query."""
    return message(b"Q", text + b"\0")


def startup(parameters: Mapping[str, str], minor: int = 0) -> bytes:
    """StartupMessage of protocol 3."""
    body = b"".join(cstring(name) + cstring(value) for name, value in parameters.items()) + b"\0"
    return _length.pack(len(body) + 8) + struct.pack("!HH", 3, minor) + body


def cancel_request(process_id: int, secret: bytes) -> bytes:
    """CancelRequest."""
    return _length.pack(12 + len(secret)) + struct.pack("!HHI", 1234, 5678, process_id) + secret


def parse(name: bytes, rest: bytes) -> bytes:
    """Parse: `rest` is the query with its zero, and the parameter types, as they came."""
    return message(b"P", name + b"\0" + rest)


def two_strings(body: bytes) -> tuple[bytes, bytes, int]:
    """The first two zero-terminated strings, and where the rest begins."""
    first = body.find(b"\0")
    second = body.find(b"\0", first + 1) if first >= 0 else -1
    if second < 0:
        raise WireError("a string is not terminated")
    return body[:first], body[first + 1 : second], second + 1


def one_string(body: bytes) -> tuple[bytes, int]:
    """The first zero-terminated string, and where the rest begins."""
    end = body.find(b"\0")
    if end < 0:
        raise WireError("a string is not terminated")
    return body[:end], end + 1
