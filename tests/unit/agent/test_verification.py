"""What a verification of PostgreSQL's backups reads and demands."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from mainstay.agent.backup_facts import FACTS
from mainstay.agent.repositories import SystemRepositories
from mainstay.agent.verification import plan_verification
from mainstay.backups.log_archive import LogArchive, Segment
from mainstay.backups.manifests import read_manifest
from mainstay.backups.objects import open_objects
from mainstay.backups.read import Seen, verify_backup
from mainstay.backups.repository import Repository
from mainstay.backups.write import BackupOptions, write_backup
from mainstay.engines.postgresql.backups import PostgresqlBackups
from mainstay.engines.postgresql.wal import SEGMENT_BYTES, segment_name
from mainstay.host.randomness import SystemRandomness
from mainstay.model.backup import SourceFile
from mainstay.model.repository_job import BackupFacts, LogPromise, LostLog, RepositoryRef
from mainstay.settings import load_settings

KEY = bytes(range(32))
REF = RepositoryRef(prefix="db-ONE", data_key=KEY.hex())
BACKUPS = PostgresqlBackups()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """One backup between segments 2 and 3; its log, and that up to the middle of segment 6."""
    repository = Repository(open_objects(str(tmp_path / "objects"), {}), "db-ONE/", KEY, SystemRandomness())
    facts = BackupFacts(
        backup_id="one", engine_version="17.5", timeline="00000001", start_position="0/2000028",
        stop_position="0/3000120", started_at=1.0, consistent_at=2.0,
    )  # fmt: skip
    sources = [SourceFile(path="PG_VERSION", mode=0o600, content=b"17\n"), big()]
    options = BackupOptions(attributes={FACTS: msgspec.json.encode(facts).decode()})
    write_backup(repository, "one", sources, options)
    archive = LogArchive(repository)
    for number in range(2, 6):
        archive.complete(Segment("00000001", number, segment_name(1, number)), bytes(SEGMENT_BYTES))
    archive.append_piece(Segment("00000001", 6, segment_name(1, 6)), 0, b"x" * 5000)
    return repository


def big() -> SourceFile:
    return SourceFile(path="table", mode=0o600, content=bytes(range(256)) * 400)


def promise(end: str = "") -> LogPromise:
    return LogPromise(timeline="00000001", start_position="0/2000028", end_position=end)


def test_the_log_from_the_backup_to_what_is_promised_must_be_there(repository: Repository) -> None:
    plan = plan_verification(repository, ["one"], promise("0/6000800"), BACKUPS)
    assert [(one.index, one.end) for one in sorted(plan.needed, key=lambda one: one.index)] == [
        (2, SEGMENT_BYTES), (3, SEGMENT_BYTES), (4, SEGMENT_BYTES), (5, SEGMENT_BYTES), (6, 0x800),
    ]  # fmt: skip
    assert plan.sizes == {"one": 3 + 256 * 400} and plan.log_bytes > 0 and plan.small == ()


def test_without_an_end_it_is_what_is_stored_and_without_a_promise_what_the_backup_needs(
    repository: Repository,
) -> None:
    needed = {one.index: one.end for one in plan_verification(repository, ["one"], promise(), BACKUPS).needed}
    assert needed[6] == 5000 and len(needed) == 5
    assert {one.index: one.end for one in plan_verification(repository, ["one"], None, BACKUPS).needed} == {
        2: SEGMENT_BYTES,
        3: 0x120,
    }


def test_a_log_that_branched_is_followed_along_its_history(repository: Repository) -> None:
    LogArchive(repository).put_small("00000002.history", b"1\t0/4000100\tno recovery target specified\n")
    branched = LogPromise(timeline="00000002", start_position="0/2000028", end_position="0/5000100")
    plan = plan_verification(repository, [], branched, BACKUPS)
    assert [one.name for one in plan.needed] == [
        segment_name(1, 2), segment_name(1, 3), segment_name(2, 4), segment_name(2, 5),
    ]  # fmt: skip
    assert plan.small == ("00000002.history",)


async def verified(tmp_path: Path, *backup_ids: str) -> tuple[str, ...]:
    settings = load_settings({"MAINSTAY_HOME": str(tmp_path)})
    repositories = SystemRepositories(settings, SystemRandomness())
    noted: list[tuple[int, int]] = []
    found = await repositories.verify(
        REF, backup_ids, promise("0/6000800"), BACKUPS, lambda done, total: noted.append((done, total))
    )
    assert noted == sorted(noted) and noted[-1][0] == noted[-1][1] > 0
    lost.append(found.lost_log)
    return found.damages


lost: list[tuple[LostLog, ...]] = []
"""What each verification found lost of the promised log."""


async def test_what_two_backups_share_is_read_once_and_its_damage_told_of_both(
    repository: Repository, tmp_path: Path
) -> None:
    base = read_manifest(repository, "one")
    sources = [SourceFile(path="PG_VERSION", mode=0o600, content=b"17\n"), big()]
    write_backup(repository, "two", sources, BackupOptions(attributes=base.header.attributes, base=base))
    seen: Seen = set()
    assert verify_backup(repository, "one", seen=seen) == [] and seen
    before = set(seen)
    (pack,) = [path for path in (tmp_path / "objects/db-ONE/packs").rglob("*") if path.is_file()]
    content = pack.read_bytes()
    pack.unlink()
    assert verify_backup(repository, "two", seen=seen) == [] and seen == before, "all of it was seen already"
    assert verify_backup(repository, "two", seen=set()), "the control: without that it is missed"
    changed = bytearray(content)
    changed[len(content) // 2] ^= 1
    pack.write_bytes(changed)
    found = await verified(tmp_path, "one", "two")
    assert {one.partition(":")[0] for one in found} == {"backup one", "backup two"}


async def test_a_segment_removed_in_the_middle_and_a_backup_that_is_not_there_are_named(
    repository: Repository, tmp_path: Path
) -> None:
    assert await verified(tmp_path, "one") == ()
    (tmp_path / f"objects/db-ONE/log/00000001/{4:016x}.{segment_name(1, 4)}.whole").unlink()
    assert lost.pop() == ()
    (only,) = await verified(tmp_path, "one")
    assert f"the log segment {segment_name(1, 4)} is missing" in only
    assert lost[-1] == (LostLog(start_position="0/4000000", end_position="0/5000000"),)
    gone, log = await verified(tmp_path, "two")
    assert gone.startswith("backup two: ") and "missing" in gone and segment_name(1, 4) in log


async def test_a_flipped_byte_names_object_and_file(repository: Repository, tmp_path: Path) -> None:
    for pack in (tmp_path / "objects/db-ONE/packs").rglob("*"):
        if pack.is_file():
            content = bytearray(pack.read_bytes())
            content[len(content) // 2] ^= 1
            pack.write_bytes(content)
    found = await verified(tmp_path, "one")
    assert found and all(one.startswith("backup one: db-ONE/packs/one/") for one in found)
    assert any("table" in one for one in found)


def test_positions_and_names_are_postgresqls() -> None:
    assert BACKUPS.position_in(segment_name(1, 6), 5000) == "0/6001388"
    assert BACKUPS.history_file("00000001") == "" and BACKUPS.history_file("0000000A") == "0000000A.history"
    at_the_edge = BACKUPS.segments_between("0/3000000", "0/4000000", "00000001", "", [])
    assert [(one.index, one.end) for one in at_the_edge] == [(3, SEGMENT_BYTES)], "nothing of segment 4 is needed"


async def test_lost_is_what_was_promised_whole_or_in_pieces(repository: Repository, tmp_path: Path) -> None:
    log = tmp_path / "objects/db-ONE/log/00000001"
    flipped = log / f"{5:016x}.{segment_name(1, 5)}.whole"
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    (piece,) = (log / f"{6:016x}.{segment_name(1, 6)}").iterdir()
    piece.unlink()
    assert len(await verified(tmp_path, "one")) == 2
    assert [one.start_position for one in lost[-1]] == ["0/5000000", "0/6000000"]
    (log / f"{2:016x}.{segment_name(1, 2)}.whole").unlink()
    repositories = SystemRepositories(load_settings({"MAINSTAY_HOME": str(tmp_path)}), SystemRandomness())
    found = await repositories.verify(REF, ["one"], None, BACKUPS, lambda *_: None)
    assert found.damages and found.lost_log == (), "nothing was promised"
