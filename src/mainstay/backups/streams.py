"""Files that arrive through a pipe, as mariadb-backup and its `mbstream` write them, cut into pieces of whole blocks.

The stream is a sequence of chunks. Each begins with a magic word, flags, a kind and the path of a file; the chunks of
several files alternate, those of one file are in order. A chunk of content has its length, its offset in the file and
a checksum, which is not looked at: between two processes of a machine there is nothing that loses bits. Other chunks
end, rename or remove a file, or go back in one.

A piece begins at a block of its file. What is behind the last whole block of a chunk waits for the next chunk of that
file, and the first block waits for the end of the file: that is where the tool goes back to.
"""

from __future__ import annotations

import os
import select
import struct
import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

import msgspec

from mainstay.backups.parallel import Cancelled
from mainstay.backups.sources import PATH_LENGTH_MAX
from mainstay.model.errors import Transient

MAGIC = b"XBSTCK01"
CONTENT, END, SEEK, RENAME, REMOVE = b"P", b"E", b"S", b"R", b"D"
IGNORABLE, ANEW = 1, 2
"""Flags: a chunk of an unknown kind may be left out; the file takes the place of one that came before."""

STOP_LOOK_S = 0.5

_HEAD = struct.Struct("<8sB1sI")
_CONTENT = struct.Struct("<QQI")
_LONG = struct.Struct("<Q")
_INT = struct.Struct("<I")


class StreamBroken(Transient):
    """The stream is cut off, or none that can be read. Whoever writes it knows more."""


