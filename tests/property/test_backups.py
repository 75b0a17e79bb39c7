"""Backups of made-up trees that change: each restores to what was there, whatever else is deleted."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from mainstay.backups import copy, packs, write
from mainstay.backups.blocks import ExtentsBuilder, StoredFile
from mainstay.backups.collect import collect_garbage, delete_backup
from mainstay.backups.copy import copy_backup
from mainstay.backups.log_archive import _chain
from mainstay.backups.manifests import list_backups, read_header, read_manifest
from mainstay.backups.objects import MemoryObjects
from mainstay.backups.read import verify_backup
from mainstay.backups.repository import Repository
from mainstay.backups.restore import restore_backup
from mainstay.backups.sealing import Damaged, Sealer, chunked
from mainstay.backups.write import BackupOptions, write_backup
from mainstay.host.randomness import SystemRandomness
from mainstay.model.backup import ZERO_PACK, BackupFile, SourceFile

NAMES = ("a", "b", "c", "dir/a", "dir/b", "dir/deep/a")
# Around the sizes of blocks (8 KiB), reads (16 KiB), frames (20 KiB), packs (60 kB) and spans (64 KiB) of these tests.
SIZES = st.one_of(
    st.integers(0, 200_000),
    st.sampled_from([0, 1, 8191, 8192, 8193, 16383, 16384, 16385, 65535, 65536, 65537, 131072]),
)
FILES = st.tuples(SIZES, st.integers(0, 2**32), st.sampled_from(["noise", "text", "zeros", "holes"]))


def content_of(size: int, seed: int, kind: str) -> bytes:
    """Repeatable content."""
    chance = random.Random(seed)
    if kind == "noise":
        return chance.randbytes(size)
    if kind == "text":
        return (b"row %d of the table; " % seed * (size // 20 + 1))[:size]
    if kind == "zeros":
        return bytes(size)
    parts = [chance.randbytes(8192) if chance.random() < 0.5 else bytes(8192) for _ in range(size // 8192 + 1)]
    return b"".join(parts)[:size]


def changed(content: bytes, seed: int) -> bytes:
    """The content after an engine has worked on it."""
    chance = random.Random(seed)
    pages = bytearray(content)
    for _ in range(chance.randrange(4)):
        if pages:
            at = chance.randrange(len(pages))
            pages[at : at + chance.choice((1, 8192, 20_000))] = chance.choice((b"x", bytes(8192), chance.randbytes(99)))
    return bytes(pages[: chance.choice((len(pages), len(pages), chance.randrange(len(pages) + 1)))])


TREES = st.lists(
    st.dictionaries(st.sampled_from(NAMES), st.one_of(FILES, st.integers(0, 2**32)), max_size=5), min_size=1, max_size=4
)


class SmallSizes:
    """Everything is cut small, so that little data crosses every border."""

    def __enter__(self) -> None:
        self._before = [(module, name, getattr(module, name)) for module, name, _ in SMALL]
        for module, name, value in SMALL:
            setattr(module, name, value)

    def __exit__(self, *_: object) -> None:
        for module, name, value in self._before:
            setattr(module, name, value)


SMALL = [
    (packs, "PACK_STORED_BYTES", 60_000),
    (packs, "FRAME_BYTES", 20_000),
    (packs, "READ_BYTES", 16_384),
    (write, "SPAN_BYTES", 65_536),
    (copy, "FRAMES_KEPT", 2),
]


def restored(repository: Repository, backup_id: str) -> dict[str, bytes]:
    """What a restore makes."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "restored"
        restore_backup(repository, read_manifest(repository, backup_id), root)
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@settings(max_examples=40, deadline=None)
@given(TREES, st.integers(1, 3), st.randoms(use_true_random=False))
def test_every_backup_restores_to_what_was_there(
    steps: list[dict[str, tuple[int, int, str] | int]], workers: int, chance: random.Random
) -> None:
    repository = Repository(MemoryObjects(), "db/", bytes(32), SystemRandomness())
    tree: dict[str, bytes] = {}
    trees: dict[str, dict[str, bytes]] = {}
    base = None
    with SmallSizes():
        for number, step in enumerate(steps):
            for name, file in step.items():
                tree[name] = changed(tree.get(name, b""), file) if isinstance(file, int) else content_of(*file)
            for name in chance.sample(sorted(tree), min(len(tree), chance.randrange(2))):
                del tree[name]
            sources = [SourceFile(path=path, mode=0o600, content=content) for path, content in tree.items()]
            backup_id = f"b{number}"
            write_backup(repository, backup_id, sources, BackupOptions(base=base, workers=workers))
            base = read_manifest(repository, backup_id)
            assert read_header(repository, backup_id) == base.header
            trees[backup_id] = dict(tree)
        for doomed in chance.sample(sorted(trees), len(trees) - 1):
            delete_backup(repository, doomed)
            collect_garbage(repository, ())
        (left,) = list_backups(repository)
        assert verify_backup(repository, left) == []
        assert restored(repository, left) == trees[left]
        other = Repository(MemoryObjects(), "other/", bytes(31) + b"x", SystemRandomness())
        copy_backup(repository, left, other, "copy")
        assert restored(other, "copy") == trees[left]


