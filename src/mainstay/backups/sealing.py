"""Sealed frames: zstd, then AES-256-GCM, tied to the object and to the place in it.

An object is a sequence of frames. A frame is a header of four bytes (big endian: the highest bit says "last frame of
this object", the rest is the length of what follows), a random nonce of 12 bytes, the ciphertext and its tag of 16
bytes. The associated data names the object, the frame's offset in it and the header, so that a frame opens only in
its own place: bits flipped, ends cut off, objects swapped, renamed or made with another key are all found when read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mainstay.model.errors import Permanent

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
HEADER_BYTES = 4
OVERHEAD_BYTES = HEADER_BYTES + NONCE_BYTES + TAG_BYTES
FRAME_RAW_BYTES_MAX = 8 << 20
CHUNK_BYTES = 1 << 20
# On PostgreSQL data level 1 is as small as 3 (433 MB to 445 MB of 1.3 GB) for two thirds of the processor time.
LEVEL_DEFAULT = 1

_LAST = 0x8000_0000
_PURPOSE = b"mainstay backup frame 1\0"


class Damaged(Permanent):
    """A stored object is not what was written. `key` names it, `files` what it holds parts of, if that is known."""

    def __init__(self, key: str, reason: str, *, files: tuple[str, ...] = ()) -> None:
        whose = f" (it holds parts of {', '.join(files[:3])}{' and others' if len(files) > 3 else ''})" if files else ""
        super().__init__(
            f"the object {key} is damaged: {reason}{whose}",
            hint="Put back that object from a copy of the object storage, or use another backup.",
        )
        self.key = key
        self.reason = reason
        self.files = files


class Sealer:
    """Seals and opens frames with one data key. Safe to use from several threads."""

    def __init__(self, data_key: bytes, token_bytes: Callable[[int], bytes], *, level: int = LEVEL_DEFAULT) -> None:
        if len(data_key) != KEY_BYTES:
            raise Permanent(f"a data key has {KEY_BYTES} bytes, not {len(data_key)}")
        self._cipher = AESGCM(data_key)
        self._token_bytes = token_bytes
        self._level = level
        self._local = threading.local()

    def seal_frame(self, key: str, offset: int, raw: bytes | bytearray | memoryview, *, last: bool) -> bytes:
        """The frame for `offset` of the object `key`. At most FRAME_RAW_BYTES_MAX bytes."""
        if len(raw) > FRAME_RAW_BYTES_MAX:
            raise ValueError(f"a frame holds at most {FRAME_RAW_BYTES_MAX} bytes, not {len(raw)}")
        packed = self._compressor().compress(raw)
        length = NONCE_BYTES + len(packed) + TAG_BYTES
        frame = bytearray(HEADER_BYTES + length)
        header = (length | (_LAST if last else 0)).to_bytes(HEADER_BYTES, "big")
        nonce = self._token_bytes(NONCE_BYTES)
        frame[:HEADER_BYTES] = header
        frame[HEADER_BYTES : HEADER_BYTES + NONCE_BYTES] = nonce
        with memoryview(frame) as view:
            self._cipher.encrypt_into(
                nonce, packed, _associated(key, offset, header), view[HEADER_BYTES + NONCE_BYTES :]
            )
        return bytes(frame)

    def open_frame(self, key: str, offset: int, frame: bytes | memoryview) -> tuple[bytes, bool]:
        """What was sealed, and whether it is the object's last frame. Raises `Damaged`."""
        view = memoryview(frame)
        header = bytes(view[:HEADER_BYTES])
        if len(view) < OVERHEAD_BYTES or frame_length(header) != len(view):
            raise Damaged(key, f"the frame at byte {offset} has a wrong length")
        nonce = bytes(view[HEADER_BYTES : HEADER_BYTES + NONCE_BYTES])
        try:
            packed = self._cipher.decrypt(nonce, view[HEADER_BYTES + NONCE_BYTES :], _associated(key, offset, header))
        except InvalidTag:
            raise Damaged(
                key, f"the frame at byte {offset} is altered, from another place, or sealed with another key"
            ) from None
        return self._decompressed(key, packed), bool(header[0] & 0x80)

    def seal(self, key: str, chunks: Iterable[bytes | memoryview]) -> bytes:
        """A whole object of one frame for each chunk (one empty frame if there is none)."""
        frames: list[bytes] = []
        offset = 0
        iterator = iter(chunks)
        chunk = next(iterator, b"")
        while True:
            following = next(iterator, None)
            frames.append(self.seal_frame(key, offset, chunk, last=following is None))
            offset += len(frames[-1])
            if following is None:
                return b"".join(frames)
            chunk = following

    def open(self, key: str, blob: bytes) -> Iterator[bytes]:
        """The chunks of a whole object. Raises `Damaged`, at the latest after the last chunk if the end is missing."""
        view = memoryview(blob)
        offset = 0
        last = False
        while offset < len(view) and not last:
            length = frame_length(bytes(view[offset : offset + HEADER_BYTES]))
            raw, last = self.open_frame(key, offset, view[offset : offset + length])
            yield raw
            offset += length
        if not last or offset != len(view):
            raise Damaged(key, "its end is missing" if not last else "there is more of it than was written")

    def _compressor(self) -> zstandard.ZstdCompressor:
        # A context belongs to one thread at a time, and making one costs more than compressing a small frame.
        compressor: zstandard.ZstdCompressor | None = getattr(self._local, "compressor", None)
        if compressor is None:
            compressor = self._local.compressor = zstandard.ZstdCompressor(level=self._level)
        return compressor

    def _decompressed(self, key: str, packed: bytes) -> bytes:
        decompressor: zstandard.ZstdDecompressor | None = getattr(self._local, "decompressor", None)
        if decompressor is None:
            decompressor = self._local.decompressor = zstandard.ZstdDecompressor()
        try:
            return decompressor.decompress(packed, max_output_size=FRAME_RAW_BYTES_MAX)
        except zstandard.ZstdError as error:  # authentic, so it was a writer of another format
            raise Damaged(key, f"it cannot be decompressed: {error}") from error


def frame_length(header: bytes) -> int:
    """Bytes of the frame that begins with this header, the header included; 0 if the header itself is cut off."""
    if len(header) < HEADER_BYTES:
        return 0
    return HEADER_BYTES + (int.from_bytes(header, "big") & ~_LAST)


def chunked(content: bytes | memoryview, size: int = CHUNK_BYTES) -> Iterator[memoryview]:
    """The content in chunks of `size` bytes, the last one shorter."""
    view = memoryview(content)
    for start in range(0, len(view), size):
        yield view[start : start + size]


def _associated(key: str, offset: int, header: bytes) -> bytes:
    return b"".join((_PURPOSE, key.encode(), b"\0", offset.to_bytes(8, "big"), header))
