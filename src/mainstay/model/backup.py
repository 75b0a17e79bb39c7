"""What a backup consists of. docs/backup-format.md is the same in words; change both, or neither.

The records are arrays on disk (msgpack), so the order of fields is part of the format: append, never reorder.
"""

from __future__ import annotations

import msgspec

FORMAT = 1


class SourceFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One file or directory to back up. `path` is where a restore puts it, relative; `mode` has permission bits only.

    A file is read from `origin` (absolute), at most `size` bytes of it, or is `content` itself.
    """

    path: str
    mode: int
    mtime_ns: int = 0
    size: int = 0
    origin: str = ""
    content: bytes | None = None
    is_directory: bool = False


class Pack(msgspec.Struct, frozen=True, array_like=True):
    """One pack object: the backup that wrote it, its number there, and the lengths of its frames.

    `stored` and `raw` are little-endian unsigned 32-bit numbers, one a frame: bytes in the object, bytes of content.
    """

    backup_id: str
    number: int
    stored: bytes
    raw: bytes


class BackupFile(msgspec.Struct, frozen=True, array_like=True):
    """One file. `extents` says where its content is, `digests` what each of its blocks hashes to.

    An extent is three little-endian unsigned 32-bit numbers: index in `packs` (ZERO_PACK: zero bytes, stored nowhere),
    offset in that pack's content, length. A digest has DIGEST_BYTES bytes.
    """

    path: str
    mode: int
    mtime_ns: int
    size: int
    block_bytes: int
    extents: bytes
    digests: bytes


class BackupDirectory(msgspec.Struct, frozen=True, array_like=True):
    """One directory; parents come before their children."""

    path: str
    mode: int


class BackupHeader(msgspec.Struct, frozen=True, array_like=True):
    """The first frame of a manifest: everything but the files."""

    format: int
    backup_id: str
    attributes: dict[str, str]
    digest_key: bytes
    file_count: int
    size: int
    packs: tuple[Pack, ...]
    directories: tuple[BackupDirectory, ...]


class Manifest(msgspec.Struct, frozen=True):
    """A whole backup: nothing else is needed to restore it but the packs it names."""

    header: BackupHeader
    files: tuple[BackupFile, ...]


class BackupSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What writing a backup came to, in bytes: `new` is content that was stored now, `stored` what that came to."""

    backup_id: str
    files: int
    size: int
    new: int
    stored: int
    vanished: int = 0


ZERO_PACK = 0xFFFF_FFFF
DIGEST_BYTES = 8
DIGEST_KEY_BYTES = 32
