"""The LDAP reader against python's own bytes: any garbage is an `LdapError`, any cut of a stream reads the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstay.protocol.ldap import (
    BindRequest,
    LdapError,
    MessageReader,
    OtherRequest,
    Request,
    ResultCode,
    UnbindRequest,
    bind_response,
)

LIMIT = 2000


def tlv(tag: int, content: bytes, *, long_form: int = 0) -> bytes:
    """An element; `long_form` octets of length where that many are more than needed."""
    if long_form:
        return bytes((tag, 0x80 | long_form)) + len(content).to_bytes(long_form, "big") + content
    if len(content) < 128:
        return bytes((tag, len(content))) + content
    return tlv(tag, content, long_form=2)


def integer(value: int) -> bytes:
    return tlv(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def bind(
    message_id: int, name: bytes, password: bytes, *, version: int = 3, tag: int = 0x80, long_form: int = 0
) -> bytes:
    body = integer(version) + tlv(4, name, long_form=long_form) + tlv(tag, password)
    return tlv(0x30, integer(message_id) + tlv(0x60, body, long_form=long_form), long_form=long_form)


message_ids = st.integers(0, 2**31 - 1)
binds = st.builds(
    lambda message_id, name, password, long_form: (
        bind(message_id, name, password, long_form=long_form),
        BindRequest(message_id, 3, name, password),
    ),
    message_ids,
    st.binary(max_size=300),
    st.binary(max_size=300),
    st.sampled_from([0, 2, 4]),
)
unbinds = st.builds(lambda number: (tlv(0x30, integer(number) + b"\x42\x00"), UnbindRequest(number)), message_ids)
others = st.builds(
    lambda number, tag: (tlv(0x30, integer(number) + tlv(tag, b"abc")), OtherRequest(number, tag)),
    message_ids,
    st.sampled_from([0x63, 0x66, 0x4A, 0x77]),
)


@given(st.lists(st.one_of(binds, unbinds, others), max_size=4), st.data())
def test_requests_however_the_stream_is_cut(wanted: list[tuple[bytes, Request]], data: st.DataObject) -> None:
    stream = b"".join(encoded for encoded, _ in wanted)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    reader = MessageReader(LIMIT)
    read: list[Request] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        read += reader.feed(stream[start:end])
    assert read == [request for _, request in wanted]


def outcome(stream: bytes, step: int) -> object:
    reader, read = MessageReader(LIMIT), []
    try:
        for start in range(0, len(stream), step):
            read += reader.feed(stream[start : start + step])
    except LdapError:
        return "error"
    return read


garbage = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=200).map(lambda rest: b"\x30" + rest),
    st.binary(max_size=100).map(lambda rest: tlv(0x30, rest)),
    st.binary(max_size=100).map(lambda rest: tlv(0x30, integer(1) + tlv(0x60, rest))),
)


@given(garbage)
def test_garbage_gives_requests_or_the_one_error(stream: bytes) -> None:
    assert outcome(stream, 1) == outcome(stream, len(stream) or 1)


@given(binds, st.data())
def test_a_damaged_bind(encoded: tuple[bytes, Request], data: st.DataObject) -> None:
    damaged = bytearray(encoded[0])
    damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    assert outcome(bytes(damaged), 1) == outcome(bytes(damaged), len(damaged))


@pytest.mark.parametrize(("size", "taken"), [(LIMIT - 1, True), (LIMIT, True), (LIMIT + 1, False)])
def test_the_limit(size: int, taken: bool) -> None:
    message = bind(1, b"x", b"p" * (size - 24), long_form=2)
    message = bind(1, b"x", b"p" * (size - 24 + size - len(message)), long_form=2)
    assert len(message) == size
    reader = MessageReader(LIMIT)
    if taken:
        assert len(reader.feed(message)) == 1
    else:
        with pytest.raises(LdapError, match="longer than"):
            reader.feed(message[:5])  # as soon as the length is known


@pytest.mark.parametrize(
    "message",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x00\x05",  # TLS within TLS
        b"\x30\x80\x02\x01\x01",  # indefinite length
        b"\x30\x85\x00\x00\x00\x00\x05",  # a length of five octets
        b"\x30\x84\xff\xff\xff\xff",
        b"\x30\x00",
        tlv(0x30, tlv(2, b"\xff") + b"\x42\x00"),  # a negative id
        tlv(0x30, tlv(2, b"") + b"\x42\x00"),
        tlv(0x30, integer(2**31) + b"\x42\x00"),
        tlv(0x30, tlv(4, b"1") + b"\x42\x00"),
        tlv(0x30, integer(1)),
        tlv(0x30, integer(1) + b"\x42\x01x"),
        tlv(0x30, integer(1) + b"\x42\x00" + tlv(0xA0, b"")),  # controls
        tlv(0x30, integer(1) + tlv(0x60, integer(3) + tlv(0x24, b"") + tlv(0x80, b"p"))),  # a constructed string
        tlv(0x30, integer(1) + tlv(0x60, integer(200) + tlv(4, b"") + tlv(0x80, b"p"))),
        tlv(0x30, integer(1) + tlv(0x60, integer(3) + tlv(4, b""))),
        tlv(0x30, integer(1) + tlv(0x60, integer(3) + tlv(4, b"") + tlv(0x80, b"p") + b"\x05\x00")),
        tlv(0x30, integer(1) + tlv(0x60, integer(3) + b"\x04\x20abc")),
        tlv(0x30, integer(1) + b"\x7f\x81\x00\x00"),  # a tag of several octets
    ],
)
def test_what_is_refused(message: bytes) -> None:
    with pytest.raises(LdapError):
        MessageReader(LIMIT).feed(message)


def test_credentials_of_another_kind_are_not_kept() -> None:
    [request] = MessageReader(LIMIT).feed(bind(7, b"who", b"\x04\x05PLAIN", tag=0xA3))
    assert request == BindRequest(7, 3, b"who", b"", simple=False)


def test_no_request_shows_its_password() -> None:
    [request] = MessageReader(LIMIT).feed(bind(7, b"who", b"secret"))
    assert "secret" not in repr(request)


def test_answers() -> None:
    """The first is RFC 4511's layout by hand; the second needs long lengths."""
    assert bind_response(1, ResultCode.SUCCESS) == bytes.fromhex("300c02010161070a010004000400")
    refusal = bind_response(300, ResultCode.INVALID_CREDENTIALS, "x" * 200)
    body = tlv(0x0A, b"\x31") + tlv(4, b"") + bytes((4, 0x81, 200)) + b"x" * 200
    inner = integer(300) + bytes((0x61, 0x81, len(body))) + body
    assert refusal == bytes((0x30, 0x81, len(inner))) + inner
