"""Packs: objects of some tens of megabytes that hold the content of many blocks, in sealed frames.

The content of a pack is what its frames hold, one after the other: extents count in it. A block is never cut by the
end of a frame.
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate

from mainstay.backups.manifests import pack_name
from mainstay.backups.objects import ObjectNotFound
from mainstay.backups.repository import Repository
from mainstay.backups.sealing import Damaged
from mainstay.model.backup import Pack
from mainstay.model.errors import Transient

FRAME_BYTES = 512 << 10
READ_BYTES = 512 << 10
PACK_STORED_BYTES = 16 << 20
PACK_RAW_BYTES_MAX = 1 << 30
PACK_COUNT_BITS = 20
UPLOADS_AT_ONCE = 2
UPLOADS_WAITING_MAX = 3
FETCH_BYTES_MAX = 4 << 20
FETCH_GAP_BYTES_MAX = 128 << 10
UPLOAD_DEADLINE_S = 900.0


class PackUploads:
    """Numbers the packs of one backup and stores them in the background, a few at a time.

    In the manifest they come after `base` packs of the backup before.
    """

    def __init__(self, repository: Repository, backup_id: str, base: int) -> None:
        self.repository = repository
        self.backup_id = backup_id
        self.stored_bytes = 0
        self._packs: dict[int, Pack] = {}
        # Not from zero: two writers that were given the same id must not write over each other's packs.
        self._first = int.from_bytes(repository.randomness.token_bytes(4), "big") << PACK_COUNT_BITS
        self._base = base
        self._begun = 0
        self._lock = threading.Lock()
        self._room = threading.Semaphore(UPLOADS_WAITING_MAX)
        self._threads = ThreadPoolExecutor(UPLOADS_AT_ONCE, "pack-upload")
        self._pending: list[Future[None]] = []

    def begin(self) -> tuple[int, int]:
        """A new pack: its index in the list of the manifest to be, and its number."""
        with self._lock:
            index = self._base + self._begun
            self._begun += 1
            return index, self._first + index

    def store(self, index: int, number: int, frames: list[bytes], lengths: tuple[array[int], array[int]]) -> None:
        """Stores the pack soon; waits while too many are in memory. Raises what an earlier one failed with."""
        if not self._room.acquire(timeout=UPLOAD_DEADLINE_S):
            raise Transient(f"no pack of {self.backup_id} was stored for {UPLOAD_DEADLINE_S:.0f} s")
        stored, raw = lengths
        pack = Pack(self.backup_id, number, stored.tobytes(), raw.tobytes())
        try:
            with self._lock:
                self._raise_failed()
                self._packs[index] = pack
                self.stored_bytes += sum(stored)
                self._pending.append(self._threads.submit(self._put, number, frames))
        except BaseException:
            self._room.release()  # or the others would wait for this place until their deadline
            raise

    def finish(self) -> dict[int, Pack]:
        """Waits until every pack is stored; the packs by index. Raises what one of them failed with."""
        try:
            for future in self._pending:
                future.result(UPLOAD_DEADLINE_S)
        except TimeoutError:
            raise Transient(f"a pack of {self.backup_id} was not stored in {UPLOAD_DEADLINE_S:.0f} s") from None
        return self._packs

    def close(self) -> None:
        """Gives up what has not begun, waits for what has."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _put(self, number: int, frames: list[bytes]) -> None:
        try:
            key = self.repository.key(pack_name(self.backup_id, number))
            self.repository.objects.put(key, b"".join(frames))
        finally:
            frames.clear()
            self._room.release()

    def _raise_failed(self) -> None:
        while self._pending and self._pending[0].done():
            self._pending.pop(0).result()


