"""The log archive: pieces, wholes, gaps, repeats, and a reader beside the writer."""

from __future__ import annotations

import builtins
import os
import threading
from collections.abc import Callable, Collection
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstay.backups import log_archive as module
from mainstay.backups.directory_objects import DirectoryObjects
from mainstay.backups.log_archive import LogArchive, Segment
from mainstay.backups.objects import MemoryObjects, Objects
from mainstay.backups.repository import Repository
from mainstay.backups.sealing import Damaged
from mainstay.host.randomness import SystemRandomness
from mainstay.model.errors import Permanent

KEY = bytes(range(32))


def named(index: int) -> str:
    return f"0000000100000000{index:08X}"


def segment(index: int, timeline: str = "1") -> Segment:
    return Segment(timeline, index, named(index))


def archive_of(objects: Objects) -> LogArchive:
    return LogArchive(Repository(objects, "db-ONE/", KEY, SystemRandomness()))


def flip(objects: MemoryObjects, key: str, at: int = -1) -> None:
    content = bytearray(objects.get(key))
    content[at] ^= 1
    objects.put(key, bytes(content))


def test_a_segment_grows_by_pieces_and_becomes_whole() -> None:
    objects = MemoryObjects()
    archive = archive_of(objects)
    content = os.urandom(3 << 20)
    assert archive.read_segment(segment(7)) is None
    archive.append_piece(segment(7), 0, content[:1000])
    archive.append_piece(segment(7), 1000, content[1000:5000])
    assert archive.read_segment(segment(7)) == content[:5000]
    (one,) = archive.segments("1")
    assert (one.segment, one.whole, one.end) == (segment(7), False, 5000)
    archive.complete(segment(7), memoryview(content))
    archive.complete(segment(7), content)
    assert archive.read_segment(segment(7)) == content
    assert [key for key, _ in objects.list("")] == [f"db-ONE/log/1/{7:016x}.{named(7)}.whole"]
    assert [one.whole for one in archive.segments()] == [True]


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 40)), max_size=12))
def test_pieces_in_any_order_that_overlap_and_repeat_are_read_right_or_called_a_gap(
    bounds: list[tuple[int, int]],
) -> None:
    content = bytes(range(101))
    archive = archive_of(MemoryObjects())
    covered: set[int] = set()
    for start, length in bounds:
        archive.append_piece(segment(1), start, content[start : start + length])
        covered |= set(range(start, min(start + length, 101)))
    whole = covered == set(range(len(covered)))
    if not bounds:
        assert archive.read_segment(segment(1)) is None
    elif whole:
        assert archive.read_segment(segment(1)) == content[: len(covered)]
        assert archive.segments()[0].end == len(covered)
    else:
        with pytest.raises(Damaged, match=f"{named(1)} has a gap"):
            archive.read_segment(segment(1))
        assert archive.segments()[0].end == next(byte for byte in range(102) if byte not in covered)


def test_a_writer_that_died_between_whole_and_pieces_leaves_nothing_that_matters() -> None:
    objects = MemoryObjects()
    archive = archive_of(objects)
    archive.append_piece(segment(1), 0, b"beginning")
    archive.append_piece(segment(2), 0, b"other")

    class Dies(MemoryObjects):
        def delete(self, keys: Collection[str]) -> None:
            raise KeyboardInterrupt

    dying = Dies()
    dying._objects = objects._objects
    with pytest.raises(KeyboardInterrupt):
        archive_of(dying).complete(segment(1), b"beginning and end")
    assert archive.read_segment(segment(1)) == b"beginning and end"
    assert [one.whole for one in archive.segments()] == [True, False]
    archive.delete_segments(lambda _segment: True)
    assert len(objects.list("")) == 2
    archive.complete(segment(1), b"beginning and end")
    assert archive.read_segment(segment(1)) == b"beginning and end"


def test_altered_pieces_and_wholes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = MemoryObjects()
    archive = archive_of(objects)
    archive.append_piece(segment(1), 0, b"one")
    archive.complete(segment(2), os.urandom(3 << 20))
    keys = [key for key, _ in objects.list("")]
    for key, index in zip(keys, (1, 2), strict=True):
        flip(objects, key)
        with pytest.raises(Damaged, match=key):
            archive.read_segment(segment(index))
    whole = objects.get(keys[1])
    frame = 4 + (int.from_bytes(whole[:4], "big") & 0x7FFF_FFFF)
    objects.put(keys[1], whole[:frame])
    with pytest.raises(Damaged, match="end is missing"):
        archive.read_segment(segment(2))
    objects.put(f"db-ONE/log/1/{3:016x}.{named(3)}/{0:010x}-{9:010x}", objects.get(keys[0]))
    with pytest.raises(Damaged, match="another place"):
        archive.read_segment(segment(3))


