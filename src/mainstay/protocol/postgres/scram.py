"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, both sides, sans-I/O.

Sources: RFC 5802, RFC 7677, RFC 5929 (tls-server-end-point), PostgreSQL documentation 55.3. PostgreSQL ignores the user
name inside the exchange: the one of the startup packet counts.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import unicodedata
from functools import lru_cache
from typing import Final

SCRAM = "SCRAM-SHA-256"
SCRAM_PLUS = "SCRAM-SHA-256-PLUS"
ITERATIONS = 4096
ITERATIONS_MAX = 1_000_000
"""A hostile server could otherwise keep us computing for hours."""

NONCE_BYTES = 18
BLOCK_BYTES, DIGEST_BYTES = 64, 32
"""Of SHA-256."""

_INNER = bytes([byte ^ 0x36 for byte in range(256)])
_OUTER = bytes([byte ^ 0x5C for byte in range(256)])
_NEW: Final = hashlib.sha256()
"""Copied, for looking the algorithm up anew costs as much as using it."""


class ScramError(Exception):
    """The exchange failed: wrong password, or a message that is not SCRAM."""


class Keyed:
    """HMAC-SHA-256 under one key (RFC 2104), which is set up once: that costs more than the rest. Not `hmac.HMAC`: its
    copies are made by functions in Python that take longer than the two hashes.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        block = (hashlib.sha256(key).digest() if len(key) > BLOCK_BYTES else key).ljust(BLOCK_BYTES, b"\0")
        self._inner = hashlib.sha256(block.translate(_INNER))
        self._outer = hashlib.sha256(block.translate(_OUTER))

    def code(self, data: bytes) -> bytes:
        """The code of `data`."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(data)
        outer.update(inner.digest())
        return outer.digest()


class Verifier:
    """What a server keeps of a password."""

    __slots__ = ("_server", "_stored", "challenge", "stored_key")

    def __init__(self, salt: bytes, iterations: int, stored_key: bytes, server_key: bytes) -> None:
        self.challenge = f"s={_encoded(salt)},i={iterations}"
        """What a client must know to prove that it knows the password."""

        self.stored_key = stored_key
        self._stored = Keyed(stored_key)
        self._server = Keyed(server_key)

    def client_signature(self, signed: bytes) -> bytes:
        """ClientSignature of an AuthMessage."""
        return self._stored.code(signed)

    def server_signature(self, signed: bytes) -> bytes:
        """ServerSignature of an AuthMessage."""
        return self._server.code(signed)


@lru_cache(maxsize=1024)
def verifier(password: str, salt: bytes, iterations: int = ITERATIONS) -> Verifier:
    """The verifier of a password; cached, as the same users come again and again."""
    salted = salted_password(password, salt, iterations)
    client_key = _hmac(salted, b"Client Key")
    return Verifier(salt, iterations, hashlib.sha256(client_key).digest(), _hmac(salted, b"Server Key"))


@lru_cache(maxsize=1024)
def salted_password(password: str, salt: bytes, iterations: int) -> bytes:
    """SaltedPassword; cached, because it is the expensive part and the same for every connection of a pool."""
    return hashlib.pbkdf2_hmac("sha256", prepared(password).encode(), salt, iterations)


def prepared(password: str) -> str:
    """SASLprep as PostgreSQL does it: NFKC of what SASLprep allows, anything else as it is."""
    return password if password.isascii() else unicodedata.normalize("NFKC", password)


class ScramServer:
    """The server's side of one exchange. `end_point` is the hash of our certificate on TLS, b"" without."""

    def __init__(self, known: Verifier, nonce: str, end_point: bytes = b"", *, plus: bool = False) -> None:
        self._known = known
        self._nonce = nonce
        self._nonces = ""
        """The client's and ours."""

        self._end_point = end_point
        self._plus = plus
        self._first_bare = ""
        self._server_first = ""
        self._binding = b""
        self._presigned: str | None = None
        """The client-final-message without its proof for which the signatures are."""

        self._client_signature = 0
        self._final = b""

    def first(self, data: bytes) -> bytes:
        """client-first-message in, server-first-message out. Raises `ScramError`."""
        text = _text(data)
        flag, _, rest = text.partition(",")
        authzid, _, bare = rest.partition(",")
        if authzid:
            raise ScramError("an authorisation identity is not supported")
        if flag.startswith("p="):
            if not self._plus or flag != "p=tls-server-end-point":
                raise ScramError("the channel binding type is not supported")
        elif self._plus:
            raise ScramError("channel binding was chosen but not used")
        elif flag == "y" and self._end_point:
            raise ScramError("the client thinks that channel binding is not offered, but it was: a downgrade")
        elif flag not in ("n", "y"):
            raise ScramError("malformed message")
        nonce = _nonce_of(bare)
        self._binding = f"{flag},,".encode() + (self._end_point if self._plus else b"")
        self._first_bare = bare
        self._nonces = nonce + self._nonce
        self._server_first = f"r={self._nonces},{self._known.challenge}"
        return self._server_first.encode()

    def prepare(self) -> None:
        """After `first`: computes what `final` needs for a client that answers without extensions, as all do, so that
        this is done while the client computes its proof, which takes it milliseconds.
        """
        self._sign(f"c={_encoded(self._binding)},r={self._nonces}")

    def final(self, data: bytes) -> bytes:
        """client-final-message in, server-final-message out. Raises `ScramError` for a wrong password."""
        without_proof, separator, proof_text = _text(data).rpartition(",p=")
        if not separator or not self._nonces:
            raise ScramError("malformed message")
        if without_proof != self._presigned:
            attributes = _attributes(without_proof)
            if attributes.get("r") != self._nonces or _decoded(attributes.get("c", "")) != self._binding:
                raise ScramError("malformed message")
            self._sign(without_proof)
        proof = _decoded(proof_text)
        if len(proof) != DIGEST_BYTES:
            raise ScramError("malformed message")
        hashed = _NEW.copy()
        hashed.update(_xor(proof, self._client_signature))
        if not hmac.compare_digest(hashed.digest(), self._known.stored_key):
            raise ScramError("the password is wrong")
        return self._final

    def _sign(self, without_proof: str) -> None:
        signed = f"{self._first_bare},{self._server_first},{without_proof}".encode()
        self._presigned = without_proof
        self._client_signature = int.from_bytes(self._known.client_signature(signed), "big")
        self._final = b"v=" + binascii.b2a_base64(self._known.server_signature(signed), newline=False)


