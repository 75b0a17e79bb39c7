"""Messages as they are on the wire."""

from __future__ import annotations

import pytest

from mainstay.protocol.postgres import wire
from mainstay.protocol.postgres.wire import WireError


def test_messages() -> None:
    assert wire.query(b"SELECT 1") == b"Q\0\0\0\x0dSELECT 1\0"
    assert wire.ready_for_query(b"T") == b"Z\0\0\0\x05T"
    assert wire.message(b"S") == b"S\0\0\0\4"
    assert list(wire.split(wire.query(b"a") + wire.message(b"S"))) == [(ord("Q"), b"a\0"), (ord("S"), b"")]
    assert wire.backend_key_data(7, b"abcd") == b"K\0\0\0\x0c\0\0\0\x07abcd"
    assert wire.negotiate_protocol_version(2, ["_pq_.x"])[5:] == b"\0\0\0\2\0\0\0\1_pq_.x\0"


def test_errors() -> None:
    (kind, body), *rest = wire.split(wire.error_response("08006", "it's\0gone", severity="FATAL", hint="wait"))
    assert (kind, rest) == (ord("E"), [])
    assert wire.error_fields(body) == {"S": "FATAL", "V": "FATAL", "C": "08006", "M": "it's?gone", "H": "wait"}
    assert wire.error_fields(b"Mwithout a code\0\0") == {"M": "without a code"}
    assert wire.error_fields(b"M\xff\0\0") == {"M": "\ufffd"}
    assert wire.error_fields(b"") == {}


@pytest.mark.parametrize("data", [b"Q", b"Q\0\0\0\3", b"Q\0\0\0\x05", b"Q\xff\xff\xff\xffx", b"S\0\0\0\4S"])
def test_streams_that_are_cut_off(data: bytes) -> None:
    with pytest.raises(WireError):
        list(wire.split(data))


def test_strings() -> None:
    assert wire.one_string(b"a\0rest") == (b"a", 2)
    assert wire.two_strings(b"a\0b\0rest") == (b"a", b"b", 4)
    for bad in (b"", b"a"):
        with pytest.raises(WireError):
            wire.one_string(bad)
    for bad in (b"", b"a\0", b"a\0b"):
        with pytest.raises(WireError):
            wire.two_strings(bad)
    with pytest.raises(WireError):
        wire.cstring("a\0b")


@pytest.mark.parametrize("length", [4, 5, 300, 511, 512, 70_000])
def test_the_header_of_a_bind_message(length: int) -> None:
    """Whether it is one of those that are made beforehand or not."""
    assert wire.bind_head(length) == wire.message(b"B", bytes(length - 4))[:5]
