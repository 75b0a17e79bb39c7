"""What a backup holds, in the order of its packs, so that every frame is fetched and opened once. Checks everything."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import msgspec

from mainstay.backups.blocks import BlockDigests
from mainstay.backups.manifests import MANIFESTS, read_manifest
from mainstay.backups.objects import ObjectNotFound
from mainstay.backups.packs import StoredPack
from mainstay.backups.parallel import Progress, Report, run_parallel, workers_default
from mainstay.backups.repository import Repository
from mainstay.backups.sealing import Damaged
from mainstay.model.backup import DIGEST_BYTES, ZERO_PACK, BackupFile, Manifest

FILES_NAMED_MAX = 20


class Piece(msgspec.Struct, frozen=True):
    """Bytes in the content of a pack, and the place they have in a file (by index)."""

    offset: int
    length: int
    file: int
    file_offset: int


def pieces_by_pack(manifest: Manifest) -> list[list[Piece]]:
    """For each pack of the manifest what is needed of it."""
    pieces: list[list[Piece]] = [[] for _ in manifest.header.packs]
    for number, file in enumerate(manifest.files):
        words = memoryview(file.extents).cast("I")
        place = 0
        for index in range(0, len(words), 3):
            pack, offset, length = words[index : index + 3]
            if pack != ZERO_PACK:
                pieces[pack].append(Piece(offset, length, number, place))
            place += length
    return pieces


Seen = set[int]
"""Fingerprints of what was found to be right, of several manifests of one repository: 64 bits each."""


class PackReader:
    """Reads what a manifest needs of its packs."""

    def __init__(self, repository: Repository, manifest: Manifest) -> None:
        self._repository = repository
        self._manifest = manifest
        self._digests = BlockDigests(manifest.header.digest_key)

    def contents(
        self,
        pack: int,
        pieces: list[Piece],
        damaged: Callable[[Damaged], None] | None = None,
        seen: Seen | None = None,
    ) -> Iterator[tuple[int, int, memoryview]]:
        """(file, offset in it, content) for each of the pieces, cut at frames. What is yielded is right.

        Damage is raised, or told to `damaged` and left out. What was `seen` is left out too, and what is right is seen.
        """
        stored = StoredPack(self._repository, self._manifest.header.packs[pack])
        wanted: dict[int, list[Piece]] = {}
        for piece in pieces:
            for frame, part in _cut_at_frames(stored, piece):
                if seen is None or self._fingerprint(pack, part) not in seen:
                    wanted.setdefault(frame, []).append(part)

        def tell(error: Damaged, frames: list[int]) -> None:
            named = Damaged(error.key, error.reason, files=self._files(wanted, frames))
            if damaged is None:
                raise named from error
            damaged(named)

        for frame, raw in stored.frames(sorted(wanted), tell):
            view = memoryview(raw)
            start = stored.frame_start(frame)
            for part in wanted[frame]:
                content = view[part.offset - start : part.offset - start + part.length]
                if self._is_right(part, content):
                    if seen is not None:
                        seen.add(self._fingerprint(pack, part))
                    yield part.file, part.file_offset, content
                else:
                    tell(Damaged(stored.key, "it holds other content than the manifest says"), [frame])

    def _is_right(self, part: Piece, content: memoryview) -> bool:
        digests = self._digests.of(content, self._manifest.files[part.file].block_bytes)
        return self._expected(part) == digests

    def _expected(self, part: Piece) -> bytes:
        file = self._manifest.files[part.file]
        first = part.file_offset // file.block_bytes
        blocks = (part.length + file.block_bytes - 1) // file.block_bytes
        return file.digests[first * DIGEST_BYTES : (first + blocks) * DIGEST_BYTES]

    def _fingerprint(self, pack: int, part: Piece) -> int:
        """Of a place in a pack and what must be there: where two manifests agree on both, one look serves both."""
        header = self._manifest.header
        place = (header.packs[pack].backup_id, header.packs[pack].number, part.offset, part.length)
        block_bytes = self._manifest.files[part.file].block_bytes
        return hash((*place, block_bytes, header.digest_key, self._expected(part)))

    def _files(self, wanted: dict[int, list[Piece]], frames: list[int]) -> tuple[str, ...]:
        numbers = {part.file for frame in frames for part in wanted[frame]}
        return tuple(sorted(self._manifest.files[number].path for number in numbers)[:FILES_NAMED_MAX])


def _cut_at_frames(stored: StoredPack, piece: Piece) -> Iterator[tuple[int, Piece]]:
    done = 0
    frame = stored.frame_at(piece.offset)
    while done < piece.length:
        taken = min(piece.length - done, stored.raw_ends[frame] - piece.offset - done)
        yield frame, Piece(piece.offset + done, taken, piece.file, piece.file_offset + done)
        done += taken
        frame += 1


def stored_bytes(files: tuple[BackupFile, ...]) -> int:
    """How much of the files is in packs: all but the zeros."""
    total = 0
    for file in files:
        words = memoryview(file.extents).cast("I")
        total += sum(words[i + 2] for i in range(0, len(words), 3) if words[i] != ZERO_PACK)
    return total


def verify_backup(
    repository: Repository,
    backup_id: str,
    *,
    workers: int = 0,
    report: Report | None = None,
    stop: threading.Event | None = None,
    seen: Seen | None = None,
) -> list[Damaged]:
    """Reads everything of the backup back; what is wrong with it, nothing if it can be restored.

    What earlier calls with the same `seen` found to be right is not read again.
    """
    try:
        manifest = read_manifest(repository, backup_id)
    except Damaged as error:
        return [error]
    except ObjectNotFound:
        return [Damaged(repository.key(MANIFESTS + backup_id), "it is missing")]
    reader = PackReader(repository, manifest)
    progress = Progress(stored_bytes(manifest.files), report)
    found: list[Damaged] = []

    def work(task: tuple[int, list[Piece]]) -> None:
        read = 0
        for _, _, content in reader.contents(*task, found.append, seen):
            read += len(content)
            progress.add(len(content))
        progress.add(sum(piece.length for piece in task[1]) - read)

    tasks = enumerate(pieces_by_pack(manifest))
    run_parallel(tasks, [work] * (workers or workers_default()), stop)
    return sorted(found, key=lambda error: (error.key, error.reason))
