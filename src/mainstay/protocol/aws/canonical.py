"""The canonical form of a request that Signature Version 4 signs, and the keys that sign it. Pure functions.

Checked against botocore's signer for generated requests in `tests/property/test_aws_codecs.py`.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from urllib.parse import quote, unquote_to_bytes

ALGORITHM = "AWS4-HMAC-SHA256"
TERMINATOR = "aws4_request"
_DERIVED_KEYS_MAX = 512
_SIGNATURE_PARAMETER = "X-Amz-Signature"


def canonical_path(raw_path: str) -> str:
    """The raw path without dot segments and empty segments, percent-encoded once more (every service but S3)."""
    kept: list[str] = []
    for segment in raw_path.split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment and segment != ".":
            kept.append(segment)
    first = "/" if not raw_path or raw_path[0] == "/" else ""
    last = "/" if kept and raw_path.endswith("/") else ""
    return quote(_utf_8(first + "/".join(kept) + last), safe="/~")


def canonical_queries(raw_query: str) -> tuple[str, ...]:
    """The query string as signers write it: sorted, without the signature itself.

    Signers disagree about a query that is not in canonical encoding (a bare "/" or "+", lower-case escapes): some sign
    what they send, others what it ought to be. Both readings carry the same parameters, so there may be two answers.
    """
    if not raw_query:
        return ("",)
    pairs = []
    for pair in raw_query.split("&"):
        key, _, value = pair.partition("=")
        if _decoded(key) != _SIGNATURE_PARAMETER.encode():
            pairs.append((key, value))
    as_sent = _joined(pairs)
    as_ought = _joined([(_encoded(key), _encoded(value)) for key, value in pairs])
    return (as_sent,) if as_sent == as_ought else (as_sent, as_ought)


def _joined(pairs: list[tuple[str, str]]) -> str:
    return "&".join(f"{key}={value}" for key, value in sorted(pairs))


def _decoded(text: str) -> bytes:
    return unquote_to_bytes(_utf_8(text).replace(b"+", b" "))


def _encoded(text: str) -> str:
    return quote(_decoded(text), safe="-_.~")


def canonical_headers(headers: Sequence[tuple[str, str]]) -> str:
    """The signed headers (lower-case names, already sorted), one per line, with inner white space collapsed."""
    return "".join(f"{name}:{' '.join(value.split())}\n" for name, value in headers)


def canonical_request(
    *, method: str, path: str, query: str, headers: Sequence[tuple[str, str]], payload_hash: str
) -> str:
    """The text that is hashed; `path` and `query` are canonical already, `headers` are the signed ones."""
    names = ";".join(name for name, _ in headers)
    return "\n".join((method, path, query, canonical_headers(headers), names, payload_hash))


def string_to_sign(timestamp: str, scope: str, request: str) -> str:
    """The text that is signed. `scope` is date/region/service/aws4_request."""
    return "\n".join((ALGORITHM, timestamp, scope, sha256(_utf_8(request)).hexdigest()))


@lru_cache(maxsize=_DERIVED_KEYS_MAX)
def signing_key(secret_key: str, date: str, region: str, service: str) -> bytes:
    """The key derived for one day, region and service; remembered, since it costs four HMACs."""
    key = b"AWS4" + secret_key.encode()
    for part in (date, region, service, TERMINATOR):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def sign(key: bytes, text: str) -> str:
    """The signature, 64 lower-case hexadecimal digits."""
    return hmac.digest(key, text.encode(), "sha256").hex()


def _utf_8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
