"""The first packets of a connection."""

from __future__ import annotations

import pytest

from mainstay.protocol.postgres import wire
from mainstay.protocol.postgres.packets import CancelRequest, GSSENCRequest, SSLRequest, StartupMessage
from mainstay.protocol.postgres.startup import KNOWN_BYTES_MAX, STARTUP_BYTES_MAX, first_packet, parse_options
from mainstay.protocol.postgres.wire import WireError


def startup(**parameters: str) -> StartupMessage:
    found = first_packet(wire.startup(parameters))
    assert found is not None and isinstance(found[0], StartupMessage)
    return found[0]


def test_packets() -> None:
    assert first_packet(b"\0\0\0\x08\x04\xd2\x16\x2f") == (SSLRequest(), 8)
    assert first_packet(b"\0\0\0\x08\x04\xd2\x16\x30rest") == (GSSENCRequest(), 8)
    for secret in (b"abcd", b"x" * 256):
        packet = wire.cancel_request(77, secret)
        assert first_packet(packet + b"rest") == (CancelRequest(77, secret), len(packet))
    packet = wire.startup({"user": "u"}, minor=2)
    assert all(first_packet(packet[:size]) is None for size in range(len(packet)))
    assert first_packet(packet) == (StartupMessage(2, "u", "u", {}, False, ()), len(packet))


def test_only_short_packets_are_kept_for_others_that_send_the_same() -> None:
    assert startup(user="u", application_name="a") is startup(user="u", application_name="a")
    assert startup(user="u", application_name="a") != startup(user="u", application_name="b")
    long = "a" * KNOWN_BYTES_MAX
    assert startup(user="u", application_name=long) is not startup(user="u", application_name=long)


@pytest.mark.parametrize(
    "packet",
    [
        b"\0\0\0\0", b"\0\0\0\x07", b"\xff\xff\xff\xff", (STARTUP_BYTES_MAX + 1).to_bytes(4, "big"),
        b"\0\0\0\x08\0\x02\0\0", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\0\x01\0\x01",
        b"\0\0\0\x0b\x04\xd2\x16\x2eabc", (12 + 257).to_bytes(4, "big") + b"\x04\xd2\x16\x2e" + b"x" * 261,
        b"\0\0\0\x09\0\x03\0\0x", b"\0\0\0\x09\0\x03\0\0\0", b"\0\0\0\x0f\0\x03\0\0user\0\0\0",
        b"\0\0\0\x10\0\x03\0\0user\0u\0x", b"\0\0\0\x10\0\x03\0\0user\0\xff\0\0", wire.startup({"database": "d"}),
        wire.startup({"user": ""}),
    ],
)  # fmt: skip
def test_packets_that_are_none(packet: bytes) -> None:
    with pytest.raises(WireError):
        first_packet(packet)


def test_what_a_client_asks_for() -> None:
    found = startup(user="u", database="d", application_name="a", options="-c work_mem=1MB --search-path=a,b")
    assert (found.user, found.database) == ("u", "d")
    assert found.settings == {"application_name": "a", "work_mem": "1MB", "search_path": "a,b"}
    found = startup(user="u", **{"_pq_.new": "1", "_pq_.other": "2"})
    assert found.refused == ("_pq_.new", "_pq_.other")
    assert found.settings == {}
    for value, wanted in (("database", True), ("on", True), ("1", True), ("off", False), ("0", False), ("", False)):
        assert startup(user="u", replication=value).replication is wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", {}),
        ("  ", {}),
        ("-c a=1", {"a": "1"}),
        ("-ca=1", {"a": "1"}),
        ("--a-b=1", {"a_b": "1"}),
        ("-c a=1 -c a=2", {"a": "2"}),
        (r"-c a=x\ y", {"a": "x y"}),
        (r"-c a=x\\y", {"a": r"x\y"}),
        (r"-c a=x\'", {"a": "x'"}),
        ("-c my.own=", {"my.own": ""}),
        ("-c a=b=c", {"a": "b=c"}),
        ("\t-c\n a=1\r", {"a": "1"}),
    ],
)
def test_options(text: str, wanted: dict[str, str]) -> None:
    assert parse_options(text) == wanted


@pytest.mark.parametrize("text", ["-d 5", "x", "-c", "-c a", "--", "--a", "-c =1", "-c a;b=1", '-c "a"=1', "-c 1a=1"])
def test_options_that_are_none(text: str) -> None:
    with pytest.raises(WireError):
        parse_options(text)
