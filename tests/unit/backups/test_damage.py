"""B3: whatever happens to stored objects is found by verification, and by a restore before it is over."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mainstay.backups import read as module
from mainstay.backups.directory_objects import DirectoryObjects
from mainstay.backups.manifests import read_manifest
from mainstay.backups.objects import ObjectNotFound
from mainstay.backups.read import verify_backup
from mainstay.backups.repository import Repository
from mainstay.backups.restore import restore_backup
from mainstay.backups.sealing import Damaged, Sealer
from mainstay.backups.sources import walk
from mainstay.backups.write import BackupOptions, write_backup
from mainstay.host.randomness import SystemRandomness
from mainstay.model.backup import Pack
from mainstay.model.errors import Permanent

KEY = bytes(range(32))


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """A second backup, many small packs, half of them from the first."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)  # this is about damage, and there are many rounds
    monkeypatch.setattr("mainstay.backups.packs.PACK_STORED_BYTES", 60_000)
    monkeypatch.setattr("mainstay.backups.packs.FRAME_BYTES", 20_000)
    monkeypatch.setattr("mainstay.backups.packs.READ_BYTES", 16_384)
    repository = Repository(DirectoryObjects(tmp_path / "objects"), "db-ONE/", KEY, SystemRandomness())
    data = tmp_path / "data"
    data.mkdir()
    for number in range(24):
        (data / f"file-{number:02}").write_bytes(os.urandom(64_000))
    write_backup(repository, "one", walk(data))
    for number in range(0, 24, 2):
        (data / f"file-{number:02}").write_bytes(os.urandom(64_000))
    write_backup(repository, "two", walk(data), BackupOptions(base=read_manifest(repository, "one")))
    assert len(repository.objects.list("db-ONE/packs/")) > 24
    return repository


def needed(repository: Repository) -> list[Path]:
    """The files of the objects that backup "two" needs."""
    objects = Path(repository.objects._root)  # type: ignore[attr-defined]
    packs = [f"packs/{pack.backup_id}/{pack.number:013x}" for pack in read_manifest(repository, "two").header.packs]
    return [objects / "db-ONE" / name for name in (*packs, "manifests/two")]


def flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def truncate(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(path.stat().st_size))


def delete(path: Path, _chance: random.Random) -> None:
    path.unlink()


