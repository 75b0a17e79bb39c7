"""Where the content of a backup comes from: files of a running engine, that may shrink, grow and vanish meanwhile."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from mainstay.model.backup import SourceFile
from mainstay.model.errors import Permanent, Transient

PATH_LENGTH_MAX = 1024


class Content(Protocol):
    """What a file holds."""

    def read_into(self, view: memoryview, offset: int) -> int:
        """Fills the view from `offset`; returns how many bytes there were: fewer only at the end of the file."""

    def close(self) -> None:
        """No more will be read."""


class _Bytes:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def read_into(self, view: memoryview, offset: int) -> int:
        part = self._content[offset : offset + len(view)]
        view[: len(part)] = part
        return len(part)

    def close(self) -> None:
        pass


class _File:
    def __init__(self, origin: str) -> None:
        self._origin = origin
        # Not blocking: in place of a file there may be a pipe by now, which nobody ever opens at the other end.
        self._descriptor = os.open(origin, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            os.close(self._descriptor)
            raise Permanent(f"{origin} is no regular file and cannot be backed up")

    def read_into(self, view: memoryview, offset: int) -> int:
        done = 0
        while done < len(view):
            try:
                count = os.preadv(self._descriptor, [view[done:]], offset + done)
            except OSError as error:
                raise Transient(f"{self._origin} cannot be read: {error.strerror}") from error
            if count == 0:
                break
            done += count
        return done

    def close(self) -> None:
        os.close(self._descriptor)


def open_source(source: SourceFile) -> Content | None:
    """The content of a source file; None if the file has vanished."""
    if source.content is not None:
        return _Bytes(source.content)
    try:
        return _File(source.origin)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Permanent(f"{source.origin} cannot be backed up: {error.strerror}") from error


def walk(root: Path, excluded: Callable[[str], bool] = lambda _path: False, prefix: str = "") -> Iterator[SourceFile]:
    """Every file and directory below `root`, parents first. What is excluded (by relative path) is not entered.

    `prefix` ("" or "a/") is put before the paths. Symbolic links, sockets and pipes are left out, and so is what
    vanishes meanwhile.
    """
    yield from _walk(str(root), prefix, excluded)


def _walk(directory: str, prefix: str, excluded: Callable[[str], bool]) -> Iterator[SourceFile]:
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    for entry in entries:
        path = prefix + entry.name
        if excluded(path):
            continue
        with suppress(FileNotFoundError):
            status = entry.stat(follow_symlinks=False)
            mode = stat.S_IMODE(status.st_mode) & 0o777
            if stat.S_ISDIR(status.st_mode):
                yield SourceFile(path=path, mode=mode, is_directory=True)
                yield from _walk(entry.path, path + "/", excluded)
            elif stat.S_ISREG(status.st_mode):
                yield SourceFile(
                    path=path, mode=mode, mtime_ns=status.st_mtime_ns, size=status.st_size, origin=entry.path
                )


def check_path(path: str) -> None:
    """Raises `Permanent` unless the path stays below the directory it is joined to."""
    names = path.split("/")
    if len(path) > PATH_LENGTH_MAX or "\0" in path or any(name in ("", ".", "..") for name in names):
        raise Permanent(f"{path[:PATH_LENGTH_MAX]!r} is no path within a backup")
    try:
        path.encode()
    except UnicodeEncodeError:
        raise Permanent(f"{path!r} is not UTF-8, and cannot be backed up", hint="Rename that file.") from None
