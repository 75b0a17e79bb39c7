"""Ships the log of one running primary into its repository, as it grows.

Guarantees: what `status.latest_restorable_at` promises is stored; the engine keeps what is not; a part that was lost is
told as a gap, never passed over. Safe to repeat after a kill at any moment: where it was is read from the repository.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from mainstay.backups.log_archive import LogArchive, Segment
from mainstay.engines.backups import EngineBackups, LogLook, LogPiece, LogPlace, LogSource
from mainstay.host.clock import Clock
from mainstay.model.errors import MainstayError, Transient
from mainstay.model.node import ArchiveStatus

BUSY_INTERVAL_S = 1.0
IDLE_INTERVAL_S = 2.0
RETRY_S = (1.0, 2.0, 5.0, 10.0)
BACKLOG_BYTES_MAX = 4 << 30
FREE_PERCENT_MIN = 10
PIECES_MAX = 64
"""A quiet database fills a segment over days, in pieces of a few hundred bytes."""

log = structlog.get_logger()


class Archiver:
    """One primary's log. `changed` is called when `status` has changed."""

    def __init__(
        self,
        name: str,
        source: LogSource,
        open_archive: Callable[[], LogArchive],
        backups: EngineBackups,
        volume: Path,
        clock: Clock,
        changed: Callable[[], None],
    ) -> None:
        self.status = ArchiveStatus()
        self._name = name
        self._source = source
        self._open_archive = open_archive
        self._backups = backups
        self._volume = volume
        self._clock = clock
        self._changed = changed
        self._after: LogPlace | None = None
        self._small: set[str] = set()
        self._pieces = 0
        self._poke = asyncio.Event()
        self._last_asked = False
        self._ended = asyncio.Event()

    async def finish(self) -> None:
        """Returns when everything is stored that is durable now, and ships nothing more. The caller sets a deadline."""
        self._last_asked = True
        self._poke.set()
        await self._ended.wait()

    async def run(self) -> None:
        """Until cancelled or finished."""
        failures = 0
        begun = False
        # An object storage that cannot be reached, or is badly set up, is told; the database runs all the same.
        try:
            while True:
                self._poke.clear()
                last = self._last_asked
                try:
                    if not begun:
                        self._after = await asyncio.to_thread(self._last_place)
                        if self._after is not None:
                            await self._source.resume(self._archive, self._after)
                        begun = True
                    pause_s = await self._ship()
                    failures = 0
                    if last:
                        return
                except (MainstayError, OSError) as error:
                    pause_s = RETRY_S[min(failures, len(RETRY_S) - 1)]
                    failures += 1
                    self._failed(error)
                try:
                    async with asyncio.timeout(pause_s):
                        await self._poke.wait()
                except TimeoutError:
                    continue
        finally:
            self._ended.set()
            await self._source.close()

    def _last_place(self) -> LogPlace | None:
        """Where the repository's log ends: the newest segment of the newest timeline."""
        self._archive = self._open_archive()
        stored = self._archive.segments()
        if not stored:
            return None
        newest = stored[-1]
        offset = self._backups.segment_bytes if newest.whole else newest.end
        return LogPlace(timeline=newest.segment.timeline, segment=newest.segment.name, offset=offset)

    async def _ship(self) -> float:
        look = await self._source.look(self._after)
        if look.missing:
            await self._gap(f"the engine has not got {look.missing} any more")
            return 0.0
        if look.unshipped_bytes > BACKLOG_BYTES_MAX and self._full():
            await self._source.give_up()
            await self._gap("the disk was filling up with log that could not be stored")
            return 0.0
        for name, path in look.small_files:
            if name not in self._small:
                await asyncio.to_thread(lambda: self._archive.put_small(name, path.read_bytes()))  # noqa: B023 - awaited
                self._small.add(name)
        for piece in look.pieces:
            await asyncio.to_thread(self._store, piece)
            self._after = piece.place
        if look.pieces and self._after is not None:
            await self._source.release(self._after)
        self._promise(look)
        return BUSY_INTERVAL_S if look.moment else IDLE_INTERVAL_S

    def _store(self, piece: LogPiece) -> None:
        """A segment that has ended is stored whole, in the place of its pieces; many small pieces become one."""
        segment = Segment(piece.timeline, self._backups.index_of(piece.segment), piece.segment)
        self._pieces = 0 if piece.start == 0 else self._pieces + 1
        merged = piece.last or self._pieces >= PIECES_MAX
        begin = 0 if merged else piece.start
        data = read_range(piece.path, piece.skipped + begin, piece.skipped + piece.end)
        if piece.last:
            self._archive.complete(segment, data)
        else:
            self._archive.append_piece(segment, begin, data)
            if merged:
                self._archive.delete_covered(segment)
                self._pieces = 0

    def _promise(self, look: LogLook) -> None:
        before = self.status
        latest = float(int(look.moment)) or before.latest_restorable_at
        self.status = msgspec.structs.replace(
            before, latest_restorable_at=latest, timeline=look.timeline, position=look.position, failure=""
        )
        if self.status != before:
            self._changed()

    async def _gap(self, reason: str) -> None:
        log.error("archive.gap", node_id=self._name, reason=reason)
        self._after = None
        self.status = msgspec.structs.replace(self.status, gap_at=self._clock.wall(), failure=reason)
        self._changed()

    def _failed(self, error: MainstayError | OSError) -> None:
        message = error.message if isinstance(error, MainstayError) else str(error)
        log.warning("archive.not_shipped", node_id=self._name, error=message)
        if self.status.failure != message:
            self.status = msgspec.structs.replace(self.status, failure=message)
            self._changed()

    def _full(self) -> bool:
        usage = os.statvfs(self._volume)
        return usage.f_bavail * 100 < usage.f_blocks * FREE_PERCENT_MIN


def read_range(path: Path, begin: int, end: int) -> bytes:
    """These bytes of the file. Raises `Transient` if it has fewer: it was renamed away in this moment."""
    with path.open("rb") as file:
        file.seek(begin)
        data = file.read(end - begin)
    if len(data) != end - begin:
        raise Transient(f"{path} is shorter than it should be")
    return data
