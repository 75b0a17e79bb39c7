"""The archive of an engine's log: segments that are sent piece by piece while they grow, then once as a whole.

Engine-neutral: a segment is an opaque name with an index that orders it within its timeline. Everything may be
repeated: the same piece twice, a piece that overlaps another, a whole after which the writer died before it removed
the pieces. A reader may run beside the writer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

import msgspec

from mainstay.backups.objects import ObjectNotFound
from mainstay.backups.repository import Repository
from mainstay.backups.sealing import Damaged, chunked
from mainstay.model.errors import Permanent, Transient

LOG = "log/"
SMALL = "log-small/"
WHOLE = ".whole"
SEGMENT_BYTES_MAX = 1 << 30
SMALL_BYTES_MAX = 16 << 20
INDEX_MAX = (1 << 63) - 1
READ_TRIES = 5

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", re.ASCII)
_PIECE = re.compile(r"([0-9a-f]{10})-([0-9a-f]{10})")
_SEGMENT = re.compile(r"([0-9a-f]{16})\.(.+)")


class Segment(msgspec.Struct, frozen=True, order=True):
    """One segment of the log. Within a timeline they are ordered by index, without holes."""

    timeline: str
    index: int
    name: str


class StoredSegment(msgspec.Struct, frozen=True):
    """What the archive has of a segment. `end`: bytes from its start that can be read; 0 if its beginning is missing.

    Of a whole segment the length is not known without reading it: -1.
    """

    segment: Segment
    whole: bool
    end: int
    stored: int


class LogArchive:
    """The log of one repository."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._objects = repository.objects

    def append_piece(self, segment: Segment, start: int, data: bytes) -> None:
        """Stores the bytes of the segment from `start` on: durable when this returns. Pieces may repeat and overlap."""
        end = start + len(data)
        if not (0 <= start < end <= SEGMENT_BYTES_MAX):
            raise Permanent(f"a piece of {segment.name} from {start} to {end} is impossible")
        self._put(f"{self._directory(segment)}/{start:010x}-{end:010x}", data)

    def complete(self, segment: Segment, data: bytes | memoryview) -> None:
        """Stores the whole segment as one object, then removes its pieces."""
        if len(data) > SEGMENT_BYTES_MAX:
            raise Permanent(f"the log segment {segment.name} has {len(data)} bytes; {SEGMENT_BYTES_MAX} are possible")
        self._put(self._directory(segment) + WHOLE, data)
        self._objects.delete([key for key, _ in self._pieces(segment)])

    def delete_covered(self, segment: Segment) -> None:
        """Removes pieces that others cover, so that a segment that grows slowly is not thousands of them."""
        pieces = {_bounds(key.rpartition("/")[2]): key for key, _ in self._pieces(segment)}
        needed, _end = _chain(pieces)
        reach = needed[-1][1] if needed else 0
        doomed = [key for bounds, key in pieces.items() if bounds not in needed and bounds[1] <= reach]
        self._objects.delete(doomed)

    def pieces(self, segment: Segment) -> int:
        """In how many the segment is stored."""
        return len(self._pieces(segment))

    def put_small(self, name: str, data: bytes) -> None:
        """Stores a small file that belongs to the log, such as the history of a timeline."""
        _check(name)
        if len(data) > SMALL_BYTES_MAX:
            raise Permanent(f"{name} has {len(data)} bytes; {SMALL_BYTES_MAX} are possible")
        self._put(self._repository.key(SMALL + name), data)

    def read_small(self, name: str) -> bytes | None:
        """That file; None if there is none. Raises `Damaged`."""
        _check(name)
        return self._get(self._repository.key(SMALL + name))

    def list_small(self) -> list[str]:
        """Names of those files."""
        prefix = self._repository.key(SMALL)
        return [key.removeprefix(prefix) for key, _ in self._objects.list(prefix)]

    def read_segment(self, segment: Segment) -> bytes | None:
        """The segment as far as it is archived; None if nothing of it is.

        Raises `Damaged` naming segment and object when there is a gap in it or something is altered.
        """
        for _ in range(READ_TRIES):
            whole = self._get(self._directory(segment) + WHOLE)
            if whole is not None:
                return whole
            pieces = self._pieces(segment)
            gap: Damaged | None = None
            try:
                if pieces:
                    return self._joined(segment, pieces)
            except ObjectNotFound:
                continue  # the writer has just made them a whole, or they are being deleted
            except Damaged as error:
                gap = error
            # Between our two looks the writer may have put the whole, and have removed some or all of the pieces.
            whole = self._get(self._directory(segment) + WHOLE)
            if whole is None and gap is not None:
                raise gap
            return whole
        raise Transient(f"the log segment {segment.name} changes too fast to be read")

    def segments(self, timeline: str | None = None) -> list[StoredSegment]:
        """What there is, in the order of timelines (by name) and indexes.

        Of a segment that is being made whole meanwhile, the pieces that are just being removed may be missing here.
        """
        if timeline is not None:
            _check(timeline)
        prefix = self._repository.key(LOG)
        found: dict[Segment, list[tuple[int, int, int]]] = {}
        wholes: dict[Segment, int] = {}
        for key, size in self._objects.list(prefix + (f"{timeline}/" if timeline else "")):
            names = key.removeprefix(prefix).split("/")
            segment = _segment(names[0], names[1].removesuffix(WHOLE) if len(names) == 2 else names[1])
            if len(names) == 2:
                wholes[segment] = size
            else:
                found.setdefault(segment, []).append((*_bounds(names[2]), size))
        stored = [StoredSegment(segment, True, -1, size) for segment, size in wholes.items()]
        for segment, pieces in found.items():
            if segment not in wholes:
                end = _chain([(start, end) for start, end, _ in pieces])[1]
                stored.append(StoredSegment(segment, False, end, sum(size for *_, size in pieces)))
        return sorted(stored, key=lambda one: one.segment)

    def first_missing(self, first: Segment, last: Segment, name_of: Callable[[int], str]) -> Segment | None:
        """The first segment from `first` to `last` (of one timeline) that a replay would miss; None if it has them all.

        All but the last must be whole; `last` may still be in pieces, from its beginning on and without a gap.
        """
        if first.timeline != last.timeline or first.index > last.index:
            raise Permanent(f"{first.name} to {last.name} is no part of one timeline of the log")
        present = {one.segment.index: one for one in self.segments(first.timeline)}
        for index in range(first.index, last.index + 1):
            one = present.get(index)
            if one is None or not (one.whole or (index == last.index and one.end)):
                missing = Segment(first.timeline, index, name_of(index))
                if not self._has_whole(missing):
                    return missing
        return None

    def delete_segments(self, is_needed: Callable[[Segment], bool]) -> int:
        """Removes every segment that is not needed, and pieces of those that are whole; how many segments went."""
        prefix = self._repository.key(LOG)
        wholes: set[Segment] = set()
        pieces: dict[Segment, list[str]] = {}
        for key, _ in self._objects.list(prefix):
            names = key.removeprefix(prefix).split("/")
            if len(names) == 2:
                wholes.add(_segment(names[0], names[1].removesuffix(WHOLE)))
            else:
                pieces.setdefault(_segment(names[0], names[1]), []).append(key)
        gone = sorted(segment for segment in wholes | pieces.keys() if not is_needed(segment))
        # Oldest first, and the whole after its pieces: after a kill what remains is still without a hole.
        doomed = [key for segment in sorted(wholes & pieces.keys()) for key in pieces.pop(segment)]
        for segment in gone:
            doomed += pieces.get(segment, [])
            doomed += [self._directory(segment) + WHOLE] if segment in wholes else []
        self._objects.delete(doomed)
        return len(gone)

    def delete_older(self, timeline: str, index: int) -> int:
        """Removes the segments of the timeline below that index; how many."""
        return self.delete_segments(lambda segment: segment.timeline != timeline or segment.index >= index)

    def _directory(self, segment: Segment) -> str:
        _check(segment.timeline)
        _check(segment.name)
        if segment.name.endswith(WHOLE) or not 0 <= segment.index <= INDEX_MAX:
            raise Permanent(f"{segment.name!r} cannot be a log segment")
        return self._repository.key(place_of(segment))

    def _has_whole(self, segment: Segment) -> bool:
        try:
            self._objects.size(self._directory(segment) + WHOLE)
        except ObjectNotFound:
            return False
        return True

    def _pieces(self, segment: Segment) -> list[tuple[str, int]]:
        return self._objects.list(self._directory(segment) + "/")

    def _put(self, key: str, data: bytes | memoryview) -> None:
        self._objects.put(key, self._repository.sealer.seal(key, chunked(data)))

    def _get(self, key: str) -> bytes | None:
        try:
            blob = self._objects.get(key)
        except ObjectNotFound:
            return None
        return b"".join(self._repository.sealer.open(key, blob))

    def _joined(self, segment: Segment, pieces: Iterable[tuple[str, int]]) -> bytes:
        keys = {_bounds(key.rpartition("/")[2]): key for key, _ in pieces}
        chain, end = _chain(keys)
        beyond = max(stop for _, stop in keys)
        if end < beyond:
            raise Damaged(
                self._directory(segment), f"the log segment {segment.name} has a gap at byte {end}, before {beyond}"
            )
        content = bytearray()
        for start, stop in chain:
            piece = self._get(keys[start, stop])
            if piece is None:
                raise ObjectNotFound(keys[start, stop])
            if len(piece) != stop - start:
                raise Damaged(keys[start, stop], f"it has {len(piece)} bytes of {stop - start}")
            content[start:] = piece
        return bytes(content)


