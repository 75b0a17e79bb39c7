"""`python -m mainstay.backups`: one job in a process of its own, so that the agent's event loop is not disturbed.

The job is a JSON line on standard input, answers are JSON lines on standard output (`jobs.py`). It ends when standard
input is closed, for then its parent has died, and on SIGTERM; either way what was begun does not count.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO

import msgspec
import psutil

from mainstay.backups.collect import collect_garbage, delete_backup
from mainstay.backups.copy import copy_backup
from mainstay.backups.jobs import (
    JOB_BYTES_MAX,
    BackupJob,
    CollectJob,
    Copied,
    CopyJob,
    Damage,
    Done,
    Job,
    Message,
    Progressed,
    RestoreJob,
    VerifyAllJob,
    VerifyJob,
    VerifyLogJob,
    failed,
)
from mainstay.backups.manifests import read_manifest
from mainstay.backups.parallel import Cancelled
from mainstay.backups.read import Seen, verify_backup
from mainstay.backups.restore import restore_backup
from mainstay.backups.sealing import Damaged
from mainstay.backups.sources import Content, open_source
from mainstay.backups.verify_log import verify_log
from mainstay.backups.write import BackupOptions, Late, write_backup
from mainstay.host.file_identity import files_as
from mainstay.model.backup import SourceFile
from mainstay.model.errors import MainstayError, Permanent, Transient

NICE = 10
PROGRESS_EVERY_S = 0.25
STOP_GRACE_S = 10.0
LATE_DEADLINE_S = 3600.0
EXIT_STOPPED = 3


class Worker:
    """The conversation with the parent, and the job."""

    def __init__(self, lines: BinaryIO, answers: BinaryIO) -> None:
        self._lines = lines
        self._answers = answers
        self._stop = threading.Event()
        self._late: queue.Queue[bytes] = queue.Queue()
        self._removes = False
        self._said_at = 0.0
        self._said = threading.Lock()

    def run(self) -> int:
        """Does the job; the exit code."""
        try:
            job = _decoded(self._lines.readline(JOB_BYTES_MAX))
            self._removes = isinstance(job, CollectJob)
            signal.signal(signal.SIGTERM, lambda *_: self.stop())
            threading.Thread(target=self._listen, daemon=True).start()
            self._say(self._done(job))
        except MainstayError as error:
            self._say(failed(error))
            return EXIT_STOPPED if isinstance(error, Cancelled) else 1
        return 0

    def stop(self) -> None:
        """Ends the job soon: in good order if it can be, in any case within STOP_GRACE_S.

        What only removes is ended at once: nobody keeps others from writing there any more.
        """
        self._stop.set()
        if self._removes:
            os._exit(EXIT_STOPPED)
        timer = threading.Timer(STOP_GRACE_S, os._exit, (EXIT_STOPPED,))
        timer.daemon = True
        timer.start()

    def _listen(self) -> None:
        while line := self._lines.readline(JOB_BYTES_MAX):
            self._late.put(line)
        self.stop()

    def _done(self, job: Job) -> Done:
        if isinstance(job, RestoreJob):
            self._restore(job)
            return Done()
        _lower_priority()
        if isinstance(job, BackupJob):
            return self._back_up(job)
        if isinstance(job, VerifyJob):
            found = verify_backup(job.place.open(), job.backup_id, report=self._report, stop=self._stop)
            return _damages(found)
        if isinstance(job, VerifyAllJob):
            return self._verify_all(job)
        if isinstance(job, VerifyLogJob):
            return _damages(verify_log(job.place.open(), job.needed, job.small, report=self._report, stop=self._stop))
        if isinstance(job, CopyJob):
            summary = copy_backup(
                job.source.open(),
                job.backup_id,
                job.target.open(),
                job.target_id,
                base_id=job.base_id,
                report=self._report,
                stop=self._stop,
            )
            return Done(summary=summary)
        return _collected(job)

    def _verify_all(self, job: VerifyAllJob) -> Done:
        repository, total, before = job.place.open(), sum(job.sizes), 0
        damages: list[Damage] = []
        seen: Seen = set()
        for backup_id, size in zip(job.backup_ids, job.sizes, strict=True):

            def report(done: int, of: int, begun: int = before, share: int = size) -> None:
                self._report(begun + (share * done // of if of else share), total)

            found = verify_backup(repository, backup_id, report=report, stop=self._stop, seen=seen)
            damages += [Damage(error.key, error.reason, error.files, backup_id) for error in found]
            before += size
        return Done(damages=tuple(damages))

    def _back_up(self, job: BackupJob) -> Done:
        repository = job.place.open()
        options = BackupOptions(
            base=read_manifest(repository, job.base_id) if job.base_id else None,
            streaming=job.streaming,
            attributes=job.attributes,
            late=self._ask_late if job.ask_late else None,
        )
        owner = _owner(job.uid, job.gid)

        def open_as_owner(source: SourceFile) -> Content | None:
            with files_as(owner):
                return open_source(source)

        with files_as(owner):
            sources = [source for tree in job.trees for source in tree.sources()]
        sources += job.sources
        summary = write_backup(
            repository,
            job.backup_id,
            sources,
            options,
            open_content=open_as_owner,
            report=self._report,
            stop=self._stop,
        )
        return Done(summary=summary)

    def _ask_late(self) -> Late:
        self._say(Copied())
        deadline = time.monotonic() + LATE_DEADLINE_S
        while time.monotonic() < deadline:
            if self._stop.is_set():
                raise Cancelled
            try:
                return msgspec.json.decode(self._late.get(timeout=0.2), type=Late)
            except queue.Empty:
                continue
            except msgspec.DecodeError as error:
                raise Permanent(f"what was said at the end of the backup is wrong: {error}") from error
        raise Transient(f"the end of the backup was not told within {LATE_DEADLINE_S:.0f} s")

    def _restore(self, job: RestoreJob) -> None:
        owner = _owner(job.uid, job.gid)
        repository = job.place.open()
        manifest = read_manifest(repository, job.backup_id)
        restore_backup(repository, manifest, Path(job.destination), owner=owner, report=self._report, stop=self._stop)

    def _report(self, done: int, total: int) -> None:
        if done == total or time.monotonic() - self._said_at >= PROGRESS_EVERY_S:
            self._said_at = time.monotonic()
            self._say(Progressed(done, total))

    def _say(self, message: Message) -> None:
        with self._said:
            try:
                self._answers.write(msgspec.json.encode(message) + b"\n")
                self._answers.flush()
            except BrokenPipeError:
                os._exit(EXIT_STOPPED)


def _decoded(line: bytes) -> Job:
    try:
        job: Job = msgspec.json.decode(line, type=Job)
    except msgspec.DecodeError as error:
        raise Permanent(f"that is no job: {error}") from error
    return job


def _damages(found: list[Damaged]) -> Done:
    return Done(damages=tuple(Damage(error.key, error.reason, error.files) for error in found))


def _collected(job: CollectJob) -> Done:
    repository = job.place.open()
    for backup_id in job.delete:
        delete_backup(repository, backup_id)
    return Done(freed=collect_garbage(repository, job.writing).bytes)


def _owner(uid: int | None, gid: int | None) -> tuple[int, int] | None:
    """Whom files are reached as; None: as we are. Drops root's supplementary groups, which would come along."""
    if uid is None or gid is None or (uid, gid) == (os.geteuid(), os.getegid()):
        return None
    if os.geteuid() == 0:
        os.setgroups([])
    return uid, gid


def _lower_priority() -> None:
    """Databases first. A restore is not slowed: somebody waits for it."""
    os.nice(NICE)
    psutil.Process().ionice(psutil.IOPRIO_CLASS_BE, 7)


def main() -> int:
    """The exit code: 0 done, 1 failed, 3 stopped."""
    os.umask(0o077)
    return Worker(sys.stdin.buffer, sys.stdout.buffer).run()


if __name__ == "__main__":
    # Not sys.exit: the thread that waits for standard input holds a lock that the interpreter wants on its way out.
    os._exit(main())
