"""Blocks of files: their digests, and extents that say where runs of them are stored.

The digest of a block is the first 8 bytes of its GMAC (NIST SP 800-38D) under a key that only manifests hold, with a
zero nonce: a keyed universal hash, whose values nobody sees who does not hold the data key as well, at several times
the speed of SHA-256. A block is compared only with the one that was in its place before, so a change is overlooked
with a probability of 2^-64 (2^-55 whatever an adversary without the key writes). It is checked again on restore. It
does not protect from forgery, and need not: the frames are authenticated.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mainstay.model.backup import DIGEST_BYTES, ZERO_PACK, BackupFile

BLOCK_BYTES_MIN = 8 << 10
BLOCK_BYTES_MAX = 64 << 10
BLOCKS_AIM = 8 << 20
EXTENT_BYTES_MAX = 0xFFFF_FFFF

_NONCE = bytes(12)

if sys.byteorder != "little" or array("I").itemsize != 4:
    raise ImportError("extents are little-endian 32-bit numbers on disk, and this machine has others")


def block_bytes_for(total: int) -> int:
    """Block size for files of so many bytes together: 8 KiB (a PostgreSQL page) up to 64 GiB, then larger ones, so
    that the digests of a backup stay below about 100 MB."""
    size = BLOCK_BYTES_MIN
    while size < BLOCK_BYTES_MAX and total > size * BLOCKS_AIM:
        size *= 2
    return size


class BlockDigests:
    """Digests under one key. Safe to use from several threads."""

    def __init__(self, key: bytes) -> None:
        self._mac = AESGCM(key).encrypt
        self._zero: dict[int, bytes] = {}

    def of(self, content: memoryview, block_bytes: int) -> bytes:
        """The digests of its blocks, one after the other; the last block may be short."""
        mac = self._mac
        return b"".join(
            [
                mac(_NONCE, b"", content[start : start + block_bytes])[:DIGEST_BYTES]
                for start in range(0, len(content), block_bytes)
            ]
        )

    def zero(self, block_bytes: int) -> bytes:
        """The digest of a block of zeros."""
        if block_bytes not in self._zero:
            self._zero[block_bytes] = self.of(memoryview(bytes(block_bytes)), block_bytes)
        return self._zero[block_bytes]


class ExtentsBuilder:
    """Extents in the order of the file; neighbours that continue each other become one."""

    def __init__(self) -> None:
        self._words = array("I")

    def add(self, pack: int, offset: int, length: int) -> None:
        """Appends `length` bytes that are at `offset` in the content of that pack."""
        words = self._words
        if words and words[-3] == pack and words[-1] + length <= EXTENT_BYTES_MAX:
            if pack == ZERO_PACK or words[-2] + words[-1] == offset:
                words[-1] += length
                return
        words.extend((pack, offset, length))

    def add_all(self, other: ExtentsBuilder) -> None:
        """Appends the extents of another builder."""
        words = other._words
        for index in range(0, len(words), 3):
            self.add(words[index], words[index + 1], words[index + 2])

    def packs(self) -> set[int]:
        """The packs that are referred to."""
        return set(self._words[0::3]) - {ZERO_PACK}

    def encoded(self, renumbered: dict[int, int]) -> bytes:
        """As in `BackupFile.extents`, with new numbers for the packs."""
        words = array("I", self._words)
        for index in range(0, len(words), 3):
            words[index] = renumbered.get(words[index], words[index])
        return words.tobytes()


class StoredFile:
    """A file of an earlier backup, for questions about parts of it."""

    def __init__(self, file: BackupFile) -> None:
        self.file = file
        self._words = memoryview(file.extents).cast("I")
        self._ends = list(accumulate(self._words[2::3]))

    def digests(self, start: int, length: int) -> bytes:
        """Of the blocks from byte `start` (a multiple of the block size)."""
        first = start // self.file.block_bytes
        count = -(-length // self.file.block_bytes)
        return self.file.digests[first * DIGEST_BYTES : (first + count) * DIGEST_BYTES]

    def extents(self, start: int, length: int) -> Iterator[tuple[int, int, int]]:
        """(pack, offset, length) of the bytes from `start`, which must all exist."""
        index = bisect_right(self._ends, start)
        words = self._words
        while length > 0:
            pack, offset, size = words[3 * index : 3 * index + 3]
            inner = start - (self._ends[index] - size)
            taken = min(length, size - inner)
            yield pack, 0 if pack == ZERO_PACK else offset + inner, taken
            start += taken
            length -= taken
            index += 1
