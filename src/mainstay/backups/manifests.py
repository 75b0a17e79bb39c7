"""Manifests: a backup exists from when its manifest is stored, until its manifest is deleted.

Before a writer refers to anything it stores an *intent*, so that nobody collects what it builds on (`collect.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from mainstay.backups.objects import ObjectNotFound
from mainstay.backups.repository import Repository, check_backup_id
from mainstay.backups.sealing import CHUNK_BYTES, HEADER_BYTES, Damaged, frame_length
from mainstay.model.backup import DIGEST_BYTES, FORMAT, ZERO_PACK, BackupFile, BackupHeader, Manifest, Pack
from mainstay.model.errors import Permanent

MANIFESTS = "manifests/"
WRITING = "writing/"
PACKS = "packs/"
LENGTH_BYTES = 8
GROUP_BYTES = 1 << 20
GROUP_FILES_MAX = 1000
GUESS_BYTES = 64 << 10


class Intent(msgspec.Struct, frozen=True, array_like=True):
    """That a backup is being written, and which packs of other backups it may refer to: (backup id, number)."""

    backup_id: str
    packs: tuple[tuple[str, int], ...]


def pack_name(backup_id: str, number: int) -> str:
    """Name of a pack within the repository."""
    return f"{PACKS}{backup_id}/{number:013x}"


def list_backups(repository: Repository) -> list[str]:
    """Ids of the complete backups, sorted."""
    return _names(repository, MANIFESTS)


def list_intents(repository: Repository) -> list[str]:
    """Ids of the backups that are being written, or whose writer died."""
    return _names(repository, WRITING)


def write_manifest(repository: Repository, manifest: Manifest) -> int:
    """Stores it; from then on the backup exists. Returns its size in bytes."""
    key = repository.key(MANIFESTS + manifest.header.backup_id)
    blob = repository.sealer.seal(key, _chunks(manifest))
    repository.objects.put(key, blob)
    return len(blob)


def read_manifest(repository: Repository, backup_id: str) -> Manifest:
    """The manifest, checked. Raises `ObjectNotFound`, or `Damaged` naming it."""
    check_backup_id(backup_id)
    key = repository.key(MANIFESTS + backup_id)
    content = b"".join(repository.sealer.open(key, repository.objects.get(key)))
    records = _records(content)
    try:
        header = _header(key, backup_id, next(records, b""))
        files: list[BackupFile] = []
        for record in records:
            files += msgspec.msgpack.decode(record, type=list[BackupFile])
    except msgspec.DecodeError as error:
        raise Damaged(key, f"it is no manifest: {error}") from error
    manifest = Manifest(header, tuple(files))
    _check(key, manifest)
    return manifest


def read_header(repository: Repository, backup_id: str) -> BackupHeader:
    """Everything but the files, without reading them. Raises as `read_manifest`."""
    check_backup_id(backup_id)
    key = repository.key(MANIFESTS + backup_id)
    content = bytearray()
    for raw in _frames(repository, key):
        content += raw
        length = int.from_bytes(content[:LENGTH_BYTES], "big")
        if len(content) >= LENGTH_BYTES + length:
            return _header(key, backup_id, bytes(content[LENGTH_BYTES : LENGTH_BYTES + length]))
    raise Damaged(key, "its end is missing")


def _frames(repository: Repository, key: str) -> Iterator[bytes]:
    """The frames of an object, fetched one by one."""
    offset, last = 0, False
    while not last:
        start = repository.objects.get_range(key, offset, GUESS_BYTES)
        length = frame_length(start[:HEADER_BYTES])
        if length > len(start):
            start = repository.objects.get_range(key, offset, length)
        raw, last = repository.sealer.open_frame(key, offset, start[:length])
        yield raw
        offset += length


def write_intent(repository: Repository, intent: Intent) -> None:
    """To be stored before anything of the backup is, and before its base is relied upon."""
    key = repository.key(WRITING + intent.backup_id)
    repository.objects.put(key, repository.sealer.seal(key, [msgspec.msgpack.encode(intent)]))


def read_intent(repository: Repository, backup_id: str) -> Intent | None:
    """The intent, None if it is gone meanwhile."""
    key = repository.key(WRITING + backup_id)
    try:
        blob = repository.objects.get(key)
    except ObjectNotFound:
        return None
    try:
        return msgspec.msgpack.decode(b"".join(repository.sealer.open(key, blob)), type=Intent)
    except msgspec.DecodeError as error:
        raise Damaged(key, f"it is no intent: {error}") from error


def delete_intent(repository: Repository, backup_id: str) -> None:
    """The backup is complete, or will never be."""
    repository.objects.delete([repository.key(WRITING + backup_id)])


def _names(repository: Repository, directory: str) -> list[str]:
    prefix = repository.key(directory)
    return [key.removeprefix(prefix) for key, _ in repository.objects.list(prefix)]


def _chunks(manifest: Manifest) -> Iterator[bytes]:
    """The records, each after its length, cut into frames."""
    pending = bytearray()
    for record in _encoded(manifest):
        pending += len(record).to_bytes(LENGTH_BYTES, "big") + record
        while len(pending) >= CHUNK_BYTES:
            yield bytes(pending[:CHUNK_BYTES])
            del pending[:CHUNK_BYTES]
    if pending:
        yield bytes(pending)


def _encoded(manifest: Manifest) -> Iterator[bytes]:
    yield msgspec.msgpack.encode(manifest.header)
    group: list[BackupFile] = []
    size = 0
    for file in manifest.files:
        group.append(file)
        size += len(file.extents) + len(file.digests)
        if size >= GROUP_BYTES or len(group) >= GROUP_FILES_MAX:
            yield msgspec.msgpack.encode(group)
            group, size = [], 0
    if group:
        yield msgspec.msgpack.encode(group)


def _records(content: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(content):
        end = start + LENGTH_BYTES + int.from_bytes(content[start : start + LENGTH_BYTES], "big")
        yield content[start + LENGTH_BYTES : end]
        start = end


def _header(key: str, backup_id: str, raw: bytes) -> BackupHeader:
    try:
        header = msgspec.msgpack.decode(raw, type=BackupHeader)
    except msgspec.DecodeError as error:
        raise Damaged(key, f"it is no manifest: {error}") from error
    if header.format != FORMAT:
        raise Permanent(f"{key} has format {header.format}; this version of Mainstay reads format {FORMAT}")
    if header.backup_id != backup_id:
        raise Damaged(key, f"it is the manifest of {header.backup_id}")
    return header


def _check(key: str, manifest: Manifest) -> None:
    """What the writer guarantees; a manifest that breaks it was written by a program in error, not by chance."""
    if len(manifest.files) != manifest.header.file_count:
        raise Damaged(key, f"it has {len(manifest.files)} files of {manifest.header.file_count}")
    try:
        _check_files(key, manifest)
    except (TypeError, ValueError) as error:
        raise Damaged(key, f"it contradicts itself: {error}") from error


def _check_files(key: str, manifest: Manifest) -> None:
    limits = _raw_sizes(manifest.header.packs)
    for file in manifest.files:
        words = memoryview(file.extents).cast("I")
        blocks = -(-file.size // file.block_bytes) if file.block_bytes else -1
        if sum(words[2::3]) != file.size or len(file.digests) != blocks * DIGEST_BYTES:
            raise Damaged(key, f"the entry of {file.path} contradicts itself")
        for pack, offset, length in zip(words[0::3], words[1::3], words[2::3], strict=True):
            if pack != ZERO_PACK and not (pack < len(limits) and offset + length <= limits[pack]):
                raise Damaged(key, f"the entry of {file.path} points to nowhere")


def _raw_sizes(packs: Iterable[Pack]) -> list[int]:
    return [sum(memoryview(pack.raw).cast("I")) for pack in packs]
