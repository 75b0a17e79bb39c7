"""SCRAM by the vectors of RFC 7677, and both of our sides against each other."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os

import pytest

from mainstay.protocol.postgres.scram import (
    BLOCK_BYTES,
    ITERATIONS,
    Keyed,
    ScramClient,
    ScramError,
    ScramServer,
    end_point_hash,
    md5_password,
    prepared,
    salted_password,
    verifier,
)

SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
CLIENT_NONCE, SERVER_NONCE = "rOprNGfwEbeRWgbNEkqO", "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
FINAL = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
VERIFIED = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


@pytest.mark.parametrize("prepares", [False, True])
def test_the_server_of_rfc_7677(prepares: bool) -> None:
    server = ScramServer(verifier("pencil", SALT), SERVER_NONCE)
    first = server.first(b"n,,n=user,r=" + CLIENT_NONCE.encode())
    if prepares:
        server.prepare()
    assert first == b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    assert server.final(FINAL) == VERIFIED


def test_both_sides() -> None:
    server, client = ScramServer(verifier("pencil", SALT), "server"), ScramClient("pencil", "client")
    client.check(server.final(client.final(server.first(client.first()))))
    server, client = ScramServer(verifier("pencil", SALT), "server"), ScramClient("pen", "client")
    with pytest.raises(ScramError, match="password is wrong"):
        server.final(client.final(server.first(client.first())))


@pytest.mark.parametrize("prepares", [False, True])
@pytest.mark.parametrize("extension", [b"", b",x=something"])
@pytest.mark.parametrize("gs2", [b"n,,", b"y,,", b"p=tls-server-end-point,,"])
def test_what_a_client_signs_need_not_be_what_was_prepared_for(gs2: bytes, extension: bytes, prepares: bool) -> None:
    plus = gs2.startswith(b"p")
    server = ScramServer(verifier("pencil", SALT), "s", b"hash" if plus else b"", plus=plus)
    server_first = server.first(gs2 + b"n=,r=c")
    if prepares:
        server.prepare()
    salted = salted_password("pencil", SALT, ITERATIONS)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    without_proof = b"c=" + base64.b64encode(gs2 + (b"hash" if plus else b"")) + b",r=cs" + extension
    signed = b"n=,r=c," + server_first + b"," + without_proof
    signature = hmac.digest(hashlib.sha256(client_key).digest(), signed, "sha256")
    proof = bytes(one ^ other for one, other in zip(client_key, signature, strict=True))
    for wrong in (without_proof.replace(b"r=cs", b"r=ct"), without_proof.replace(b"c=", b"c=AA"), b""):
        with pytest.raises(ScramError):
            server.final(wrong + b",p=" + base64.b64encode(proof))
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    expected = b"v=" + base64.b64encode(hmac.digest(server_key, signed, "sha256"))
    assert server.final(without_proof + b",p=" + base64.b64encode(proof)) == expected


def test_channel_binding() -> None:
    known = verifier("pencil", SALT)
    with pytest.raises(ScramError, match="downgrade"):
        ScramServer(known, "s", b"hash").first(b"y,,n=,r=c")
    with pytest.raises(ScramError, match="not used"):
        ScramServer(known, "s", b"hash", plus=True).first(b"n,,n=,r=c")
    with pytest.raises(ScramError, match="type is not supported"):
        ScramServer(known, "s", b"hash", plus=True).first(b"p=tls-unique,,n=,r=c")
    with pytest.raises(ScramError, match="type is not supported"):
        ScramServer(known, "s").first(b"p=tls-server-end-point,,n=,r=c")
    server = ScramServer(known, "s", b"hash", plus=True)
    server.first(b"p=tls-server-end-point,,n=,r=c")
    other = base64.b64encode(b"p=tls-server-end-point,,hash of another certificate")
    with pytest.raises(ScramError):
        server.final(b"c=" + other + b",r=cs,p=" + base64.b64encode(bytes(32)))


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b",",
        b"n",
        b"n,,",
        b"n,,r=",
        b"n,a=x,n=,r=c",
        b"n,,m=1,n=,r=c",
        b"x,,n=,r=c",
        b"\xff\xff",
        b"n,,n,r",
        b"n,,r=c,,",
    ],
)
def test_first_messages_that_are_none(first: bytes) -> None:
    with pytest.raises(ScramError):
        ScramServer(verifier("pencil", SALT), "s").first(first)


@pytest.mark.parametrize(
    "final",
    [b"", b"c=biws", b"c=biws,r=cs", b"c=biws,r=cs,p=", b"c=biws,r=cs,p=AAAA", b"c=biws,r=other,p=" + b"A" * 43 + b"=",
     b"c=AAAA,r=cs,p=" + b"A" * 43 + b"=", b"c=!,r=cs,p=!", b"\xff,p=", b"c=biws,r=cs,p=" + b"A" * 43 + b"="],
)  # fmt: skip
def test_final_messages_that_prove_nothing(final: bytes) -> None:
    server = ScramServer(verifier("pencil", SALT), "s")
    server.first(b"n,,n=,r=c")
    with pytest.raises(ScramError):
        server.final(final)


@pytest.mark.parametrize(
    "first",
    [b"", b"r=client", b"r=clientx,s=AAAA,i=0", b"r=clientx,s=AAAA,i=1000001", b"r=clientx,s=AAAA,i=99999999999999",
     b"r=other,s=AAAA,i=4096", b"r=client,s=AAAA,i=4096", b"r=clientx,s=!,i=1", "r=clientx,s=AAAA,i=²".encode(),
     b"r=clientx,s=AAAA,i=-1", b"\xff"],
)  # fmt: skip
def test_a_hostile_server(first: bytes) -> None:
    with pytest.raises(ScramError):
        ScramClient("pencil", "client").final(first)


def test_a_server_that_does_not_know_the_password() -> None:
    client = ScramClient("pencil", "client")
    client.final(b"r=clientx,s=AAAA,i=4096")
    for signature in (b"v=AAAA", b"v=", b"e=other-error", b""):
        with pytest.raises(ScramError):
            client.check(signature)


def test_the_rest() -> None:
    assert prepared("I\u2168") == "IIX"
    assert prepared("plain") == "plain"
    # What PostgreSQL's libpq answers: md5(md5(password || user) || salt).
    assert md5_password("postgres", "secret", b"\1\2\3\4") == "md5" + _md5(
        _md5(b"secretpostgres").encode() + b"\1\2\3\4"
    )
    assert len(end_point_hash(b"x", "SHA1")) == 32
    assert len(end_point_hash(b"x", "sha384")) == 48


def _md5(data: bytes) -> str:
    import hashlib

    return hashlib.md5(data, usedforsecurity=False).hexdigest()


@pytest.mark.parametrize("key_bytes", [0, 1, 32, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 200])
def test_the_codes_of_a_key_are_those_of_hmac(key_bytes: int) -> None:
    key = os.urandom(key_bytes)
    keyed = Keyed(key)
    for data in (b"", b"a", os.urandom(300), b""):  # nothing of one is left for the next
        assert keyed.code(data) == hmac.digest(key, data, "sha256")
