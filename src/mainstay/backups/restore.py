"""Restoring a backup into an empty directory: checked before it is written, and on disk when it returns."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mainstay.backups.parallel import Progress, Report, run_parallel, workers_default
from mainstay.backups.read import PackReader, Piece, pieces_by_pack, stored_bytes
from mainstay.backups.repository import Repository
from mainstay.backups.sources import check_path
from mainstay.host.file_identity import files_as
from mainstay.host.files import fsync_directory
from mainstay.model.backup import BackupFile, Manifest
from mainstay.model.errors import MainstayError, Permanent, Transient

OPEN_FILES_MAX = 64


def restore_backup(
    repository: Repository,
    manifest: Manifest,
    destination: Path,
    *,
    owner: tuple[int, int] | None = None,
    workers: int = 0,
    report: Report | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Makes the files of the backup below `destination`, which must be empty or not exist (its parent must).

    As root, `owner` (uid, gid) makes and owns the files. Zeros are not written: files are sparse. After a failure
    nothing is left in the destination; after a kill, remove it. Raises `Damaged` naming object and files,
    `Cancelled`, `Transient`.
    """
    for path in (*(entry.path for entry in manifest.header.directories), *(file.path for file in manifest.files)):
        check_path(path)
    with _told(destination), files_as(owner):
        destination.mkdir(mode=0o700, exist_ok=True)
        if any(destination.iterdir()):
            raise Permanent(f"{destination} is not empty", hint="A backup is restored into an empty directory only.")
    restoring = _Restoring(repository, manifest, destination, owner)
    try:
        with _told(destination):
            restoring.run(workers or workers_default(), report, stop)
    except BaseException:
        with files_as(owner):
            _empty(destination)
        raise


class _Restoring:
    def __init__(
        self, repository: Repository, manifest: Manifest, destination: Path, owner: tuple[int, int] | None
    ) -> None:
        self._reader = PackReader(repository, manifest)
        self._manifest = manifest
        self._destination = destination
        self._owner = owner
        self._missing = [stored_bytes((file,)) for file in manifest.files]
        self._lock = threading.Lock()

    def run(self, workers: int, report: Report | None, stop: threading.Event | None) -> None:
        with files_as(self._owner):
            directories = self._make_directories()
            for number, file in enumerate(self._manifest.files):
                self._make_file(number, file)
        progress = Progress(sum(self._missing), report)
        tasks = [task for task in enumerate(pieces_by_pack(self._manifest)) if task[1]]
        run_parallel(tasks, [self._worker(progress) for _ in range(workers)], stop)
        if any(self._missing):
            raise Transient("a restored file is incomplete")
        with files_as(self._owner):
            for path, mode in reversed(directories):
                path.chmod(mode)
                fsync_directory(path)
            fsync_directory(self._destination)
        fsync_directory(self._destination.parent)

    def _make_directories(self) -> list[tuple[Path, int]]:
        made: dict[str, int] = {}
        for directory in self._manifest.header.directories:
            made[directory.path] = directory.mode & 0o777
        for path in (*tuple(made), *(file.path for file in self._manifest.files)):
            names = path.split("/")
            for depth in range(1, len(names)):
                made.setdefault("/".join(names[:depth]), 0o700)
        directories = [(self._destination / path, made[path]) for path in sorted(made)]
        for directory_path, _ in directories:
            directory_path.mkdir(mode=0o700)
        return directories

    def _make_file(self, number: int, file: BackupFile) -> None:
        """The file as long as it will be, all zeros; complete if it is to stay so."""
        descriptor = os.open(self._destination / file.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            os.fchmod(descriptor, file.mode & 0o777)
            os.ftruncate(descriptor, file.size)
            if not self._missing[number]:
                self._complete(descriptor, file)
        finally:
            os.close(descriptor)

    def _complete(self, descriptor: int, file: BackupFile) -> None:
        with files_as(self._owner):
            os.utime(descriptor, ns=(file.mtime_ns, file.mtime_ns))
        os.fsync(descriptor)

    def _worker(self, progress: Progress) -> Callable[[tuple[int, list[Piece]]], None]:
        def work(task: tuple[int, list[Piece]]) -> None:
            opened: dict[int, int] = {}
            try:
                for number, offset, content in self._reader.contents(*task):
                    if number not in opened:
                        if len(opened) >= OPEN_FILES_MAX:
                            os.close(opened.pop(next(iter(opened))))
                        opened[number] = self._open(number)
                    _write_all(opened[number], content, offset)
                    self._written(number, opened[number], len(content))
                    progress.add(len(content))
            finally:
                for descriptor in opened.values():
                    os.close(descriptor)

        return work

    def _open(self, number: int) -> int:
        with files_as(self._owner):
            path = self._destination / self._manifest.files[number].path
            return os.open(path, os.O_WRONLY | os.O_NOFOLLOW)

    def _written(self, number: int, descriptor: int, count: int) -> None:
        with self._lock:
            self._missing[number] -= count
            complete = not self._missing[number]
        if complete:
            self._complete(descriptor, self._manifest.files[number])


def _write_all(descriptor: int, content: memoryview, offset: int) -> None:
    while len(content):
        count = os.pwrite(descriptor, content, offset)
        content = content[count:]
        offset += count


def _empty(directory: Path) -> None:
    for entry in os.scandir(directory):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            os.unlink(entry.path)


@contextmanager
def _told(destination: Path) -> Iterator[None]:
    try:
        yield
    except MainstayError:
        raise
    except OSError as error:
        raise Transient(
            f"the backup cannot be restored to {error.filename or destination}: {error.strerror}",
            hint="Check the free space and the permissions there.",
        ) from error
