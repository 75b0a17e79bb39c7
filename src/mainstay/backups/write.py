"""Writing a backup: blocks that the backup before has already are referred to, blocks of zeros are nowhere, the rest
goes to packs. The manifest is stored last, so a backup is either complete or not there.

Memory is bounded by the number of workers and of packs on their way, and by the manifests (docs/backup-format.md).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec

from mainstay.backups.blocks import BlockDigests, ExtentsBuilder, StoredFile, block_bytes_for
from mainstay.backups.manifests import Intent, delete_intent, list_backups, list_intents, write_intent, write_manifest
from mainstay.backups.packs import PackUploads, PackWriter
from mainstay.backups.parallel import Progress, Report, run_parallel, workers_default
from mainstay.backups.repository import Repository, check_backup_id
from mainstay.backups.sources import Content, check_path, open_source
from mainstay.backups.streams import ChunkStream, Streaming
from mainstay.model.backup import (
    DIGEST_BYTES,
    DIGEST_KEY_BYTES,
    FORMAT,
    ZERO_PACK,
    BackupDirectory,
    BackupFile,
    BackupHeader,
    BackupSummary,
    Manifest,
    Pack,
    SourceFile,
)
from mainstay.model.errors import Permanent, Transient

SPAN_BYTES = 16 << 20
SPANS_TOGETHER_MAX = 256
SPARSE_PACK_LIVE_FRACTION = 0.3
RESTORED_AGAIN_FRACTION = 0.01
STREAMED_FILE_MODE, STREAMED_DIRECTORY_MODE = 0o660, 0o700

OpenSource = Callable[[SourceFile], Content | None]


class Late(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known only after everything was read, such as the label that the engine gives in the end."""

    sources: tuple[SourceFile, ...] = ()
    attributes: dict[str, str] = {}


class BackupOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to write. `base` is the manifest of an earlier backup of this repository that is not being deleted.

    `late` is called once, after all sources were read and before the manifest is stored. `attributes` are the caller's.
    `streaming`: files that come through a pipe, besides the sources, and are read to its end.
    """

    base: Manifest | None = None
    streaming: Streaming | None = None
    attributes: Mapping[str, str] = {}
    late: Callable[[], Late] | None = None
    digest_key: bytes = b""
    workers: int = 0
    block_bytes: int = 0


class _Part(msgspec.Struct):
    """What became of one span of a file, or of one piece of a stream."""

    extents: ExtentsBuilder
    digests: bytes | bytearray
    length: int


class _File:
    """A file under way: the spans it is read in may be done by several threads, in any order."""

    def __init__(self, source: SourceFile, block_bytes: int, stored: StoredFile | None) -> None:
        self.source = source
        self.block_bytes = stored.file.block_bytes if stored else block_bytes
        self.stored = stored
        self.parts: dict[int, _Part] = {}
        self.vanished = False
        self._joining = threading.Lock()

    def join(self, start: int, part: _Part) -> None:
        """Takes in one of very many parts: where it continues what is behind the first block, they become one."""
        with self._joining:
            self.parts[start] = part
            grown = self.parts.get(self.block_bytes)
            while grown and (following := self.parts.pop(self.block_bytes + grown.length, None)):
                grown.extents.add_all(following.extents)
                grown.digests += following.digests
                grown.length += following.length


class _Span(msgspec.Struct, frozen=True):
    file: _File
    start: int
    length: int


def write_backup(
    repository: Repository,
    backup_id: str,
    sources: Iterable[SourceFile],
    options: BackupOptions = BackupOptions(),  # noqa: B008 - frozen
    *,
    open_content: OpenSource = open_source,
    report: Report | None = None,
    stop: threading.Event | None = None,
) -> BackupSummary:
    """Stores the backup; it exists when this returns and not before. `report(done, total)` counts bytes read.

    A file that vanishes is left out, one that shrinks is as long as what was read, one that grows ends at its size in
    `sources`. Raises `Transient` or `Permanent`; then, as after a kill, only packs are left over, for
    `collect_garbage`.
    """
    check_backup_id(backup_id)
    if backup_id in list_backups(repository):
        raise Permanent(f"there is a backup {backup_id} already")
    writing = _Writing(repository, backup_id, list(sources), options, open_content)
    return writing.run(options.workers or workers_default(), report, stop)


class _Writing:
    def __init__(
        self,
        repository: Repository,
        backup_id: str,
        sources: Sequence[SourceFile],
        options: BackupOptions,
        open_content: OpenSource,
    ) -> None:
        self._repository = repository
        self._backup_id = backup_id
        self._options = options
        self._open_content = open_content
        self._base = options.base
        header = self._base.header if self._base else None
        self._digest_key = (
            header.digest_key if header else options.digest_key or repository.randomness.token_bytes(DIGEST_KEY_BYTES)
        )
        self._digests = BlockDigests(self._digest_key)
        self._base_packs = header.packs if header else ()
        self._sparse = self._sparse_packs()
        self._total = sum(_size(source) for source in sources)
        self._total += options.streaming.size if options.streaming else 0
        self._block_bytes = options.block_bytes or block_bytes_for(self._total)
        self._attributes = dict(options.attributes)
        self._directories: dict[str, BackupDirectory] = {}
        self._files: dict[str, _File] = {}
        self._new = self._add(sources)

    def run(self, workers: int, report: Report | None, stop: threading.Event | None) -> BackupSummary:
        """The whole of it, in the order that `collect.py` relies upon: intent, base checked, packs, manifest."""
        repository, backup_id = self._repository, self._backup_id
        intent = Intent(backup_id, tuple((pack.backup_id, pack.number) for pack in self._base_packs))
        write_intent(repository, intent)
        if self._base and self._base.header.backup_id not in list_backups(repository):
            delete_intent(repository, backup_id)
            raise Transient(f"the backup {self._base.header.backup_id} that {backup_id} builds on is gone")
        uploads = PackUploads(repository, backup_id, len(self._base_packs))
        progress = Progress(self._total, report)
        try:
            writers = [PackWriter(uploads) for _ in range(workers)]
            work = [self._worker(writer, progress) for writer in writers]
            run_parallel(_tasks(self._new), work, stop)
            if self._options.streaming:
                stream = ChunkStream(self._options.streaming.descriptor, self, stop)
                readers = [self._reader(stream, writer, progress) for writer in writers]
                run_parallel(stream.turns(), readers, stop)
            if self._options.late:
                late = self._options.late()
                self._attributes |= late.attributes
                run_parallel(_tasks(self._add(late.sources)), work, stop)
            for writer in writers:
                writer.finish()
            manifest = self._manifest(uploads.finish())
        finally:
            uploads.close()
        if backup_id not in list_intents(repository):
            raise Transient(f"the packs of {backup_id} were collected while it was being written")
        stored = write_manifest(repository, manifest) + uploads.stored_bytes
        delete_intent(repository, backup_id)
        return BackupSummary(
            backup_id=backup_id,
            files=len(manifest.files),
            size=manifest.header.size,
            new=sum(writer.new_bytes for writer in writers),
            stored=stored,
            vanished=len(self._files) - len(manifest.files),
        )

    def _add(self, sources: Sequence[SourceFile]) -> list[_File]:
        """Takes the sources in; the files among them. Raises `Permanent` for an impossible path, or one there twice."""
        base = {file.path: file for file in self._base.files} if self._base else {}
        files = []
        for source in sources:
            check_path(source.path)
            if source.path in self._files or source.path in self._directories:
                raise Permanent(f"the path {source.path} occurs twice in the backup")
            if source.is_directory:
                self._directories[source.path] = BackupDirectory(source.path, source.mode)
                continue
            earlier = base.get(source.path)
            file = _File(source, self._block_bytes, StoredFile(earlier) if earlier and earlier.size else None)
            self._files[source.path] = file
            files.append(file)
        return files

    def begin(self, path: str, *, anew: bool) -> _File:
        """See `streams.Directory`."""
        if anew:
            self.remove(path)
        names = path.split("/")
        for depth in range(1, len(names)):
            parent = "/".join(names[:depth])
            self._directories.setdefault(parent, BackupDirectory(parent, STREAMED_DIRECTORY_MODE))
        [file] = self._add([SourceFile(path=path, mode=STREAMED_FILE_MODE)])
        return file

    def rename(self, path: str, to: str) -> None:
        """See `streams.Directory`."""
        file = self._files.pop(path, None)
        if file is not None:
            check_path(to)
            file.source = msgspec.structs.replace(file.source, path=to)
            self._files[to] = file

    def remove(self, path: str) -> None:
        """See `streams.Directory`. What was stored of it is in the packs, and nobody refers to it."""
        self._files.pop(path, None)

    def _reader(self, stream: ChunkStream[_File], writer: PackWriter, progress: Progress) -> Callable[[None], None]:
        def read(_turn: None) -> None:
            position, view = writer.room()
            piece = stream.next(view)
            if piece is None:
                return
            extents = ExtentsBuilder()
            content = view[: piece.length]
            digests = self._place(piece.file, piece.start, position, content, extents, writer)
            piece.file.join(piece.start, _Part(extents, bytearray(digests), piece.length))
            progress.add(piece.length)

        return read

    def _worker(self, writer: PackWriter, progress: Progress) -> Callable[[list[_Span]], None]:
        def work(spans: list[_Span]) -> None:
            for span in spans:
                content = self._open_content(span.file.source)
                if content is None:
                    span.file.vanished = True
                    continue
                try:
                    span.file.parts[span.start] = self._read(span, content, writer, progress)
                finally:
                    content.close()

        return work

    def _read(self, span: _Span, content: Content, writer: PackWriter, progress: Progress) -> _Part:
        block = span.file.block_bytes
        extents = ExtentsBuilder()
        digests = []
        done = 0
        while done < span.length:
            position, view = writer.room()
            wanted = min(span.length - done, len(view))
            if wanted < span.length - done:
                wanted -= wanted % block  # a block is never cut
            count = content.read_into(view[:wanted], span.start + done)
            if count:
                digests.append(self._place(span.file, span.start + done, position, view[:count], extents, writer))
                done += count
                progress.add(count)
            if count < wanted:
                break
        return _Part(extents, b"".join(digests), done)

    def _place(
        self,
        file: _File,
        start: int,
        position: int,
        view: memoryview,
        extents: ExtentsBuilder,
        writer: PackWriter,
    ) -> bytes:
        """Says where each block of the view is stored, after storing those that are not stored yet. Returns digests."""
        length = len(view)
        digests = self._digests.of(view, file.block_bytes)
        before = file.stored.digests(start, length) if file.stored else b""
        zero = self._digests.zero(file.block_bytes)
        if zero in digests or (before and before != digests):
            runs = _runs(digests, before, zero, file.block_bytes, length)
        else:
            runs = iter([("same" if before else "new", 0, length)])
        for kind, inner, size in runs:
            if kind == "zero" and not any(view[inner : inner + size]):
                extents.add(ZERO_PACK, 0, size)
            elif kind == "same" and file.stored:
                self._refer(file.stored, start + inner, size, position + inner, extents, writer)
            else:
                extents.add(*writer.keep(position + inner, size), size)
        return digests

    def _refer(
        self, stored: StoredFile, start: int, size: int, position: int, extents: ExtentsBuilder, writer: PackWriter
    ) -> None:
        for pack, offset, length in stored.extents(start, size):
            if pack in self._sparse:
                extents.add(*writer.keep(position, length), length)
            else:
                extents.add(pack, offset, length)
            position += length

    def _sparse_packs(self) -> set[int]:
        """Packs of the base of which little is needed any more: it is stored again, so that they can go.

        At most RESTORED_AGAIN_FRACTION of the backup at a time, those that free the most for the least first.
        """
        if self._base is None:
            return set()
        live = dict.fromkeys(range(len(self._base_packs)), 0)
        for file in self._base.files:
            words = memoryview(file.extents).cast("I")
            for index in range(0, len(words), 3):
                if words[index] != ZERO_PACK:
                    live[words[index]] += words[index + 2]
        sizes = [sum(memoryview(pack.raw).cast("I")) for pack in self._base_packs]
        budget = self._base.header.size * RESTORED_AGAIN_FRACTION
        chosen = set()
        for pack in sorted(live, key=lambda pack: live[pack] / sizes[pack]):
            budget -= live[pack]
            if live[pack] > sizes[pack] * SPARSE_PACK_LIVE_FRACTION or budget < 0:
                break
            chosen.add(pack)
        return chosen

    def _manifest(self, new: dict[int, Pack]) -> Manifest:
        whole = [(file, _joined(file)) for file in self._files.values() if not file.vanished]
        packs = dict(enumerate(self._base_packs)) | new
        used: set[int] = set()
        for _, part in whole:
            used |= part.extents.packs()
        renumbered = {index: place for place, index in enumerate(sorted(used))}
        files = tuple(
            BackupFile(
                file.source.path,
                file.source.mode,
                file.source.mtime_ns,
                part.length,
                file.block_bytes,
                part.extents.encoded(renumbered),
                bytes(part.digests),
            )
            for file, part in whole
        )
        header = BackupHeader(
            FORMAT,
            self._backup_id,
            self._attributes,
            self._digest_key,
            len(files),
            sum(file.size for file in files),
            tuple(packs[index] for index in sorted(used)),
            tuple(self._directories.values()),
        )
        return Manifest(header, files)


def _tasks(files: Iterable[_File]) -> Iterator[list[_Span]]:
    """Work for one thread at a time: a span of a large file, or many small files."""
    together: list[_Span] = []
    size = 0
    for file in files:
        total = _size(file.source)
        for start in range(0, max(total, 1), SPAN_BYTES):
            length = min(SPAN_BYTES, total - start)
            together.append(_Span(file, start, length))
            size += length
            if size >= SPAN_BYTES or len(together) >= SPANS_TOGETHER_MAX:
                yield together
                together, size = [], 0
    if together:
        yield together


def _size(source: SourceFile) -> int:
    return source.size if source.content is None else len(source.content)


def _joined(file: _File) -> _Part:
    """The spans in order, up to the first that is shorter than it should be: there the file ended."""
    whole = _Part(ExtentsBuilder(), b"", 0)
    digests = []
    for start in sorted(file.parts):
        if start != whole.length:
            break
        part = file.parts[start]
        whole.extents.add_all(part.extents)
        digests.append(part.digests)
        whole.length += part.length
    whole.digests = b"".join(digests)
    return whole


def _runs(digests: bytes, before: bytes, zero: bytes, block_bytes: int, length: int) -> Iterator[tuple[str, int, int]]:
    """(kind, start, length) of runs of blocks of one kind: "zero", "same" as before, or "new"."""
    kind, begin = "", 0
    for index in range(0, len(digests), DIGEST_BYTES):
        digest = digests[index : index + DIGEST_BYTES]
        if digest == zero:
            this = "zero"
        elif digest == before[index : index + DIGEST_BYTES]:
            this = "same"
        else:
            this = "new"
        if this != kind:
            start = index // DIGEST_BYTES * block_bytes
            if kind:
                yield kind, begin, start - begin
            kind, begin = this, start
    if kind:
        yield kind, begin, length - begin