class ScramClient:
    """The client's side, without channel binding: used towards engines on this host."""

    def __init__(self, password: str, nonce: str) -> None:
        self._password = password
        self._nonce = nonce
        self._bare = f"n=,r={nonce}"
        self._server_signature = b""

    def first(self) -> bytes:
        """client-first-message."""
        return f"n,,{self._bare}".encode()

    def final(self, data: bytes) -> bytes:
        """server-first-message in, client-final-message out. Raises `ScramError`."""
        text = _text(data)
        attributes = _attributes(text)
        nonce, salt, count = attributes.get("r", ""), attributes.get("s", ""), attributes.get("i", "")
        if not nonce.startswith(self._nonce) or len(nonce) <= len(self._nonce):
            raise ScramError("malformed message")
        if not count.isascii() or not count.isdigit():
            raise ScramError("malformed message")
        if not 1 <= len(count) <= 7 or not 1 <= int(count) <= ITERATIONS_MAX:
            raise ScramError(f"the server asks for {count[:20]} iterations; at most {ITERATIONS_MAX} are done")
        salted = salted_password(self._password, _decoded(salt), int(count))
        client_key = _hmac(salted, b"Client Key")
        without_proof = f"c=biws,r={nonce}"
        signed = f"{self._bare},{text},{without_proof}".encode()
        signature = _hmac(hashlib.sha256(client_key).digest(), signed)
        proof = _xor(client_key, int.from_bytes(signature, "big"))
        self._server_signature = _hmac(_hmac(salted, b"Server Key"), signed)
        return f"{without_proof},p={_encoded(proof)}".encode()

    def check(self, data: bytes) -> None:
        """server-final-message: the server knows the password too. Raises `ScramError`."""
        attributes = _attributes(_text(data))
        if not hmac.compare_digest(_decoded(attributes.get("v", "")), self._server_signature):
            raise ScramError("the server does not know the password")


def end_point_hash(certificate_der: bytes, hash_name: str) -> bytes:
    """tls-server-end-point: the certificate's hash with its signature's algorithm, SHA-256 for MD5 and SHA-1."""
    return hashlib.new("sha256" if hash_name.lower() in ("md5", "sha1") else hash_name, certificate_der).digest()


def md5_password(user: str, password: str, salt: bytes) -> str:
    """What a client answers to AuthenticationMD5Password."""
    inner = hashlib.md5(password.encode() + user.encode(), usedforsecurity=False).hexdigest()
    return "md5" + hashlib.md5(inner.encode() + salt, usedforsecurity=False).hexdigest()


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _xor(one: bytes, other: int) -> bytes:
    """Of a digest, and another one as a number."""
    return (int.from_bytes(one, "big") ^ other).to_bytes(DIGEST_BYTES, "big")


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ScramError("malformed message") from error


def _nonce_of(bare: str) -> str:
    """The nonce of a client-first-message-bare. Raises `ScramError` if there is none, or a mandatory extension."""
    name, _, nonce = bare.partition(",r=")
    if nonce and name.startswith("n=") and "," not in name and "," not in nonce:  # without extensions, as all are
        return nonce
    attributes = _attributes(bare)
    if "m" in attributes or not attributes.get("r"):
        raise ScramError("malformed message")
    return attributes["r"]


def _attributes(text: str) -> dict[str, str]:
    found = {}
    for part in text.split(","):
        if len(part) < 2 or part[1] != "=":
            raise ScramError("malformed message")
        found[part[0]] = part[2:]
    return found


def _encoded(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode()


def _decoded(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise ScramError("malformed message") from error
