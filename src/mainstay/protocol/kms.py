"""What a KMS ciphertext blob is, byte by byte, and what an encryption context is as authenticated data.

    1 byte    format, 0x01
    16 bytes  key id (a UUID)
    4 bytes   version of the key material, big-endian
    12 bytes  nonce
    the rest  AES-256-GCM ciphertext with its 16-byte tag

Guarantees: `decode` gives a blob or raises `MalformedBlob`, whatever the bytes; different contexts, keys or headers
never give the same associated data (tests/property/test_kms_blob.py). Refuses to know keys: it only lays bytes out.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping

import msgspec

FORMAT = 1
NONCE_BYTES = 12
TAG_BYTES = 16
HEADER_BYTES = 1 + 16 + 4
OVERHEAD_BYTES = HEADER_BYTES + NONCE_BYTES + TAG_BYTES
BLOB_BYTES_MAX = 6144

_HEADER = struct.Struct(">B16sI")
_LENGTH = struct.Struct(">I")
_KEY_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class MalformedBlob(ValueError):
    """The bytes are no ciphertext blob of ours."""


class CiphertextBlob(msgspec.Struct, frozen=True, kw_only=True):
    """A blob taken apart. `sealed` is ciphertext and tag."""

    key_id: str
    material_version: int
    nonce: bytes
    sealed: bytes


def encode_blob(blob: CiphertextBlob) -> bytes:
    """The bytes of a blob. Raises `ValueError` for parts that no blob can have."""
    if len(blob.nonce) != NONCE_BYTES or len(blob.sealed) < TAG_BYTES:
        raise ValueError("the nonce or the sealed part has the wrong length")
    return header(blob.key_id, blob.material_version) + blob.nonce + blob.sealed


def decode_blob(data: bytes) -> CiphertextBlob:
    """The parts of a blob. Raises `MalformedBlob`."""
    if not OVERHEAD_BYTES <= len(data) <= BLOB_BYTES_MAX:
        raise MalformedBlob("the length is wrong")
    version, raw_id, material_version = _HEADER.unpack_from(data)
    if version != FORMAT:
        raise MalformedBlob("the format is unknown")
    text = raw_id.hex()
    return CiphertextBlob(
        key_id=f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}",
        material_version=material_version,
        nonce=data[HEADER_BYTES : HEADER_BYTES + NONCE_BYTES],
        sealed=data[HEADER_BYTES + NONCE_BYTES :],
    )


def header(key_id: str, material_version: int) -> bytes:
    """The first bytes of a blob: format, key id and version. Raises `ValueError` for an id that is no UUID."""
    if not _KEY_ID.fullmatch(key_id):
        raise ValueError(f"{key_id!r} is no key id")
    try:
        return _HEADER.pack(FORMAT, bytes.fromhex(key_id.replace("-", "")), material_version)
    except struct.error as error:
        raise ValueError(f"{material_version} is no version of key material") from error


def associated_data(key_id: str, material_version: int, key_arn: str, context: Mapping[str, str]) -> bytes:
    """What AES-GCM authenticates besides the plaintext: header, key ARN, and the context ordered by its keys.

    Every text goes with its length before it, so no two contexts look the same. Raises `ValueError` for text that UTF-8
    cannot carry.
    """
    parts = [key_arn.encode(), _LENGTH.pack(len(context))]
    pairs = sorted((name.encode(), value.encode()) for name, value in context.items())
    parts += [part for pair in pairs for part in pair]
    return header(key_id, material_version) + b"".join(_LENGTH.pack(len(part)) + part for part in parts)
