"""The first packets of a connection: SSLRequest, GSSENCRequest, CancelRequest, StartupMessage.

Source: PostgreSQL documentation 55.2.1 and 55.7. They share one frame without a type byte. A startup packet is limited
to 10,000 bytes, as in PostgreSQL (MAX_STARTUP_PACKET_LENGTH).
"""

from __future__ import annotations

import re
import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from mainstay.protocol.postgres.packets import CancelRequest, FirstPacket, GSSENCRequest, SSLRequest, StartupMessage
from mainstay.protocol.postgres.wire import WireError

if TYPE_CHECKING:
    from mypy_extensions import i64

STARTUP_BYTES_MAX: Final = 10_000
KNOWN_BYTES_MAX: Final = 512
"""Longer packets are read anew each time, so that what clients can make us keep is little."""

_two = struct.Struct("!II")
_SSL: Final = (1234 << 16) + 5679
_GSS: Final = (1234 << 16) + 5680
_CANCEL: Final = (1234 << 16) + 5678
MINOR_NEWEST: Final = 2


def first_packet(data: bytes | bytearray) -> tuple[FirstPacket, int] | None:
    """The packet at the beginning of `data` and its length; None if it is not complete yet. Raises `WireError`."""
    if len(data) < 8:
        if len(data) >= 4 and not 8 <= int.from_bytes(data[:4], "big") <= STARTUP_BYTES_MAX:
            raise WireError("invalid length of startup packet")
        return None
    head: tuple[i64, i64] = _two.unpack_from(data)
    length, code = head
    if not 8 <= length <= STARTUP_BYTES_MAX:
        raise WireError("invalid length of startup packet")
    if len(data) < length:
        return None
    body = bytes(data[8:length])
    if code == _SSL:
        return SSLRequest(), length
    if code == _GSS:
        return GSSENCRequest(), length
    if code == _CANCEL:
        if not 8 <= len(body) <= 260:
            raise WireError("invalid length of cancel request")
        return CancelRequest(int.from_bytes(body[:4], "big"), body[4:]), length
    if code >> 16 != 3:
        raise WireError(
            "Feature not supported: RDS Proxy supports only version 3.0 of the PostgreSQL messaging protocol.", "0A000"
        )
    # The clients of one program all send the same.
    known = _known if len(body) <= KNOWN_BYTES_MAX else _startup
    return known(body, code & 0xFFFF), length


@lru_cache(maxsize=256)
def _known(body: bytes, minor: int) -> StartupMessage:
    return _startup(body, minor)


def _startup(body: bytes, minor: int) -> StartupMessage:
    if not body.endswith(b"\0") or (len(body) > 1 and not body.endswith(b"\0\0")):
        raise WireError("invalid startup packet layout: expected terminator as last byte")
    words = body[:-2].split(b"\0") if len(body) > 1 else []
    if len(words) % 2:
        raise WireError("invalid startup packet layout: a parameter has no value")
    pairs: dict[str, str] = {}
    try:
        for index in range(0, len(words), 2):
            pairs[words[index].decode()] = words[index + 1].decode()
    except UnicodeDecodeError as error:
        raise WireError("a startup parameter is not UTF-8", "22021") from error
    user = pairs.pop("user", "")
    if not user:
        raise WireError(
            "A user name is missing from the connection startup packet. Provide a user name for this connection.",
            "28000",
        )
    database = pairs.pop("database", "") or user
    replication = pairs.pop("replication", "").lower() not in ("", "false", "off", "no", "0")
    refused = tuple([name for name in pairs if name.startswith("_pq_.")])
    options = pairs.pop("options", "")
    settings = {name: value for name, value in pairs.items() if name not in refused}
    if options:
        settings |= parse_options(options)
    return StartupMessage(minor, user, database, settings, replication, refused)


_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*\Z")


def parse_options(text: str) -> dict[str, str]:
    """Settings of a startup parameter `options`: `-c name=value` and `--name=value`, backslash escapes (PQconnectdb).

    Raises `WireError` for anything else: a switch that were dropped silently would be a surprise.
    """
    settings: dict[str, str] = {}
    words = _words(text)
    while words:
        word = words.pop(0)
        if word == "-c" and words:
            word = words.pop(0)
        elif word.startswith("-c"):
            word = word[2:]
        elif word.startswith("--"):
            word = word[2:]
        else:
            raise WireError(f"Feature not supported: RDS Proxy currently doesn't support the option {word}.", "0A000")
        name, separator, value = word.partition("=")
        name = name.replace("-", "_")
        if not separator or not _NAME.match(name):
            raise WireError(f"invalid startup option {word!r}", "42601")
        settings[name] = value
    return settings


def _words(text: str) -> list[str]:
    """Split at white space; a backslash keeps the next character as it is."""
    words: list[str] = []
    word, inside, characters = "", False, iter(text)
    for character in characters:
        if character == "\\":
            word += next(characters, "")
            inside = True
        elif character.isspace():
            if inside:
                words.append(word)
            word, inside = "", False
        else:
            word += character
            inside = True
    return [*words, word] if inside else words
