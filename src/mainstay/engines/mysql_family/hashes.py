"""What the engines of this family store for a password. Sources: MySQL internals manual, "Authentication method"."""

from __future__ import annotations

import base64
import hashlib


def native_password(password: str) -> str:
    """What mysql_native_password stores: "*" and the SHA-1 of the password's SHA-1. It has no salt."""
    first = hashlib.sha1(password.encode()).digest()  # noqa: S324 - the engine's own method
    return "*" + hashlib.sha1(first).hexdigest().upper()  # noqa: S324


CACHING_SHA2_ROUNDS = 5000
CACHING_SHA2_SALT_CHARACTERS = 20
_ALPHABET = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ORDER = (
    (0, 10, 20), (21, 1, 11), (12, 22, 2), (3, 13, 23), (24, 4, 14),
    (15, 25, 5), (6, 16, 26), (27, 7, 17), (18, 28, 8), (9, 19, 29),
)  # fmt: skip


def caching_sha2_password(password: str, salt: bytes) -> str:
    """What caching_sha2_password stores: SHA-crypt with SHA-256 (U. Drepper, "Unix crypt using SHA-256 and SHA-512"),
    5000 rounds, and a salt of 20 characters, here those of `salt` (at least 15 random bytes) in base64.
    """
    characters = base64.b64encode(salt)[:CACHING_SHA2_SALT_CHARACTERS]
    if len(characters) < CACHING_SHA2_SALT_CHARACTERS or b"=" in characters:
        raise ValueError("the salt is too short")
    digest = _sha256_crypt(password.encode(), characters, CACHING_SHA2_ROUNDS)
    return f"$A$005${characters.decode()}{digest}"


def _sha256_crypt(password: bytes, salt: bytes, rounds: int) -> str:
    length = len(password)
    other = hashlib.sha256(password + salt + password).digest()
    start = hashlib.sha256(password + salt + _stretched(other, length))
    bits = length
    while bits:
        start.update(other if bits & 1 else password)
        bits >>= 1
    digest = start.digest()
    p = _stretched(hashlib.sha256(password * length).digest(), length)
    s = _stretched(hashlib.sha256(salt * (16 + digest[0])).digest(), len(salt))
    for number in range(rounds):
        odd = number & 1
        step = (p if odd else digest) + (s if number % 3 else b"") + (p if number % 7 else b"")
        digest = hashlib.sha256(step + (digest if odd else p)).digest()
    parts = [_base64(digest[a] << 16 | digest[b] << 8 | digest[c], 4) for a, b, c in _ORDER]
    return "".join(parts) + _base64(digest[31] << 8 | digest[30], 3)


def _stretched(block: bytes, length: int) -> bytes:
    return (block * (length // len(block) + 1))[:length]


def _base64(value: int, characters: int) -> str:
    return "".join(_ALPHABET[value >> 6 * place & 0x3F] for place in range(characters))
