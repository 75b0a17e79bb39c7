"""What of the binary logs is still to be shipped, and where the log goes on after a failover."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from harness.binlogs import LOG, Binlog, archive_log
from mainstay.backups.log_archive import LogArchive
from mainstay.backups.objects import MemoryObjects
from mainstay.backups.repository import Repository
from mainstay.engines.backups import LogLook, LogPlace
from mainstay.engines.mariadb.binlog import MARIADB_LOG, Gtid
from mainstay.engines.mariadb.words import MARIADB_WORDS
from mainstay.engines.mysql_family import log_source
from mainstay.engines.mysql_family.lineages import LeadsFrom, read_shipped, write_leads_from
from mainstay.engines.mysql_family.log_places import Lineage, Part, Stretch
from mainstay.engines.mysql_family.log_source import FamilyLogSource
from mainstay.engines.mysql_family.procedures import APPLY
from mainstay.engines.node_files import NodeFiles
from mainstay.host.randomness import SeededRandomness
from mainstay.model.errors import Transient
from mainstay.model.repository_job import RepositoryRef


class Spec:
    """What a log source reads of a spec."""

    archive = RepositoryRef(prefix="a/", data_key="00")


class Leader:
    """A data directory, and looks at it as if its engine had said where its log ends."""

    def __init__(self, root: Path) -> None:
        self.files = NodeFiles(root=root, sockets=root / "sockets")
        self.files.data.mkdir(parents=True)
        self.source = self.again()

    def again(self) -> FamilyLogSource:
        spec: Any = Spec()
        self.source = FamilyLogSource(spec, self.files, MARIADB_WORDS, MARIADB_LOG)
        return self.source

    def put(self, number: int, content: bytes) -> None:
        (self.files.data / f"{LOG}.{number:06d}").write_bytes(content)

    def look(self, after: LogPlace | None, current: int, end: int, first: int = 1) -> LogLook:
        logs = [one for one in range(first, current + 1) if (self.files.data / f"{LOG}.{one:06d}").exists()]
        return self.source._compare(after, 5.0, (f"{LOG}.{current:06d}", end), logs)


def after(timeline: int, file: int, part: int, offset: int) -> LogPlace:
    return LogPlace(timeline=f"{timeline:08d}", segment=Part(timeline, file, part).name(LOG), offset=offset)


@pytest.fixture
def leader(tmp_path: Path) -> Leader:
    return Leader(tmp_path)


@pytest.fixture
def archive() -> LogArchive:
    return LogArchive(Repository(MemoryObjects(), "a/", b"k" * 32, SeededRandomness(1)))


def shown(look: LogLook) -> list[tuple[str, int, int, bool]]:
    return [(one.segment, one.start, one.end, one.last) for one in look.pieces]


def test_the_log_begins_with_the_file_of_the_first_look_and_goes_on_from_there(leader: Leader) -> None:
    for number in (1, 2, 3):
        leader.put(number, b"x" * 50)
    first = leader.look(None, 3, 40)
    assert shown(first) == [(Part(1, 3, 0).name(LOG), 0, 40, False)] and first.position == "1/3:40"
    assert [name for name, _path in first.small_files] == ["00000001.history"]
    place = first.pieces[-1].place
    assert shown(leader.look(place, 3, 40)) == []
    leader.put(4, b"x" * 9)
    assert shown(leader.look(place, 4, 9)) == [
        (Part(1, 3, 0).name(LOG), 40, 50, True), (Part(1, 4, 0).name(LOG), 0, 9, False),
    ]  # fmt: skip
    leader.again()  # an agent that was killed before anything was stored begins with the same file
    assert shown(leader.look(None, 4, 9))[0][0] == Part(1, 3, 0).name(LOG)


def test_a_file_is_cut_into_segments_the_last_of_which_is_not_full(
    leader: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_source, "SEGMENT_BYTES", 10)
    for number, length in ((1, 25), (2, 20), (3, 4)):
        leader.put(number, b"x" * length)
    leader.look(None, 1, 4)
    found = leader.look(after(1, 1, 0, 4), 3, 4)
    assert shown(found) == [
        (Part(1, 1, 0).name(LOG), 4, 10, True), (Part(1, 1, 1).name(LOG), 0, 10, True),
        (Part(1, 1, 2).name(LOG), 0, 5, True), (Part(1, 2, 0).name(LOG), 0, 10, True),
        (Part(1, 2, 1).name(LOG), 0, 10, True), (Part(1, 2, 2).name(LOG), 0, 0, True),
        (Part(1, 3, 0).name(LOG), 0, 4, False),
    ]  # fmt: skip
    assert [one.skipped for one in found.pieces] == [0, 10, 20, 0, 10, 20, 0]
    assert found.unshipped_bytes == 6 + 10 + 5 + 20 + 4
    # What is stored as a whole counts as full: it goes on behind it.
    assert shown(leader.look(after(1, 2, 2, 10), 3, 4)) == [(Part(1, 3, 0).name(LOG), 0, 4, False)]


def test_a_file_that_is_gone_is_a_hole_and_the_log_begins_anew(leader: Leader) -> None:
    for number in (1, 2, 3):
        leader.put(number, b"x" * 50)
    leader.look(None, 1, 40)
    (leader.files.data / f"{LOG}.000001").unlink()
    lost = leader.look(after(1, 1, 0, 40), 3, 40)
    assert lost.missing == f"{LOG}.000001" and not lost.pieces and not lost.small_files
    assert shown(leader.look(None, 3, 40)) == [(Part(1, 3, 0).name(LOG), 0, 40, False)]


def old_log() -> Binlog:
    log = Binlog(1)
    for sequence in range(1, 8):
        log.write(sequence, sequence)
    return log


def resumed(leader: Leader, archive: LogArchive, old: Binlog) -> LogPlace:
    """As an archiver that finds the old leader's log, up to its transaction 7."""
    archive_log(archive, Lineage(timeline=1, first_file=3), {3: old})
    place = after(1, 3, 0, old.end)
    asyncio.run(leader.source.resume(archive, place))
    return place


