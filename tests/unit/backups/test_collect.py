"""Deleting and collecting: nothing that is needed goes, nothing else stays, whoever writes meanwhile."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Collection
from pathlib import Path

import pytest

from mainstay.backups.collect import collect_garbage, delete_backup
from mainstay.backups.directory_objects import DirectoryObjects
from mainstay.backups.manifests import Intent, list_backups, list_intents, read_manifest, write_intent
from mainstay.backups.objects import MemoryObjects
from mainstay.backups.read import verify_backup
from mainstay.backups.repository import Repository
from mainstay.backups.sealing import Damaged
from mainstay.backups.sources import walk
from mainstay.backups.write import BackupOptions, write_backup
from mainstay.host.randomness import SystemRandomness
from mainstay.model.errors import Transient

KEY = bytes(range(32))


def change(path: Path, share: float, chance: random.Random) -> None:
    """Rewrites a share of the file's pages."""
    with path.open("r+b") as file:
        pages = path.stat().st_size // 8192
        for page in chance.sample(range(pages), int(pages * share)):
            file.seek(page * 8192)
            file.write(chance.randbytes(8192))


@pytest.fixture
def chain(repository: Repository, data: Path) -> list[str]:
    """Backups, each upon the one before."""
    chance = random.Random(3)
    (data / "table").write_bytes(chance.randbytes(4 << 20))
    base = None
    names = ["b0", "b1", "b2", "b3"]
    for name in names:
        write_backup(repository, name, walk(data), BackupOptions(base=base))
        base = read_manifest(repository, name)
        change(data / "table", 0.1, chance)
    return names


def test_what_the_others_need_stays_in_any_order_of_deletion(repository: Repository, chain: list[str]) -> None:
    random.Random(1).shuffle(chain)
    for name in chain:
        delete_backup(repository, name)
        delete_backup(repository, name)
        collect_garbage(repository, ())
        assert collect_garbage(repository, ()).packs == 0
        for left in list_backups(repository):
            assert verify_backup(repository, left) == []
    assert repository.objects.list("") == []


def test_a_deleted_backup_frees_what_only_it_had(repository: Repository, chain: list[str]) -> None:
    delete_backup(repository, "b3")
    freed = collect_garbage(repository, ())
    assert 0.4 * (1 << 20) * 0.8 < freed.bytes < 0.4 * (1 << 20) * 1.5


