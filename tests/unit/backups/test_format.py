"""docs/backup-format.md is enough to read a backup: the reader on that page is run, and knows nothing of our code."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from mainstay.backups.log_archive import LogArchive, Segment
from mainstay.backups.manifests import read_manifest
from mainstay.backups.objects import MemoryObjects
from mainstay.backups.repository import Repository
from mainstay.backups.sources import walk
from mainstay.backups.write import BackupOptions, write_backup
from mainstay.host.randomness import SystemRandomness

PAGE = Path(__file__).parents[3] / "docs" / "backup-format.md"
KEY = bytes(range(32))


@pytest.fixture
def reader() -> dict[str, Any]:
    """What the page defines."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)  # noqa: S102 - our own page
    return names


def test_the_reader_on_the_page_reads_what_was_written(reader: dict[str, Any], data: Path, tmp_path: Path) -> None:
    objects = MemoryObjects()
    repository = Repository(objects, "eu/db-ONE/", KEY, SystemRandomness())
    write_backup(repository, "one", walk(data))
    with (data / "base" / "1" / "large").open("r+b") as file:
        file.seek(100_000)
        file.write(os.urandom(30_000))
    write_backup(repository, "two", walk(data), BackupOptions(base=read_manifest(repository, "one")))
    (tmp_path / "restored").mkdir()
    reader["read_backup"](objects.get, "eu/db-ONE/", KEY, "two", tmp_path / "restored")
    for path in data.rglob("*"):
        copy = tmp_path / "restored" / path.relative_to(data)
        assert copy.stat().st_mode == path.stat().st_mode
        assert path.is_dir() or copy.read_bytes() == path.read_bytes()


def test_the_log_is_as_the_page_says(reader: dict[str, Any]) -> None:
    objects = MemoryObjects()
    archive = LogArchive(Repository(objects, "db/", KEY, SystemRandomness()))
    content = os.urandom(3 << 20)
    archive.complete(Segment("1", 26, "00000001000000000000001A"), content)
    archive.append_piece(Segment("1", 27, "00000001000000000000001B"), 0, content[:1000])
    archive.put_small("00000002.history", b"history")
    keys = [
        "db/log-small/00000002.history",
        "db/log/1/000000000000001a.00000001000000000000001A.whole",
        "db/log/1/000000000000001b.00000001000000000000001B/0000000000-00000003e8",
    ]
    assert [key for key, _ in objects.list("")] == keys
    opened = [reader["open_object"](KEY, key, objects.get(key)) for key in keys]
    assert opened == [b"history", content, content[:1000]]


def test_the_manifest_of_a_gibibyte_has_a_few_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sixteenth of it, of which every second block changes again and again."""
    objects = MemoryObjects()
    repository = Repository(objects, "", KEY, SystemRandomness())
    from mainstay.model.backup import SourceFile

    pages = bytearray(os.urandom(64 << 20))
    base = None
    for number in range(3):
        source = SourceFile(path="table", mode=0o600, content=bytes(pages))
        write_backup(repository, f"b{number}", [source], BackupOptions(base=base))
        base = read_manifest(repository, f"b{number}")
        for page in range(number % 2, len(pages) // 8192, 2):
            pages[page * 8192 + number] ^= 1
    assert 16 * objects.size("manifests/b2") < 4 << 20