@pytest.mark.parametrize(
    ("took_over_at", "listed", "first_replicated", "expected"),
    [
        (7, 6, 7, 2),  # all that it had is stored: its own file is enough
        (5, 4, 5, 2),  # the old one logged more than it ever had
        (9, 6, 7, 1),  # its last two were not stored by the old one
        (9, 0, 8, 1),  # the first file of a copy, which lists nothing
        (9, 8, 9, 0),  # what is between is nowhere any more
        (9, 0, 9, 0),
    ],
)
def test_after_a_failover_nothing_is_left_out(
    leader: Leader, archive: LogArchive, took_over_at: int, listed: int, first_replicated: int, expected: int
) -> None:
    place = resumed(leader, archive, old_log())
    follower = Binlog(2, [Gtid(0, 1, listed)] if listed else [])
    for sequence in range(first_replicated, took_over_at + 1):
        follower.write(sequence, sequence, server=1)
    own = Binlog(2, [Gtid(0, 1, took_over_at)])
    own.write(took_over_at + 1, 20)
    leader.put(1, follower.content)
    leader.put(2, own.content)
    write_leads_from(leader.files.data, LeadsFrom(position=f"0-1-{took_over_at}", file=2))
    found = leader.look(place, 2, own.end)
    if not expected:
        assert "failover" in found.missing
        assert leader.look(None, 2, own.end).position.startswith("2/2:"), "it goes on, on a timeline of its own"
        return
    assert found.pieces[0].segment == Part(2, expected, 0).name(LOG)
    shipped = read_shipped(leader.files.data)
    assert shipped is not None and shipped.lineage == Lineage(
        timeline=2, first_file=expected, ancestors=(Stretch(1, 3, Part(1, 3, 0), f"0-1-{took_over_at}"),)
    )
    leader.again()
    assert leader.look(found.pieces[-1].place, 2, own.end).pieces == (), "its successor goes on there"


async def test_one_that_is_still_to_take_over_ships_nothing(leader: Leader) -> None:
    (leader.files.data / "mainstay.follower").touch()
    with pytest.raises(Transient, match="does not lead yet"):
        await leader.source.look(None)
    assert os.listdir(leader.files.data) == ["mainstay.follower"]


class Session:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    async def execute(self, statement: str) -> None:
        self.told.append(statement)


async def test_the_engine_keeps_what_could_not_be_stored_for_long(leader: Leader) -> None:
    session: Any = Session()
    for number in (1, 2):
        leader.put(number, b"x" * 50)
    leader.look(None, 1, 50)
    waiting = leader.look(after(1, 1, 0, 10), 2, 9).pieces
    await leader.source._hold(session, waiting)
    assert session.told == [], "it is there for a moment only"
    os.utime(leader.files.data / f"{LOG}.000001", (0, 0))
    for _ in range(2):
        await leader.source._hold(session, waiting)
    assert session.told == [log_source.KEEP]
    await leader.source._hold(session, ())
    assert session.told == [log_source.KEEP, APPLY]