def _chain(pieces: Iterable[tuple[int, int]]) -> tuple[list[tuple[int, int]], int]:
    """The fewest pieces that cover the segment from its beginning without a gap, and where they end."""
    chain: list[tuple[int, int]] = []
    end = reach = 0
    best = (0, 0)
    for start, stop in _ascending(pieces):
        if start > end:
            if reach <= end or start > reach:
                break
            chain.append(best)
            end = reach
        if stop > reach:
            reach, best = stop, (start, stop)
    if reach > end:
        chain.append(best)
        end = reach
    return chain, end


def _ascending(pieces: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    return iter(sorted(pieces))


def _bounds(name: str) -> tuple[int, int]:
    match = _PIECE.fullmatch(name)
    if match is None:
        raise Permanent(f"{name!r} is no piece of a log segment; somebody else has written to the object storage")
    return int(match[1], 16), int(match[2], 16)


def place_of(segment: Segment) -> str:
    """Where in a repository its objects are: below this, or beginning with it and a dot."""
    return f"{LOG}{segment.timeline}/{segment.index:016x}.{segment.name}"


def _segment(timeline: str, directory: str) -> Segment:
    match = _SEGMENT.fullmatch(directory)
    if match is None:
        raise Permanent(f"{directory!r} is no log segment; somebody else has written to the object storage")
    return Segment(timeline, int(match[1], 16), match[2])


def _check(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise Permanent(f"{name[:100]!r} cannot name a part of the log")