class Streaming(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a pipe to read from, open in this process, and about how much comes through it."""

    descriptor: int
    size: int


class Sized(Protocol):
    """A file, as far as it matters here."""

    @property
    def block_bytes(self) -> int:
        """Of its blocks."""


File = TypeVar("File", bound=Sized)
Made = TypeVar("Made", bound=Sized, covariant=True)


class Directory(Protocol[Made]):
    """What is told of the files of a stream; one call at a time."""

    def begin(self, path: str, *, anew: bool) -> Made:
        """A file whose content comes next; `anew`: in place of one that was there. Raises `Permanent`."""

    def rename(self, path: str, to: str) -> None:
        """A file that is complete has another name, in place of what had it before."""

    def remove(self, path: str) -> None:
        """A file that is complete belongs to the copy no more."""


class Piece(msgspec.Struct, Generic[File], frozen=True):
    """So many bytes of the view are those of the file from `start`, which is a multiple of its block size."""

    file: File
    start: int
    length: int


class _Open(Generic[File]):
    """A file whose end has not come: `first` is of its first block what has come, `given` what was given out behind it.

    `back_at`: where in the first block content comes that takes the place of other content; None as long as it is new.
    """

    def __init__(self, file: File) -> None:
        self.file = file
        self.first = bytearray()
        self.carried = b""
        self.given = 0
        self.end = 0
        self.back_at: int | None = None


class ChunkStream(Generic[File]):
    """Gives out the pieces of a stream. Safe to use from several threads, which get different pieces."""

    def __init__(self, descriptor: int, directory: Directory[File], stop: threading.Event | None = None) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._directory = directory
        self._stop = stop
        self._lock = threading.Lock()
        self._open: dict[str, _Open[File]] = {}
        self._ready: deque[tuple[File, int, bytes]] = deque()
        self._current: _Open[File] | None = None
        self._left = 0
        self._ended = False

    def turns(self) -> Iterator[None]:
        """One for each call of `next`, until the stream has ended."""
        while not self._ended:
            yield

    def next(self, view: memoryview) -> Piece[File] | None:
        """Fills the view, which is longer than any block; None when the stream has ended.

        Raises `StreamBroken`, `Cancelled` once `stop` is set, and what the directory raises; then it has ended for all.
        """
        with self._lock:
            try:
                piece = None if self._ended else self._next(view)
            except BaseException:
                self._ended = True
                raise
            self._ended = piece is None
            return piece

    def _next(self, view: memoryview) -> Piece[File] | None:
        while True:
            if self._ready:
                file, start, content = self._ready.popleft()
                view[: len(content)] = content
                return Piece(file, start, len(content))
            if self._left and self._current is not None:
                piece = self._content(self._current, view)
                if piece is not None:
                    return piece
            elif not self._chunk():
                return None

    def _content(self, one: _Open[File], view: memoryview) -> Piece[File] | None:
        """More of the chunk's content; a piece if there are whole blocks to give out."""
        block = one.file.block_bytes
        if one.back_at is not None:
            length = self._left
            one.first[one.back_at : one.back_at + length] = self._take(length)
            one.back_at += length
            return None
        if len(one.first) < block:
            one.first += self._take(min(self._left, block - len(one.first)))
            one.end = one.given = len(one.first)
            return None
        kept = len(one.carried)
        view[:kept] = one.carried
        taken = min(self._left, len(view) - kept)
        self._fill(view[kept : kept + taken])
        self._left -= taken
        one.end += taken
        whole = (kept + taken) // block * block
        one.carried = bytes(view[whole : kept + taken])
        start, one.given = one.given, one.given + whole
        return Piece(one.file, start, whole) if whole else None

    def _chunk(self) -> bool:
        """Reads the next chunk up to its content; False at the end of the stream."""
        head = self._read(_HEAD.size, may_end=True)
        if not head:
            if self._open:
                raise StreamBroken(f"the stream of files ended within {next(iter(self._open))}")
            return False
        magic, flags, kind, length = _HEAD.unpack(head)
        if magic != MAGIC or length > PATH_LENGTH_MAX:
            raise StreamBroken("the stream of files is none")
        path = self._path(length)
        if kind == CONTENT:
            self._begin_content(path, flags)
        elif kind == END:
            self._end(path)
        elif kind == RENAME:
            to = self._path(_INT.unpack(self._read(_INT.size))[0])
            self._require_complete(path)
            self._directory.rename(path, to)
        elif kind == REMOVE:
            self._require_complete(path)
            self._directory.remove(path)
        elif kind == SEEK:
            self._seek(path, _LONG.unpack(self._read(_LONG.size))[0])
        elif not flags & IGNORABLE:
            raise StreamBroken(f"the stream of files has a chunk of an unknown kind, {kind!r}, for {path}")
        return True

    def _begin_content(self, path: str, flags: int) -> None:
        length, offset, _checksum = _CONTENT.unpack(self._read(_CONTENT.size))
        one = self._open.get(path)
        if one is None:
            one = self._open[path] = _Open(self._directory.begin(path, anew=bool(flags & ANEW)))
        if one.back_at is not None:
            if offset != one.back_at or offset + length > len(one.first):
                raise StreamBroken(f"the stream of files goes back to byte {offset} of {path}, beyond its first block")
        elif offset != one.end:
            raise StreamBroken(f"the stream of files has byte {offset} of {path} behind byte {one.end}")
        self._current, self._left = one, length

    def _seek(self, path: str, offset: int) -> None:
        one = self._open.get(path)
        if one is None:
            raise StreamBroken(f"the stream of files goes to a place in {path}, which is not there")
        one.back_at = None if offset == one.end else offset

    def _end(self, path: str) -> None:
        """Its last bytes and its first block are given out."""
        one = self._open.pop(path, None)
        if one is None:
            self._directory.begin(path, anew=True)  # an empty one
            return
        if one.carried:
            self._ready.append((one.file, one.given, one.carried))
        if one.first:
            self._ready.append((one.file, 0, bytes(one.first)))

    def _require_complete(self, path: str) -> None:
        if path in self._open:
            raise StreamBroken(f"the stream of files renames or removes {path} before its end")

    def _path(self, length: int) -> str:
        if length > PATH_LENGTH_MAX:
            raise StreamBroken("the stream of files is none")
        return os.fsdecode(self._read(length)).removeprefix("./")

    def _take(self, length: int) -> bytes:
        """So much of the chunk's content."""
        self._left -= length
        return self._read(length)

    def _read(self, length: int, *, may_end: bool = False) -> bytes:
        content = bytearray(length)
        with memoryview(content) as view:
            return bytes(content) if self._fill(view, may_end=may_end) else b""

    def _fill(self, view: memoryview, *, may_end: bool = False) -> bool:
        """Fills the view; False if the stream has ended before its first byte, which is an error unless it may."""
        done = 0
        while done < len(view):
            try:
                count = os.readv(self._descriptor, [view[done:]])
            except BlockingIOError:
                self._await()
                continue
            except OSError as error:
                raise StreamBroken(f"the stream of files cannot be read: {error.strerror}") from error
            if count == 0:
                if may_end and not done:
                    return False
                raise StreamBroken("the stream of files was cut off")
            done += count
        return True

    def _await(self) -> None:
        """Until there is more, or a while has passed. Raises `Cancelled`."""
        if self._stop is not None and self._stop.is_set():
            raise Cancelled
        select.select([self._descriptor], [], [], STOP_LOOK_S)
