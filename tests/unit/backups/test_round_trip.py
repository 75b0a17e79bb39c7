"""Writing and restoring: what comes back is what was there, and a second backup stores only what changed."""

from __future__ import annotations

import os
import stat
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mainstay.backups.manifests import list_backups, list_intents, read_manifest
from mainstay.backups.objects import MemoryObjects
from mainstay.backups.packs import PACK_STORED_BYTES
from mainstay.backups.parallel import Cancelled
from mainstay.backups.read import verify_backup
from mainstay.backups.repository import Repository
from mainstay.backups.restore import restore_backup
from mainstay.backups.sources import Content, open_source, walk
from mainstay.backups.write import SPAN_BYTES, BackupOptions, write_backup
from mainstay.host.randomness import SystemRandomness
from mainstay.model.backup import BackupDirectory, BackupFile, BackupHeader, Manifest, SourceFile
from mainstay.model.errors import Permanent, Transient


def tree(root: Path) -> dict[str, tuple[int, bytes | None]]:
    """Path -> mode and content of everything below."""
    return {
        str(path.relative_to(root)): (stat.S_IMODE(path.stat().st_mode), None if path.is_dir() else path.read_bytes())
        for path in root.rglob("*")
    }


def test_what_is_restored_is_what_was_there(repository: Repository, data: Path, tmp_path: Path) -> None:
    reports: list[tuple[int, int]] = []
    label = SourceFile(path="backup_label", mode=0o600, content=b"START WAL LOCATION")
    summary = write_backup(
        repository,
        "one",
        [*walk(data), label],
        BackupOptions(attributes={"start": "0/1"}),
        report=lambda done, total: reports.append((done, total)),
    )
    assert list_backups(repository) == ["one"] and list_intents(repository) == []
    assert reports[-1] == (summary.size, summary.size) and reports == sorted(reports)
    manifest = read_manifest(repository, "one")
    assert manifest.header.attributes == {"start": "0/1"}
    assert verify_backup(repository, "one") == []
    restore_backup(repository, manifest, tmp_path / "restored")
    restored = tree(tmp_path / "restored")
    assert restored.pop("backup_label") == (0o600, b"START WAL LOCATION")
    assert restored == tree(data)
    large = tmp_path / "restored" / "base" / "1" / "large"
    assert large.stat().st_mtime_ns == (data / "base" / "1" / "large").stat().st_mtime_ns
    assert large.stat().st_blocks * 512 <= large.stat().st_size - (1 << 20) + 65536, "zeros take room"


def test_a_second_backup_stores_what_changed_and_stands_alone(
    repository: Repository, data: Path, tmp_path: Path
) -> None:
    content = bytearray(os.urandom(40 << 20))
    (data / "table").write_bytes(content)
    first = write_backup(repository, "one", walk(data))
    for page in range(0, len(content) // 8192, 100):
        content[page * 8192 + 17] ^= 1
    (data / "table").write_bytes(content)
    (data / "version").unlink()
    second = write_backup(repository, "two", walk(data), BackupOptions(base=read_manifest(repository, "one")))
    assert second.stored <= 0.03 * first.stored
    assert second.new == pytest.approx(0.01 * len(content), rel=0.1)
    repository.objects.delete([repository.key("manifests/one")])
    restore_backup(repository, read_manifest(repository, "two"), tmp_path / "restored")
    assert tree(tmp_path / "restored") == tree(data)


def test_files_larger_than_a_span_and_a_pack_are_whole(repository: Repository, tmp_path: Path) -> None:
    content = os.urandom(PACK_STORED_BYTES + SPAN_BYTES + 12345)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "huge").write_bytes(content)
    write_backup(repository, "one", walk(tmp_path / "data"))
    assert len(repository.objects.list("db-ONE/packs/")) >= 2
    restore_backup(repository, read_manifest(repository, "one"), tmp_path / "restored")
    assert (tmp_path / "restored" / "huge").read_bytes() == content


class Shrinking:
    """A file that is cut to `size` bytes after the first read."""

    def __init__(self, path: str, size: int) -> None:
        self._inner = open_source(SourceFile(path="x", mode=0, origin=path))
        self._path, self._size = path, size

    def read_into(self, view: memoryview, offset: int) -> int:
        assert self._inner is not None
        count = self._inner.read_into(view, offset)
        os.truncate(self._path, self._size)
        return count

    def close(self) -> None:
        assert self._inner is not None
        self._inner.close()