def test_a_named_writer_keeps_its_packs_and_its_base(
    repository: Repository, data: Path, chain: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base is deleted, and everything collected, in the middle of a backup that builds on it."""
    monkeypatch.setattr("mainstay.backups.packs.PACK_STORED_BYTES", 100_000)
    monkeypatch.setattr("mainstay.backups.packs.FRAME_BYTES", 20_000)
    collected: list[int] = []
    own: list[int] = []

    def report(done: int, total: int) -> None:
        if done == total and not collected:
            deadline = time.monotonic() + 10
            while not repository.objects.list("db-ONE/packs/new/") and time.monotonic() < deadline:
                time.sleep(0.01)
            own.append(len(repository.objects.list("db-ONE/packs/new/")))
            delete_backup(repository, "b3")
            collected.append(collect_garbage(repository, ["new"]).packs)

    base = read_manifest(repository, "b3")
    change(data / "table", 0.1, random.Random(9))
    write_backup(repository, "new", walk(data), BackupOptions(base=base, workers=1), report=report)
    assert collected == [0] and own[0] > 0
    assert verify_backup(repository, "new") == []
    collect_garbage(repository, ())
    assert verify_backup(repository, "new") == [] and list_intents(repository) == []


def test_a_writer_that_was_not_named_fails_instead_of_being_half_there(
    repository: Repository, data: Path, chain: list[str]
) -> None:
    def report(done: int, total: int) -> None:
        if done == total:
            collect_garbage(repository, ())

    (data / "table").write_bytes(os.urandom(1 << 20))
    with pytest.raises(Transient, match="collected while"):
        write_backup(repository, "new", walk(data), BackupOptions(workers=1), report=report)
    assert list_backups(repository) == chain


def test_with_a_damaged_manifest_nothing_is_collected(repository: Repository, chain: list[str]) -> None:
    delete_backup(repository, "b0")
    key = "db-ONE/manifests/b1"
    repository.objects.put(key, repository.objects.get(key)[:-1])
    repository.objects.put(key, b"\0" + repository.objects.get(key)[1:60])
    before = repository.objects.list("")
    with pytest.raises(Damaged, match=key):
        collect_garbage(repository, ())
    assert repository.objects.list("") == before


def test_two_writers_at_once_even_of_one_name_do_not_harm_each_other(repository: Repository, data: Path) -> None:
    """The second runs as a whole in the middle of the first."""
    (data / "table").write_bytes(os.urandom(4 << 20))

    def second(done: int, total: int) -> None:
        if done * 2 >= total and list_backups(repository) == []:
            write_backup(repository, "same", walk(data))
            write_backup(repository, "other", walk(data))

    with pytest.raises(Transient, match="collected while"):
        write_backup(repository, "same", walk(data), BackupOptions(workers=1), report=second)
    assert list_backups(repository) == ["other", "same"]
    for name in ("other", "same"):
        assert verify_backup(repository, name) == []


class Died(BaseException):
    """Stands for kill -9."""


class Dying(MemoryObjects):
    """Fails at the n-th change, before or after it took effect."""

    def __init__(self, at: int, after: bool) -> None:
        super().__init__()
        self._left, self._after = at, after

    def recover(self) -> None:
        """From now on nothing fails."""
        self._left = 0

    def put(self, key: str, content: bytes) -> None:
        self._step(lambda: super(Dying, self).put(key, content))

    def delete(self, keys: Collection[str]) -> None:
        self._step(lambda: super(Dying, self).delete(keys))

    def _step(self, effect: object) -> None:
        self._left -= 1
        if self._left == 0 and not self._after:
            raise Died
        effect()  # type: ignore[operator]
        if self._left == 0:
            raise Died


@pytest.mark.parametrize("after", [False, True])
def test_dying_at_any_change_leaves_whole_backups_only_and_nothing_for_ever(after: bool, data: Path) -> None:
    at = 0
    died = True
    while died:
        at += 1
        objects = Dying(at, after)
        repository = Repository(objects, "db-ONE/", KEY, SystemRandomness())
        died = False
        try:
            write_backup(repository, "one", walk(data))
            with (data / "version").open("a") as file:
                file.write("more")
            base = read_manifest(repository, "one")
            write_backup(repository, "two", walk(data), BackupOptions(base=base))
            delete_backup(repository, "one")
            collect_garbage(repository, ())
        except Died:
            died = True
        objects.recover()
        for name in list_backups(repository):
            assert verify_backup(repository, name) == [], at
        write_backup(repository, "next", walk(data))
        collect_garbage(repository, ())
        for name in list_backups(repository):
            assert verify_backup(repository, name) == [], at
            delete_backup(repository, name)
        collect_garbage(repository, ())
        assert objects.list("") == [], at
    assert at > 8


def test_an_intent_of_a_dead_writer_protects_nothing(repository: Repository, chain: list[str]) -> None:
    packs = tuple((pack.backup_id, pack.number) for pack in read_manifest(repository, "b0").header.packs)
    write_intent(repository, Intent("dead", packs))
    for name in chain:
        delete_backup(repository, name)
    assert collect_garbage(repository, ["dead"]).packs > 0
    assert [key for key, _ in repository.objects.list("db-ONE/packs/")] != []
    collect_garbage(repository, ())
    assert repository.objects.list("") == []


def test_packs_of_which_little_is_needed_die_out(tmp_path: Path) -> None:
    chance = random.Random(11)
    repository = Repository(DirectoryObjects(tmp_path / "o"), "", KEY, SystemRandomness())
    (tmp_path / "data").mkdir()
    table = tmp_path / "data" / "table"
    table.write_bytes(chance.randbytes(2 << 20))
    (tmp_path / "data" / "cold").write_bytes(chance.randbytes(16 << 20))
    base = None
    for number in range(30):
        summary = write_backup(repository, f"b{number}", walk(tmp_path / "data"), BackupOptions(base=base))
        base = read_manifest(repository, f"b{number}")
        if number:
            assert summary.new < 0.03 * summary.size
            delete_backup(repository, f"b{number - 1}")
            collect_garbage(repository, ())
        change(table, 0.1, chance)
    stored = sum(size for _, size in repository.objects.list("packs/"))
    assert stored < 1.15 * (18 << 20), "old packs never go"
    assert verify_backup(repository, "b29") == []
