"""The log of a backup, stored beside an archiver that is behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from mainstay.agent.jobs import store_log
from mainstay.backups.log_archive import LogArchive, Segment
from mainstay.backups.objects import MemoryObjects
from mainstay.backups.repository import Repository
from mainstay.engines.backups import BackupEnd, LogPiece
from mainstay.engines.postgresql.backups import PostgresqlBackups
from mainstay.engines.postgresql.wal import SEGMENT_BYTES, segment_name
from mainstay.host.randomness import SeededRandomness


def segment(number: int) -> Segment:
    return Segment("00000001", number, segment_name(1, number))


def end(directory: Path, first: int, last: int) -> BackupEnd:
    for number in range(first - 3, last + 1):
        (directory / segment_name(1, number)).write_bytes(bytes([number]) * SEGMENT_BYTES)
    pieces = tuple(
        LogPiece(timeline="00000001", segment=segment_name(1, number), path=directory / segment_name(1, number),
                 start=0, end=SEGMENT_BYTES, last=True)
        for number in range(first, last + 1)
    )  # fmt: skip
    return BackupEnd(
        timeline="00000001", start_position="0/0", stop_position="0/0", consistent_at=1.0, extra_files=(), log=pieces
    )


@pytest.fixture
def archive() -> LogArchive:
    return LogArchive(Repository(MemoryObjects(), "a/", b"k" * 32, SeededRandomness(1)))


def whole(archive: LogArchive) -> list[int]:
    return [one.segment.index for one in archive.segments() if one.whole]


def test_what_the_archiver_has_not_shipped_is_stored_too(archive: LogArchive, tmp_path: Path) -> None:
    archive.complete(segment(5), b"\5" * SEGMENT_BYTES)
    archive.append_piece(segment(6), 0, b"\6" * 100)
    store_log(archive, end(tmp_path, 8, 9), PostgresqlBackups(), without_hole=True)
    assert whole(archive) == [5, 6, 7, 8, 9]
    assert archive.read_segment(segment(6)) == b"\6" * SEGMENT_BYTES


def test_without_an_archiver_only_the_backups_own(archive: LogArchive, tmp_path: Path) -> None:
    archive.complete(segment(5), b"\5" * SEGMENT_BYTES)
    store_log(archive, end(tmp_path, 8, 9), PostgresqlBackups(), without_hole=False)
    assert whole(archive) == [5, 8, 9]


def test_an_old_hole_stays_one(archive: LogArchive, tmp_path: Path) -> None:
    archive.complete(segment(1), b"\1" * SEGMENT_BYTES)
    store_log(archive, end(tmp_path, 8, 9), PostgresqlBackups(), without_hole=True)
    assert whole(archive) == [1, 5, 6, 7, 8, 9], "the engine still has three of them"
