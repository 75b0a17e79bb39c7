"""Reading the log back: each kind of harm is named by its segment, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mainstay.backups.log_archive import LogArchive, Segment
from mainstay.backups.repository import Repository
from mainstay.backups.verify_log import NeededSegment, verify_log

LENGTH = 1000


def segment(index: int) -> Segment:
    return Segment("00000001", index, f"seg{index}")


@pytest.fixture
def needed(repository: Repository) -> list[NeededSegment]:
    """Four segments, the last in pieces that grow, as they are needed."""
    archive = LogArchive(repository)
    for index in range(3):
        archive.complete(segment(index), bytes([index]) * LENGTH)
    archive.append_piece(segment(3), 0, b"a" * 300)
    archive.append_piece(segment(3), 300, b"b" * 100)
    archive.put_small("00000001.history", b"here")
    ends = (LENGTH, LENGTH, LENGTH, 400)
    return [NeededSegment("00000001", index, f"seg{index}", end) for index, end in enumerate(ends)]


def told(repository: Repository, needed: list[NeededSegment]) -> list[str]:
    return [f"{one.key}: {one.reason}" for one in verify_log(repository, needed, ["00000001.history"])]


def test_a_sound_log_is_sound_and_its_progress_ends_at_its_size(
    repository: Repository, needed: list[NeededSegment]
) -> None:
    reported: list[tuple[int, int]] = []
    assert verify_log(repository, needed, report=lambda done, total: reported.append((done, total))) == []
    assert len(reported) == 4 and reported[-1][0] == reported[-1][1] > 0


def remove(path: Path) -> None:
    path.unlink()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize("harm", [remove, flip, cut])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_every_harm_to_one_segment_is_told_with_its_name(
    repository: Repository, tmp_path: Path, needed: list[NeededSegment], harm: Callable[[Path], None], index: int
) -> None:
    harm(tmp_path / f"objects/db-ONE/log/00000001/{index:016x}.seg{index}.whole")
    (only,) = told(repository, needed)
    assert f"log segment seg{index}" in only and f"{index:016x}.seg{index}" in only


def test_a_piece_in_the_middle_or_at_the_end_that_is_gone_is_told(
    repository: Repository, tmp_path: Path, needed: list[NeededSegment]
) -> None:
    pieces = sorted((tmp_path / f"objects/db-ONE/log/00000001/{3:016x}.seg3").iterdir())
    saved = pieces[1].read_bytes()
    pieces[1].unlink()
    (only,) = told(repository, needed)
    assert "the log segment seg3 ends at byte 300, before 400" in only
    pieces[1].write_bytes(saved)
    pieces[0].unlink()
    (only,) = told(repository, needed)
    assert "seg3" in only and "gap at byte 0" in only


def test_what_is_not_needed_may_be_missing_but_not_damaged(repository: Repository, tmp_path: Path) -> None:
    archive = LogArchive(repository)
    archive.complete(segment(7), b"x" * LENGTH)
    assert verify_log(repository, []) == []
    flip(tmp_path / f"objects/db-ONE/log/00000001/{7:016x}.seg7.whole")
    assert [one.reason[:20] for one in verify_log(repository, [])] == ["in log segment seg7:"]


def test_small_files_that_are_needed_must_be_there(repository: Repository, needed: list[NeededSegment]) -> None:
    assert [one.reason for one in verify_log(repository, needed, ["00000002.history"])] == [
        "the log's file 00000002.history is missing"
    ]