class PackWriter:
    """Fills packs from one thread. `room` is where to read into; `keep` says what of it is to be stored.

    A frame is sealed once it has FRAME_BYTES, so its content is at most FRAME_BYTES + READ_BYTES.
    """

    def __init__(self, uploads: PackUploads) -> None:
        self._uploads = uploads
        self._buffer = bytearray(FRAME_BYTES + READ_BYTES)
        self._view = memoryview(self._buffer)
        self._fill = 0
        self.new_bytes = 0
        self._begin()

    def room(self) -> tuple[int, memoryview]:
        """READ_BYTES of unused buffer, and their position, which `keep` wants back."""
        if self._fill >= FRAME_BYTES:
            self._flush()
        return self._fill, self._view[self._fill : self._fill + READ_BYTES]

    def keep(self, position: int, length: int) -> tuple[int, int]:
        """These bytes of the buffer belong to the pack now; where they are: (index of the pack, offset in its content).

        Positions must ascend between two calls of `room`: what lies before is given up.
        """
        if position != self._fill:
            self._view[self._fill : self._fill + length] = self._view[position : position + length]
        offset = self._raw_total + self._fill
        self._fill += length
        self.new_bytes += length
        return self._index, offset

    def finish(self) -> None:
        """Stores what is left."""
        self._flush()
        if self._frames:
            self._store()

    def _begin(self) -> None:
        self._index, self._number = self._uploads.begin()
        self._frames: list[bytes] = []
        self._stored = array("I")
        self._raw = array("I")
        self._stored_total = self._raw_total = 0

    def _flush(self) -> None:
        if not self._fill:
            return
        repository = self._uploads.repository
        key = repository.key(pack_name(self._uploads.backup_id, self._number))
        frame = repository.sealer.seal_frame(key, self._stored_total, self._view[: self._fill], last=False)
        self._frames.append(frame)
        self._stored.append(len(frame))
        self._raw.append(self._fill)
        self._stored_total += len(frame)
        self._raw_total += self._fill
        self._fill = 0
        if self._stored_total >= PACK_STORED_BYTES or self._raw_total >= PACK_RAW_BYTES_MAX:
            self._store()
            self._begin()

    def _store(self) -> None:
        self._uploads.store(self._index, self._number, self._frames, (self._stored, self._raw))


class StoredPack:
    """A pack of a manifest, to read from."""

    def __init__(self, repository: Repository, pack: Pack) -> None:
        self._repository = repository
        self.name = pack_name(pack.backup_id, pack.number)
        self.key = repository.key(self.name)
        self._stored = memoryview(pack.stored).cast("I")
        self._raw = memoryview(pack.raw).cast("I")
        self._stored_ends = list(accumulate(self._stored))
        self.raw_ends = list(accumulate(self._raw))

    def frame_at(self, offset: int) -> int:
        """The frame that holds this byte of the content."""
        return bisect_right(self.raw_ends, offset)

    def frame_start(self, frame: int) -> int:
        """Where in the content the frame begins."""
        return self.raw_ends[frame] - self._raw[frame]

    def frames(
        self, wanted: list[int], damaged: Callable[[Damaged, list[int]], None] | None = None
    ) -> Iterator[tuple[int, bytes]]:
        """The content of these frames (ascending), as (frame, content).

        Damage is raised, or told to `damaged` with the frames concerned, which are then left out.
        """
        for run in self._runs(wanted):
            start = self._stored_ends[run[0]] - self._stored[run[0]]
            length = self._stored_ends[run[-1]] - start
            try:
                blob = memoryview(self._repository.objects.get_range(self.key, start, length))
                if len(blob) != length:
                    raise Damaged(self.key, f"it ends at byte {start + len(blob)}, its end is missing")
            except ObjectNotFound:
                self._tell(Damaged(self.key, "it is missing"), run, damaged)
                continue
            except Damaged as error:
                self._tell(error, run, damaged)
                continue
            for frame in run:
                begin = self._stored_ends[frame] - self._stored[frame]
                try:
                    raw = self._opened(frame, begin, blob[begin - start : self._stored_ends[frame] - start])
                except Damaged as error:
                    self._tell(error, [frame], damaged)
                    continue
                yield frame, raw

    def _opened(self, frame: int, begin: int, blob: memoryview) -> bytes:
        raw, _ = self._repository.sealer.open_frame(self.key, begin, blob)
        if len(raw) != self._raw[frame]:
            raise Damaged(self.key, f"the frame at byte {begin} has {len(raw)} bytes of {self._raw[frame]}")
        return raw

    def _tell(self, error: Damaged, frames: list[int], damaged: Callable[[Damaged, list[int]], None] | None) -> None:
        if damaged is None:
            raise error
        damaged(error, frames)

    def _runs(self, wanted: list[int]) -> Iterator[list[int]]:
        """Frames that are fetched with one request: near each other and not too many bytes together."""
        run: list[int] = []
        for frame in wanted:
            begin = self._stored_ends[frame] - self._stored[frame]
            if run and (
                begin - self._stored_ends[run[-1]] > FETCH_GAP_BYTES_MAX
                or self._stored_ends[frame] - (self._stored_ends[run[0]] - self._stored[run[0]]) > FETCH_BYTES_MAX
            ):
                yield run
                run = []
            run.append(frame)
        if run:
            yield run
