"""Files that come through a pipe: what is restored is what was sent, however it was cut; half a stream is nothing."""

from __future__ import annotations

import os
import random
import struct
import threading
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from mainstay.backups.blocks import BLOCK_BYTES_MIN
from mainstay.backups.manifests import list_backups, read_manifest
from mainstay.backups.parallel import Cancelled
from mainstay.backups.repository import Repository
from mainstay.backups.restore import restore_backup
from mainstay.backups.streams import ANEW, IGNORABLE, StreamBroken, Streaming
from mainstay.backups.write import BackupOptions, Late, write_backup
from mainstay.model.backup import BackupSummary, SourceFile
from mainstay.model.errors import Permanent

BLOCK = BLOCK_BYTES_MIN


def head(kind: bytes, path: str, flags: int = 0) -> bytes:
    return b"XBSTCK01" + bytes([flags]) + kind + struct.pack("<I", len(path.encode())) + path.encode()


def content(path: str, offset: int, data: bytes, flags: int = 0) -> bytes:
    return head(b"P", path, flags) + struct.pack("<QQI", len(data), offset, zlib.crc32(data)) + data


def end(path: str) -> bytes:
    return head(b"E", path)


def seek(path: str, offset: int) -> bytes:
    return head(b"S", path) + struct.pack("<Q", offset)


def rename(path: str, to: str) -> bytes:
    return head(b"R", path) + struct.pack("<I", len(to)) + to.encode()


def whole(path: str, data: bytes) -> bytes:
    return content(path, 0, data) + end(path)


def alternating(files: dict[str, bytes], chance: random.Random) -> Iterable[bytes]:
    """The files in chunks of any length, those of several files in turns."""
    sent = dict.fromkeys(files, 0)
    while sent:
        path = chance.choice(list(sent))
        part = files[path][sent[path] : sent[path] + chance.choice([1, 511, BLOCK, 300_000, 2_000_000])]
        if part:
            yield content(path, sent[path], part)
            sent[path] += len(part)
        else:
            yield end(path)
            del sent[path]


def store(
    repository: Repository,
    stream: Iterable[bytes],
    backup_id: str = "one",
    *,
    base: str = "",
    late: Sequence[SourceFile] = (),
    stop: threading.Event | None = None,
) -> BackupSummary:
    """A backup of what is written into a pipe, by a thread that ends when nobody reads any more."""
    reading, writing = os.pipe()

    def write() -> None:
        try:
            with os.fdopen(writing, "wb") as pipe:
                for chunk in stream:
                    pipe.write(chunk)
        except BrokenPipeError:
            pass

    writer = threading.Thread(target=write)
    writer.start()
    try:
        options = BackupOptions(
            base=read_manifest(repository, base) if base else None,
            streaming=Streaming(descriptor=reading, size=1),
            late=lambda: Late(sources=tuple(late)),
            workers=3,
        )
        return write_backup(repository, backup_id, [], options, stop=stop)
    finally:
        os.close(reading)
        writer.join()


def restored(repository: Repository, root: Path, backup_id: str = "one") -> dict[str, bytes]:
    root.mkdir()
    restore_backup(repository, read_manifest(repository, backup_id), root)
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("seed", range(8))
def test_what_is_restored_is_what_was_sent(repository: Repository, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    lengths = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5, 5_000_000]
    files = {f"shop/{number}.ibd": chance.randbytes(length) for number, length in enumerate(lengths)}
    files["zeros"] = bytes(1 << 20)
    label = SourceFile(path="label", mode=0o600, content=b"late")
    store(repository, alternating(files, chance), late=[label])
    assert restored(repository, tmp_path / "out") == files | {"label": b"late"}


def test_what_the_backup_before_has_is_not_stored_again(repository: Repository, tmp_path: Path) -> None:
    chance = random.Random(1)
    large = bytearray(chance.randbytes(8 << 20))
    store(repository, [whole("a", bytes(large)), whole("b", b"b" * 100)])
    large[5 << 20] ^= 1
    summary = store(repository, alternating({"a": bytes(large), "b": b"b" * 100}, chance), "two", base="one")
    assert summary.new == BLOCK
    assert restored(repository, tmp_path / "out", "two") == {"a": bytes(large), "b": b"b" * 100}


def test_what_the_tool_changes_in_the_end_is_changed(repository: Repository, tmp_path: Path) -> None:
    first, second = os.urandom(100_000), os.urandom(50_000)
    stream = [
        content("log", 0, first), seek("log", 100), content("log", 100, b"header"), content("log", 106, b"more"),
        seek("log", len(first)), content("log", len(first), b"tail"), end("log"),
        whole("gone", first), head(b"D", "gone"),
        whole("old", first), whole("new", b"replaced"), rename("old", "new"),
        whole("again", first), content("again", 0, second, ANEW), end("again"),
        head(b"?", "", IGNORABLE), end("empty"),
    ]  # fmt: skip
    store(repository, stream)
    assert restored(repository, tmp_path / "out") == {
        "log": first[:100] + b"headermore" + first[110:] + b"tail",
        "new": first,
        "again": second,
        "empty": b"",
    }


LARGE = content("a", 0, bytes(BLOCK * 3))


@pytest.mark.parametrize(
    "stream",
    [
        [LARGE],
        [LARGE[:-1]],
        [LARGE, end("a")[:-1]],
        [LARGE, content("a", BLOCK, b"x"), end("a")],
        [LARGE, seek("a", BLOCK), content("a", BLOCK, b"x"), end("a")],
        [LARGE, head(b"D", "a"), end("a")],
        [LARGE, head(b"?", "a"), end("a")],
        [LARGE, b"no magic word, and some more", end("a")],
    ],
    ids=["no-end", "in-content", "in-a-head", "overlap", "far-back", "removed-open", "unknown", "no-magic"],
)
def test_a_stream_that_is_not_understood_to_its_end_is_no_backup(repository: Repository, stream: list[bytes]) -> None:
    with pytest.raises(StreamBroken):
        store(repository, stream)
    assert list_backups(repository) == []


@pytest.mark.parametrize("path", ["../a", "/a", "a//b", "b/."])
def test_a_path_that_leads_elsewhere_is_refused(repository: Repository, path: str) -> None:
    with pytest.raises(Permanent, match="no path within"):
        store(repository, [whole(path, b"x")])


def test_a_file_that_comes_twice_is_refused(repository: Repository) -> None:
    with pytest.raises(Permanent, match="twice"):
        store(repository, [whole("a", b"1"), whole("a", b"2")])


def test_who_stops_it_does_not_wait_for_the_stream(repository: Repository) -> None:
    reading, writing = os.pipe()
    stop = threading.Event()
    try:
        os.write(writing, LARGE[:-1])
        timer = threading.Timer(0.2, stop.set)
        timer.start()
        with pytest.raises(Cancelled):
            options = BackupOptions(streaming=Streaming(descriptor=reading, size=1))
            write_backup(repository, "one", [], options, stop=stop)
    finally:
        os.close(reading)
        os.close(writing)
    assert list_backups(repository) == []