def zero_fill(path: Path, chance: random.Random) -> None:
    with path.open("r+b") as file:
        file.seek(chance.randrange(path.stat().st_size // 2))
        file.write(bytes(512))


def zero_whole(path: Path, _chance: random.Random) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def append(path: Path, _chance: random.Random) -> None:
    if "manifests" in str(path):
        path.write_bytes(path.read_bytes() + b"\0")
    else:
        path.unlink()


HARMS: list[tuple[int, Callable[[Path, random.Random], None]]] = [
    (100, flip),
    (20, truncate),
    (20, delete),
    (10, zero_fill),
    (5, zero_whole),
    (5, append),
]


@pytest.mark.parametrize(("times", "harm"), HARMS, ids=lambda value: getattr(value, "__name__", ""))
def test_every_harm_to_an_object_is_found_and_named(
    times: int, harm: Callable[[Path, random.Random], None], stored: Repository, tmp_path: Path
) -> None:
    chance = random.Random(5)
    paths = needed(stored)
    for _ in range(times):
        path = chance.choice(paths)
        sound = path.read_bytes()
        harm(path, chance)
        found = verify_backup(stored, "two")
        key = str(path.relative_to(tmp_path / "objects"))
        assert [error.key for error in found] == [key] * len(found) and found
        if "packs" in key:
            assert all(name.startswith("file-") for error in found for name in error.files)
            assert all(error.files for error in found)
        with pytest.raises((Damaged, ObjectNotFound), match=key):
            restore_backup(stored, read_manifest(stored, "two"), tmp_path / "restored")
        assert not (tmp_path / "restored").exists() or not list((tmp_path / "restored").iterdir())
        path.write_bytes(sound)
    assert verify_backup(stored, "two") == []


def test_swapped_objects_and_frames_are_found(stored: Repository) -> None:
    paths = [path for path in needed(stored) if "packs" in str(path)]
    one, two = paths[0], paths[-1]
    contents = one.read_bytes(), two.read_bytes()
    one.write_bytes(contents[1])
    two.write_bytes(contents[0])
    found = {error.key.rpartition("/")[2] for error in verify_backup(stored, "two")}
    assert found == {one.name, two.name}
    one.write_bytes(contents[0])
    two.write_bytes(contents[1])
    # Two frames of one object, of equal length because their content is random and equally long.
    length = 4 + (int.from_bytes(contents[0][:4], "big") & 0x7FFF_FFFF)
    if contents[0][length : length + 4] == contents[0][:4]:
        swapped = contents[0][length : 2 * length] + contents[0][:length] + contents[0][2 * length :]
        one.write_bytes(swapped)
        assert len(verify_backup(stored, "two")) == 2
        one.write_bytes(contents[0])
    assert verify_backup(stored, "two") == []


def test_an_older_manifest_is_not_taken_for_a_newer_one(stored: Repository, tmp_path: Path) -> None:
    manifests = tmp_path / "objects" / "db-ONE" / "manifests"
    shutil.copy(manifests / "one", manifests / "two")
    (error,) = verify_backup(stored, "two")
    assert "another place" in error.reason


def test_another_key_another_instance_and_another_prefix_are_refused(stored: Repository, tmp_path: Path) -> None:
    other_key = Repository(stored.objects, "db-ONE/", bytes(32), SystemRandomness())
    assert "another key" in verify_backup(other_key, "two")[0].reason
    shutil.copytree(tmp_path / "objects" / "db-ONE", tmp_path / "objects" / "db-TWO")
    other_place = Repository(stored.objects, "db-TWO/", KEY, SystemRandomness())
    assert "another place" in verify_backup(other_place, "two")[0].reason
    with pytest.raises(Permanent, match="32 bytes"):
        Repository(stored.objects, "db-ONE/", b"short", SystemRandomness())


def frames(blob: bytes) -> Iterator[bytes]:
    """The frames of an object."""
    offset = 0
    while offset < len(blob):
        length = 4 + (int.from_bytes(blob[offset : offset + 4], "big") & 0x7FFF_FFFF)
        yield blob[offset : offset + length]
        offset += length


def trusting_sizes(repository: Repository, backup_id: str) -> list[str]:
    """The sabotaged verification of the positive control: it looks at the lengths of objects only."""
    missing = []
    present = dict(repository.objects.list(repository.prefix))
    packs: tuple[Pack, ...] = read_manifest(repository, backup_id).header.packs
    for pack in packs:
        key = repository.key(f"packs/{pack.backup_id}/{pack.number:013x}")
        if present.get(key) != sum(memoryview(pack.stored).cast("I")):
            missing.append(key)
    return missing


def test_control_a_verification_that_trusts_sizes_misses_flipped_bits(stored: Repository) -> None:
    chance = random.Random(5)
    paths = [path for path in needed(stored) if "packs" in str(path)]
    delete(paths[0], chance)
    assert len(trusting_sizes(stored, "two")) == 1
    missed = 0
    for path in paths[1:21]:
        flip(path, chance)
        missed += len(trusting_sizes(stored, "two")) == 1
    assert missed == 20
    assert len({error.key for error in verify_backup(stored, "two")}) == 21


def test_authentic_frames_with_other_content_are_found_by_the_digests(
    stored: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a writer in error, or an old copy of an object, would have them; without the digests they pass."""
    path = needed(stored)[0]
    key = str(path.relative_to(tmp_path / "objects"))
    sealer = Sealer(KEY, os.urandom)
    altered = b""
    for frame in frames(path.read_bytes()):
        raw, last = sealer.open_frame(key, len(altered), frame)
        altered += sealer.seal_frame(key, len(altered), bytes([raw[0] ^ 1]) + raw[1:], last=last)
    path.write_bytes(altered)
    found = verify_backup(stored, "two")
    assert {(error.key, error.reason) for error in found} == {(key, "it holds other content than the manifest says")}
    monkeypatch.setattr(module.PackReader, "_is_right", lambda *_: True)
    assert verify_backup(stored, "two") == []