@given(st.lists(st.tuples(st.sampled_from([0, 1, ZERO_PACK]), st.integers(1, 5)), min_size=1, max_size=30), st.data())
def test_parts_of_extents_are_the_extents_of_parts(runs: list[tuple[int, int]], data: st.DataObject) -> None:
    """Byte i of the file is at byte place[i] of a pack: any part of the file must say the same."""
    builder = ExtentsBuilder()
    places: list[tuple[int, int]] = []
    offsets = {0: 0, 1: 0}
    for pack, blocks in runs:
        start = 0 if pack == ZERO_PACK else offsets[pack]
        builder.add(pack, start, blocks)
        places += [(pack, 0 if pack == ZERO_PACK else start + byte) for byte in range(blocks)]
        if pack != ZERO_PACK:
            offsets[pack] += blocks + data.draw(st.integers(0, 1))
    stored = StoredFile(BackupFile("x", 0, 0, len(places), 8192, builder.encoded({}), b""))
    start = data.draw(st.integers(0, len(places) - 1))
    length = data.draw(st.integers(0, len(places) - start))
    said = [
        (pack, 0 if pack == ZERO_PACK else offset + byte)
        for pack, offset, size in stored.extents(start, length)
        for byte in range(size)
    ]
    assert said == places[start : start + length]


@given(st.binary(max_size=300), st.integers(1, 50), st.data())
def test_a_sealed_object_opens_only_as_it_was(content: bytes, chunk: int, data: st.DataObject) -> None:
    sealer = Sealer(bytes(32), SystemRandomness().token_bytes)
    blob = sealer.seal("a/b", chunked(content, chunk))
    assert b"".join(sealer.open("a/b", blob)) == content
    kind = data.draw(st.sampled_from(["flip", "cut", "more", "other key", "other object"]))
    key = "a/b"
    if kind == "flip":
        at = data.draw(st.integers(0, len(blob) - 1))
        blob = blob[:at] + bytes([blob[at] ^ (1 << data.draw(st.integers(0, 7)))]) + blob[at + 1 :]
    elif kind == "cut":
        blob = blob[: data.draw(st.integers(0, len(blob) - 1))]
    elif kind == "more":
        blob += data.draw(st.binary(min_size=1, max_size=20))
    elif kind == "other key":
        sealer = Sealer(bytes(31) + b"\1", SystemRandomness().token_bytes)
    else:
        key = "a/c"
    try:
        opened = b"".join(sealer.open(key, blob))
    except Damaged as error:
        assert error.key == key
    else:
        raise AssertionError(f"{kind} was not found: {opened!r}")


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10)), max_size=15))
def test_the_chain_of_pieces_covers_what_can_be_covered(bounds: list[tuple[int, int]]) -> None:
    pieces = [(start, start + length) for start, length in bounds]
    chain, end = _chain(pieces)
    covered = {byte for start, stop in pieces for byte in range(start, stop)}
    assert end == next(byte for byte in range(42) if byte not in covered)
    reach = 0
    for start, stop in chain:
        assert start <= reach < stop and (start, stop) in pieces
        reach = stop
    assert reach == end
