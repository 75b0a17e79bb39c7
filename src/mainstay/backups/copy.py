"""Copying a backup to another repository, that may be in another object storage and has another key.

Everything is read through the same checks as on restore, and stored anew; blocks that an earlier backup there has are
not.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable

from mainstay.backups.blocks import BlockDigests, StoredFile
from mainstay.backups.manifests import read_manifest
from mainstay.backups.packs import StoredPack
from mainstay.backups.parallel import Report
from mainstay.backups.repository import Repository
from mainstay.backups.sealing import Damaged
from mainstay.backups.write import BackupOptions, write_backup
from mainstay.model.backup import ZERO_PACK, BackupSummary, Manifest, SourceFile

AHEAD_BYTES = 4 << 20
FRAMES_KEPT = 24


def copy_backup(
    source: Repository,
    backup_id: str,
    target: Repository,
    target_id: str,
    *,
    base_id: str = "",
    report: Report | None = None,
    stop: threading.Event | None = None,
) -> BackupSummary:
    """Makes `target_id` in `target` the same backup as `backup_id` in `source`; `base_id` is an earlier one there.

    Raises as `read_manifest` and `write_backup`, and `Damaged` when a part of the source is not what was written.
    """
    manifest = read_manifest(source, backup_id)
    options = BackupOptions(
        base=read_manifest(target, base_id) if base_id else None,
        attributes=manifest.header.attributes,
        digest_key=manifest.header.digest_key,
        block_bytes=max((file.block_bytes for file in manifest.files), default=0),
    )
    contents = _Contents(source, manifest)
    sources = _sources(manifest)
    return write_backup(target, target_id, sources, options, open_content=contents.open, report=report, stop=stop)


def _sources(manifest: Manifest) -> Iterable[SourceFile]:
    for directory in manifest.header.directories:
        yield SourceFile(path=directory.path, mode=directory.mode, is_directory=True)
    for file in manifest.files:
        yield SourceFile(path=file.path, mode=file.mode, mtime_ns=file.mtime_ns, size=file.size)


class _Contents:
    """Opens files of a stored backup as sources of another. Each thread keeps the frames that it opened last."""

    def __init__(self, repository: Repository, manifest: Manifest) -> None:
        self.digests = BlockDigests(manifest.header.digest_key)
        self._packs = [StoredPack(repository, pack) for pack in manifest.header.packs]
        self._files = {file.path: StoredFile(file) for file in manifest.files}
        self._local = threading.local()

    def open(self, source: SourceFile) -> _Content:
        return _Content(self, self._files[source.path])

    def copy_into(self, view: memoryview, pack: int, offset: int, ahead: list[tuple[int, int, int]]) -> None:
        """Fills the view from the content of a pack. `ahead` are extents that will be wanted soon."""
        stored = self._packs[pack]
        done = 0
        while done < len(view):
            frame = stored.frame_at(offset + done)
            raw = self._frame(pack, frame, ahead)
            inner = offset + done - stored.frame_start(frame)
            part = memoryview(raw)[inner : inner + len(view) - done]
            view[done : done + len(part)] = part
            done += len(part)

    def _frame(self, pack: int, frame: int, ahead: list[tuple[int, int, int]]) -> bytes:
        kept: OrderedDict[tuple[int, int], bytes] | None = getattr(self._local, "kept", None)
        if kept is None:
            kept = self._local.kept = OrderedDict()
        if (pack, frame) not in kept:
            stored = self._packs[pack]
            soon: set[int] = set()
            for other, offset, length in ahead:
                if other == pack:
                    soon |= set(range(stored.frame_at(offset), stored.frame_at(offset + length - 1) + 1))
            soon = {number for number in soon if number != frame and (pack, number) not in kept}
            for number, raw in stored.frames(sorted([frame, *sorted(soon)[: FRAMES_KEPT - 1]])):
                kept[pack, number] = raw
            while len(kept) > 2 * FRAMES_KEPT:
                kept.popitem(last=False)
        kept.move_to_end((pack, frame))
        return kept[pack, frame]


class _Content:
    def __init__(self, contents: _Contents, stored: StoredFile) -> None:
        self._contents = contents
        self._stored = stored

    def read_into(self, view: memoryview, offset: int) -> int:
        """See `Content`. What it gives has the digests of the manifest."""
        file = self._stored.file
        length = min(len(view), file.size - offset)
        if length <= 0:
            return 0
        ahead = list(self._stored.extents(offset, min(AHEAD_BYTES, file.size - offset)))
        done = 0
        for pack, place, size in self._stored.extents(offset, length):
            if pack == ZERO_PACK:
                view[done : done + size] = bytes(size)
            else:
                self._contents.copy_into(view[done : done + size], pack, place, ahead)
            done += size
        if self._contents.digests.of(view[:length], file.block_bytes) != self._stored.digests(offset, length):
            raise Damaged(file.path, "its packs hold other content than its manifest says", files=(file.path,))
        return length

    def close(self) -> None:
        pass
