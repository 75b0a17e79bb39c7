"""`Objects` in one directory: every object a file that was fsynced, with its directory, before it became visible.

Ours because object_store's local store does not fsync. A file is written below `.writing` and renamed, so that a kill
or power cut leaves the old object or the new one, never a part; what killed writers leave there is removed by the
next `DirectoryObjects` on the same place, which knows from the file's name whether its writer still lives.
"""

from __future__ import annotations

import errno
import itertools
import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mainstay.backups.objects import ObjectNotFound, check_key, check_prefix
from mainstay.host.files import fsync_directory, make_private_directory
from mainstay.model.errors import MainstayError, Permanent, Transient

WRITING = ".writing"
FOREIGN_LEFTOVER_S = 24 * 3600.0
DIRECTORY_VANISHED_TRIES = 10
FULL_RETRY_AFTER_S = 30.0

_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
_COUNTER = itertools.count()


class DirectoryObjects:
    """One object a file, 0600, in directories 0700. See `Objects`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._durable = {root}
        with _told(root):
            make_private_directory(root)
            (root / WRITING).mkdir(mode=0o700, exist_ok=True)
            fsync_directory(root)
            _remove_leftovers(root / WRITING)

    def put(self, key: str, content: bytes) -> None:
        """See `Objects`."""
        path = self._path(key)
        temporary = self._root / WRITING / f"{_writer(os.getpid())}.{next(_COUNTER)}"
        with _told(path):
            try:
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
                try:
                    _write_all(descriptor, content)
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                self._rename_into_place(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            fsync_directory(path.parent)

    def get(self, key: str) -> bytes:
        """See `Objects`."""
        with self._opened(key) as descriptor:
            return _read_all(descriptor, 0, os.fstat(descriptor).st_size)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See `Objects`."""
        with self._opened(key) as descriptor:
            return _read_all(descriptor, start, length)

    def size(self, key: str) -> int:
        """See `Objects`."""
        with self._opened(key) as descriptor:
            return os.fstat(descriptor).st_size

    def list(self, prefix: str) -> list[tuple[str, int]]:
        """See `Objects`."""
        check_prefix(prefix)
        with _told(self._root / prefix):
            return sorted(_files_below(str(self._root / prefix), prefix))

    def delete(self, keys: Collection[str]) -> None:
        """See `Objects`."""
        emptied = set()
        for key in keys:
            path = self._path(key)
            with _told(path), suppress(FileNotFoundError):
                path.unlink()
                emptied.add(path.parent)
        for directory in emptied:
            with _told(directory), suppress(FileNotFoundError):
                fsync_directory(directory)
                self._remove_if_empty(directory)

    def _path(self, key: str) -> Path:
        check_key(key)
        return self._root / key

    def _rename_into_place(self, temporary: Path, path: Path) -> None:
        """Renames; a concurrent `delete` may take an empty directory away again, hence the repetition."""
        for _ in range(DIRECTORY_VANISHED_TRIES):
            if path.parent not in self._durable:
                self._make_durably(path.parent)
            try:
                os.rename(temporary, path)
                return
            except FileNotFoundError:
                self._durable = {self._root}
        os.rename(temporary, path)

    def _make_durably(self, directory: Path) -> None:
        if directory in self._durable:
            return
        self._make_durably(directory.parent)
        with suppress(FileExistsError, FileNotFoundError):
            directory.mkdir(mode=0o700)
        # Not only by whoever made it: another writer may have made it and not have come to this line yet.
        with suppress(FileNotFoundError):
            fsync_directory(directory.parent)
            self._durable.add(directory)

    def _remove_if_empty(self, directory: Path) -> None:
        while directory != self._root:
            try:
                directory.rmdir()
            except OSError:
                return
            self._durable.discard(directory)
            directory = directory.parent

    @contextmanager
    def _opened(self, key: str) -> Iterator[int]:
        path = self._path(key)
        with _told(path):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            except (FileNotFoundError, NotADirectoryError):
                raise ObjectNotFound(key) from None
            try:
                yield descriptor
            finally:
                os.close(descriptor)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Maps the system's errors to ours, naming the place."""
    try:
        yield
    except MainstayError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise Transient(
                f"there is no room for {path}: {error.strerror}",
                retry_after_s=FULL_RETRY_AFTER_S,
                hint="Free space there, shorten the backup retention, or move object_storage to a larger place.",
            ) from error
        if error.errno in _REFUSED:
            raise Permanent(
                f"{path} cannot be used: {error.strerror}",
                hint="The directory of object_storage must belong to the user of the service and be writable.",
            ) from error
        raise Transient(f"{path} cannot be used: {error.strerror}") from error


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while len(view):
        view = view[os.write(descriptor, view) :]


def _read_all(descriptor: int, start: int, length: int) -> bytes:
    parts = []
    while length > 0:
        part = os.pread(descriptor, length, start)
        if not part:
            break
        parts.append(part)
        start += len(part)
        length -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _files_below(directory: str, prefix: str) -> Iterator[tuple[str, int]]:
    try:
        entries = list(os.scandir(directory))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _files_below(entry.path, f"{prefix}{entry.name}/")
        elif entry.is_file(follow_symlinks=False):
            with suppress(FileNotFoundError):
                yield prefix + entry.name, entry.stat(follow_symlinks=False).st_size


def _writer(pid: int) -> str:
    """Names a process beyond the reuse of its pid: boot, pid, start time. Empty parts where /proc does not tell."""
    boot = started = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{boot}.{pid}.{started}"


def _remove_leftovers(directory: Path) -> None:
    """Removes what dead writers left. Those of another boot or host cannot be asked; they are given a day."""
    here = _writer(os.getpid()).partition(".")[0]
    for entry in os.scandir(directory):
        boot, _, rest = entry.name.partition(".")
        pid = rest.partition(".")[0]
        with suppress(OSError):
            if boot == here and pid.isdigit():
                dead = not entry.name.startswith(f"{_writer(int(pid))}.")
            else:
                dead = time.time() - entry.stat(follow_symlinks=False).st_mtime > FOREIGN_LEFTOVER_S
            if dead:
                os.unlink(entry.path)
