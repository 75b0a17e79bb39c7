"""A stretch of a log in another repository: whole, in pieces, along its history, and never with a hole."""

from __future__ import annotations

import pytest

from mainstay.agent.log_copy import PIECES_MAX, copy_log
from mainstay.backups.log_archive import LogArchive, Segment
from mainstay.backups.objects import MemoryObjects
from mainstay.backups.repository import Repository
from mainstay.engines.postgresql.backups import PostgresqlBackups
from mainstay.engines.postgresql.wal import SEGMENT_BYTES, segment_name
from mainstay.host.randomness import SeededRandomness
from mainstay.model.errors import Permanent
from mainstay.model.repository_job import LogPromise

BACKUPS = PostgresqlBackups()


def archive(prefix: str, key: bytes) -> LogArchive:
    return LogArchive(Repository(MemoryObjects(), prefix, key * 32, SeededRandomness(1)))


@pytest.fixture
def source() -> LogArchive:
    made = archive("here/", b"k")
    for number in (2, 3, 4):
        made.complete(segment(number), bytes([number]) * SEGMENT_BYTES)
    made.append_piece(segment(5), 0, b"5" * 1000)
    return made


@pytest.fixture
def target() -> LogArchive:
    return archive("there/", b"q")


def segment(number: int, timeline: int = 1) -> Segment:
    return Segment(f"{timeline:08X}", number, segment_name(timeline, number))


def copied(source: LogArchive, target: LogArchive, start: str, end: str, timeline: int = 1) -> list[tuple[int, int]]:
    noted: list[tuple[int, int]] = []
    promised = LogPromise(timeline=f"{timeline:08X}", start_position=start, end_position=end)
    copy_log(source, target, promised, BACKUPS, lambda done, total: noted.append((done, total)))
    return noted


def test_only_what_is_asked_for_and_not_there_yet(source: LogArchive, target: LogArchive) -> None:
    assert copied(source, target, "0/3000028", "0/5000200")[-1] == (3, 3)
    assert [(one.segment.index, one.whole, one.end) for one in target.segments()] == [
        (3, True, -1), (4, True, -1), (5, False, 1000),
    ]  # fmt: skip
    assert target.read_segment(segment(4)) == source.read_segment(segment(4))
    source.append_piece(segment(5), 1000, b"6" * 500)
    copied(source, target, "0/5000200", "0/50005DC")
    assert target.pieces(segment(5)) == 2 and target.read_segment(segment(5)) == b"5" * 1000 + b"6" * 500
    source.complete(segment(5), b"7" * SEGMENT_BYTES)
    copied(source, target, "0/50005DC", "0/6000000")
    assert target.segments()[-1].whole and target.pieces(segment(5)) == 0


def test_a_segment_that_grows_slowly_is_few_pieces(source: LogArchive, target: LogArchive) -> None:
    copied(source, target, "0/5000000", "0/5000100")
    for number in range(3 * PIECES_MAX):
        start = 1000 + 10 * number
        source.append_piece(segment(5), start, b"x" * 10)
        copied(source, target, "0/5000000", f"0/{0x5000000 + start + 10:X}")
    assert target.pieces(segment(5)) <= PIECES_MAX
    assert target.read_segment(segment(5)) == source.read_segment(segment(5))


def test_what_is_missing_or_too_short_is_named(source: LogArchive, target: LogArchive) -> None:
    source.delete_segments(lambda one: one.index != 3)
    with pytest.raises(Permanent, match=f"{segment_name(1, 3)} is missing"):
        copied(source, target, "0/2000028", "0/4000100")
    with pytest.raises(Permanent, match=f"{segment_name(1, 5)} ends at byte 1000, before 2000"):
        copied(source, target, "0/4000028", "0/50007D0")


def test_a_history_goes_with_its_timeline(source: LogArchive, target: LogArchive) -> None:
    source.put_small("00000002.history", b"1\t0/4000100\tno recovery target specified\n")
    for number in (4, 5):
        source.complete(segment(number, 2), b"n" * SEGMENT_BYTES)
    copied(source, target, "0/3000028", "0/5000100", timeline=2)
    assert target.read_small("00000002.history") == source.read_small("00000002.history")
    assert [(one.segment.timeline[-1], one.segment.index) for one in target.segments()] == [
        ("1", 3), ("2", 4), ("2", 5),
    ]  # fmt: skip