def test_files_that_vanish_shrink_and_grow_meanwhile(repository: Repository, data: Path, tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    for name in ("gone", "shrinks", "grows"):
        (data / name).write_bytes(content)
    sources = list(walk(data))
    (data / "gone").unlink()
    (data / "grows").write_bytes(content * 2)

    def opened(source: SourceFile) -> Content | None:
        if source.path == "shrinks":
            return Shrinking(source.origin, (1 << 20) + 100)
        return open_source(source)

    summary = write_backup(repository, "one", sources, BackupOptions(workers=1), open_content=opened)
    assert summary.vanished == 1
    restore_backup(repository, read_manifest(repository, "one"), tmp_path / "restored")
    assert not (tmp_path / "restored" / "gone").exists()
    assert (tmp_path / "restored" / "shrinks").read_bytes() == content[: (1 << 20) + 100]
    assert (tmp_path / "restored" / "grows").read_bytes() == content


def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(repository: Repository, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Permanent, match="no regular file"):
        write_backup(repository, "one", [SourceFile(path="x", mode=0o600, size=9, origin=str(tmp_path / "pipe"))])
    assert list_backups(repository) == []


def test_a_backup_that_exists_is_never_replaced(repository: Repository, data: Path) -> None:
    write_backup(repository, "one", walk(data))
    with pytest.raises(Permanent, match="already"):
        write_backup(repository, "one", walk(data))


def test_a_base_that_is_gone_is_not_built_on(repository: Repository, data: Path) -> None:
    write_backup(repository, "one", walk(data))
    base = read_manifest(repository, "one")
    repository.objects.delete([repository.key("manifests/one")])
    with pytest.raises(Transient, match="gone"):
        write_backup(repository, "two", walk(data), BackupOptions(base=base))
    assert list_intents(repository) == []


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "a//b", "", ".", "a/.", "a\0b"])
def test_paths_that_leave_the_destination_are_refused(path: str, repository: Repository, tmp_path: Path) -> None:
    with pytest.raises(Permanent, match="no path within"):
        write_backup(repository, "one", [SourceFile(path=path, mode=0o600, content=b"x")])
    header = BackupHeader(1, "evil", {}, bytes(32), 1, 0, (), ())
    files = (BackupFile(path, 0o600, 0, 0, 8192, b"", b""),)
    for manifest in (
        Manifest(header, files),
        Manifest(BackupHeader(1, "evil", {}, bytes(32), 0, 0, (), (BackupDirectory(path, 0o700),)), ()),
    ):
        with pytest.raises(Permanent, match="no path within"):
            restore_backup(repository, manifest, tmp_path / "restored")
    assert not (tmp_path / "restored").exists()


def test_a_destination_with_something_in_it_is_left_alone(repository: Repository, data: Path) -> None:
    write_backup(repository, "one", walk(data))
    before = tree(data)
    with pytest.raises(Permanent, match="not empty"):
        restore_backup(repository, read_manifest(repository, "one"), data)
    assert tree(data) == before


class Refusing(MemoryObjects):
    """Has no room for packs."""

    def put(self, key: str, content: bytes) -> None:
        if "/packs/" in key:
            raise Transient("there is no room")
        super().put(key, content)


def test_an_object_storage_that_fails_ends_a_backup_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mainstay.backups.packs.PACK_STORED_BYTES", 50_000)
    monkeypatch.setattr("mainstay.backups.packs.FRAME_BYTES", 20_000)
    monkeypatch.setattr("mainstay.backups.packs.UPLOAD_DEADLINE_S", 20.0)
    repository = Repository(Refusing(), "db/", bytes(32), SystemRandomness())
    sources = [SourceFile(path=f"f{number}", mode=0o600, content=os.urandom(1 << 20)) for number in range(64)]
    began = time.monotonic()
    with pytest.raises(Transient, match="there is no room"):
        write_backup(repository, "one", sources, BackupOptions(workers=8))
    assert time.monotonic() - began < 10 and list_backups(repository) == []


class StopAfter:
    """A report that sets the event after so many calls."""

    def __init__(self, calls: int, set_event: Callable[[], None]) -> None:
        self._left, self._set = calls, set_event

    def __call__(self, _done: int, _total: int) -> None:
        self._left -= 1
        if not self._left:
            self._set()


def test_a_restore_and_a_backup_can_be_cancelled(repository: Repository, data: Path, tmp_path: Path) -> None:
    (data / "table").write_bytes(os.urandom(2 * PACK_STORED_BYTES))
    stop = threading.Event()
    with pytest.raises(Cancelled):
        write_backup(repository, "one", walk(data), BackupOptions(workers=1), report=StopAfter(2, stop.set), stop=stop)
    assert list_backups(repository) == []
    write_backup(repository, "two", walk(data))
    stop.clear()
    with pytest.raises(Cancelled):
        restore_backup(
            repository,
            read_manifest(repository, "two"),
            tmp_path / "restored",
            workers=1,
            report=StopAfter(2, stop.set),
            stop=stop,
        )
    assert list((tmp_path / "restored").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")
def test_root_restores_as_the_owner_and_only_where_the_owner_may(repository: Repository, data: Path) -> None:
    write_backup(repository, "one", walk(data))
    manifest = read_manifest(repository, "one")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        restored = Path(name) / "restored"
        Path(name).chmod(0o755)
        with pytest.raises(Transient, match="cannot be restored"):
            restore_backup(repository, manifest, restored, owner=(4321, 4322))
        restored.mkdir()
        os.chown(restored, 4321, 4322)
        restore_backup(repository, manifest, restored, owner=(4321, 4322))
        assert tree(restored) == tree(data)
        assert {(path.stat().st_uid, path.stat().st_gid) for path in restored.rglob("*")} == {(4321, 4322)}