def test_the_first_missing_segment_is_named() -> None:
    archive = archive_of(MemoryObjects())
    for index in range(3, 9):
        archive.complete(segment(index), b"x")
    archive.append_piece(segment(9), 0, b"x")
    archive.append_piece(segment(10), 5, b"its beginning is missing")
    assert archive.first_missing(segment(3), segment(9), named) is None
    assert archive.first_missing(segment(2), segment(9), named) == segment(2)
    assert archive.first_missing(segment(3), segment(10), named) == segment(9)
    assert archive.first_missing(segment(10), segment(10), named) == segment(10)
    archive.delete_segments(lambda one: one.index != 5)
    assert archive.first_missing(segment(3), segment(9), named) == segment(5)
    with pytest.raises(Permanent, match="no part of one timeline"):
        archive.first_missing(segment(3), segment(4, "2"), named)


def test_older_segments_go_and_other_timelines_stay() -> None:
    archive = archive_of(MemoryObjects())
    for index in range(4):
        archive.complete(segment(index), b"x")
        archive.append_piece(segment(index, "2"), 0, b"x")
    assert archive.delete_older("1", 2) == 2
    assert [(one.segment.timeline, one.segment.index) for one in archive.segments()] == [
        ("1", 2), ("1", 3), ("2", 0), ("2", 1), ("2", 2), ("2", 3),
    ]  # fmt: skip
    assert len(archive.segments("2")) == 4


def test_small_files() -> None:
    archive = archive_of(MemoryObjects())
    assert archive.read_small("00000002.history") is None
    archive.put_small("00000002.history", b"1\t0/3000000\tno recovery target\n")
    archive.put_small("00000002.history", b"1\t0/3000000\tno recovery target\n")
    assert archive.read_small("00000002.history") == b"1\t0/3000000\tno recovery target\n"
    assert archive.list_small() == ["00000002.history"]


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    archive = archive_of(MemoryObjects())
    monkeypatch.setattr(module, "SEGMENT_BYTES_MAX", 10)
    archive.append_piece(segment(1), 9, b"x")
    archive.complete(segment(1), b"x" * 10)
    refusals: tuple[Callable[[], object], ...] = (
        lambda: archive.append_piece(segment(1), 9, b"xx"),
        lambda: archive.append_piece(segment(1), 0, b""),
        lambda: archive.append_piece(segment(1), -1, b"xx"),
        lambda: archive.complete(segment(1), b"x" * 11),
        lambda: archive.put_small("../x", b""),
        lambda: archive.complete(Segment("1", 1, "a/b"), b""),
        lambda: archive.complete(Segment("1", 1, "a.whole"), b""),
        lambda: archive.complete(Segment("..", 1, "a"), b""),
        lambda: archive.complete(Segment("1", -1, "a"), b""),
    )
    for refused in refusals:
        with pytest.raises(Permanent):
            refused()


class HalfDeleted(MemoryObjects):
    """When it is first listed, the writer has just put the whole and removed the first piece."""

    def list(self, prefix: str) -> builtins.list[tuple[str, int]]:
        if not any(key.endswith(".whole") for key in self._objects):
            repository = Repository(self, "db-ONE/", KEY, SystemRandomness())
            key = f"db-ONE/log/1/{1:016x}.{named(1)}.whole"
            self.put(key, repository.sealer.seal(key, [b"one two three"]))
            self.delete([f"db-ONE/log/1/{1:016x}.{named(1)}/{0:010x}-{3:010x}"])
        return super().list(prefix)


def test_pieces_that_are_being_removed_are_no_gap() -> None:
    archive = archive_of(HalfDeleted())
    archive.append_piece(segment(1), 0, b"one")
    archive.append_piece(segment(1), 3, b" two")
    assert archive.read_segment(segment(1)) == b"one two three"


class ListsOfBefore(MemoryObjects):
    """Lists what was there before the writer put the whole, without the pieces that it removed then."""

    def list(self, prefix: str) -> builtins.list[tuple[str, int]]:
        return [entry for entry in super().list(prefix) if not entry[0].endswith(".whole")]


def test_a_segment_that_was_just_made_whole_is_not_missing() -> None:
    archive = archive_of(ListsOfBefore())
    archive.complete(segment(1), b"x")
    assert archive.first_missing(segment(1), segment(1), named) is None
    assert archive.first_missing(segment(1), segment(2), named) == segment(2)


@pytest.mark.parametrize("kind", ["memory", "directory"])
def test_a_reader_beside_a_writer_that_compacts_never_fails(kind: str, tmp_path: Path) -> None:
    archive = archive_of(MemoryObjects() if kind == "memory" else DirectoryObjects(tmp_path))
    contents = {index: os.urandom(200) for index in range(100)}
    begun = threading.Event()
    failures: list[BaseException] = []

    def read() -> None:
        try:
            begun.wait(10)
            for index, content in contents.items():
                while (got := archive.read_segment(segment(index))) != content:
                    assert got is None or content.startswith(got)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    begun.set()
    for index, content in contents.items():
        for start in range(0, 200, 50):
            archive.append_piece(segment(index), start, content[start : start + 50])
        archive.complete(segment(index), content)
    for thread in threads:
        thread.join(30)
    assert failures == []
