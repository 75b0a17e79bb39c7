"""Every transaction of the history comes once, in order, up to the target and no further; what is missing is told."""

from __future__ import annotations

import pytest

from harness.binlogs import BEGAN, LOG, Binlog, archive_log
from mainstay.backups.log_archive import LogArchive, Segment
from mainstay.backups.objects import MemoryObjects
from mainstay.backups.repository import Repository
from mainstay.engines.mariadb.binlog import MARIADB_LOG, Gtid
from mainstay.engines.mysql_family.history import History, Logged, Reached
from mainstay.engines.mysql_family.log_places import Lineage, Part, Stretch, parse_place, timeline_name
from mainstay.host.randomness import SeededRandomness
from mainstay.model.errors import Permanent
from mainstay.model.node import RestoreTarget

FIRST = Lineage(timeline=1, first_file=3)


@pytest.fixture
def archive() -> LogArchive:
    return LogArchive(Repository(MemoryObjects(), "a/", b"k" * 32, SeededRandomness(1)))


def history(
    archive: LogArchive, lineage: Lineage, target: RestoreTarget, have: str = "0-1-10", start: str = "1/3:4"
) -> History:
    known = MARIADB_LOG.transactions(have)
    return History(archive, MARIADB_LOG, lineage, parse_place(start), known, target)


def replayed(
    archive: LogArchive, target: RestoreTarget, have: str = "0-1-10", start: str = "1/3:4", lineage: Lineage = FIRST
) -> list[int]:
    """Sequence numbers of what is kept."""
    begun: list[int] = []
    complete: set[int] = set()
    for one in history(archive, lineage, target, have, start).read():
        if isinstance(one, Reached):
            kept = begun if one.after is None else begun[: one.after]
            return [sequence for sequence in kept if sequence in complete]
        if one.begins is not None:
            assert isinstance(one.begins, Gtid)
            begun.append(one.begins.sequence)
        elif one.ends:
            complete.add(begun[-1])
    raise AssertionError("no end")


def moment(second: float) -> RestoreTarget:
    return RestoreTarget(at=BEGAN + second)


def two_files(archive: LogArchive) -> tuple[Binlog, Binlog]:
    first, second = Binlog(1), Binlog(1, [Gtid(0, 1, 13)])
    for sequence in range(8, 13):
        first.write(sequence, sequence)
    first.mark(13, 12.5)
    first.rotate()
    second.write(14, 14)
    second.ddl(15, 15, "DROP TABLE x")
    second.write(16, 15)
    second.mark(17, 16.25)
    archive_log(archive, FIRST, {3: first, 4: second})
    return first, second


def test_everything_before_the_second_and_nothing_of_it(archive: LogArchive) -> None:
    two_files(archive)
    assert replayed(archive, moment(15)) == [11, 12, 13, 14], "what the base has is left out"
    assert replayed(archive, moment(12)) == [11]
    assert replayed(archive, moment(16)) == [11, 12, 13, 14, 15, 16], "a mark after the moment is beyond it"
    assert replayed(archive, moment(14)) == [11, 12, 13]
    assert replayed(archive, moment(12), have="0-1-15") == [], "it goes on after a crash, and finds that it is there"


def test_a_log_that_ends_before_the_moment_is_not_taken_for_the_moment(archive: LogArchive) -> None:
    two_files(archive)
    with pytest.raises(Permanent, match="ends before the target"):
        replayed(archive, moment(17))


def test_timestamps_that_users_set_decide_nothing_across_marks(archive: LogArchive) -> None:
    log = Binlog(1)
    log.write(11, 500)
    log.mark(12, 1.0)
    log.write(13, 0)
    log.mark(14, 5.0)
    log.write(15, 0)
    archive_log(archive, FIRST, {3: log})
    assert replayed(archive, moment(4)) == [11, 12, 13], "what is logged behind a mark came after it"


def test_a_place_and_a_transaction(archive: LogArchive) -> None:
    first, _second = two_files(archive)
    assert replayed(archive, RestoreTarget(transaction="0-1-14")) == [11, 12, 13, 14]
    assert replayed(archive, RestoreTarget(transaction="0-1-14"), have="0-1-14") == []
    with pytest.raises(Permanent, match="ends before the target"):
        replayed(archive, RestoreTarget(transaction="0-2-14"))
    assert replayed(archive, RestoreTarget(position=f"1/3:{first.end}")) == [11, 12, 13]
    at = first.content.index((13).to_bytes(8, "little")) - 19
    assert replayed(archive, RestoreTarget(position=f"1/3:{at}")) == [11, 12]
    assert replayed(archive, RestoreTarget(position="1/4:4")) == [11, 12, 13]
    with pytest.raises(Permanent, match="ends before the target"):
        replayed(archive, RestoreTarget(position="1/9:4"))


def test_what_a_crash_has_cut_off_is_no_transaction(archive: LogArchive) -> None:
    crashed, later = Binlog(1), Binlog(1, [Gtid(0, 1, 11)])
    crashed.write(11, 1)
    whole = crashed.end
    crashed.write(12, 2)
    crashed.content = crashed.content[: whole + 60]
    later.write(12, 3)
    later.mark(13, 9.0)
    archive_log(archive, FIRST, {3: crashed, 4: later})
    found = list(history(archive, FIRST, moment(8)).read())
    begins = [one.begins.sequence for one in found if isinstance(one, Logged) and isinstance(one.begins, Gtid)]
    assert begins == [11, 12, 12, 13], "whoever writes it down cuts off the first of the two"
    assert [one.ends for one in found if isinstance(one, Logged)].count(True) == 2, "and the mark is beyond the moment"


def test_after_a_failover_the_history_is_the_new_leaders(archive: LogArchive) -> None:
    """The old one logged two transactions more than its successor ever had, and was never acknowledged for them."""
    old, new = Binlog(1), Binlog(2, [Gtid(0, 1, 11)])
    for sequence in (11, 12, 13, 14):
        old.write(sequence, sequence)
    new.write(12, 12, server=1)
    new.write(13, 20)
    new.mark(14, 21.0)
    last = Part(1, 3, 0)
    lineage = Lineage(timeline=2, first_file=1, ancestors=(Stretch(1, 3, last, "0-1-12"),))
    archive_log(archive, FIRST, {3: old})
    archive_log(archive, lineage, {1: new})
    found = list(history(archive, lineage, moment(21)).read())
    begun = [one.begins for one in found if isinstance(one, Logged) and isinstance(one.begins, Gtid)]
    assert begun == [Gtid(0, 1, 11), Gtid(0, 1, 12), Gtid(0, 2, 13), Gtid(0, 2, 14)]
    assert replayed(archive, moment(12), lineage=lineage) == [11]


def test_what_the_old_leader_had_not_shipped_must_be_in_the_new_ones_log(archive: LogArchive) -> None:
    old, lacking, whole = Binlog(1), Binlog(2), Binlog(2)
    old.write(11, 11)
    for log in (whole, lacking):
        if log is whole:
            log.write(12, 12, server=1)
        log.write(13, 13)
        log.mark(14, 20.0)
    archive_log(archive, FIRST, {3: old})
    for timeline, log in ((2, whole), (3, lacking)):
        lineage = Lineage(timeline=timeline, first_file=1, ancestors=(Stretch(1, 3, Part(1, 3, 0), "0-1-12"),))
        archive_log(archive, lineage, {1: log})
        if log is whole:
            assert replayed(archive, moment(20), lineage=lineage) == [11, 12, 13]
        else:
            with pytest.raises(Permanent, match="what comes before 0-2-13 is missing"):
                replayed(archive, moment(20), lineage=lineage)


def test_a_missing_binary_log_is_named(archive: LogArchive) -> None:
    log = Binlog(1)
    log.write(11, 1)
    archive_log(archive, FIRST, {3: log, 5: Binlog(1)})
    with pytest.raises(Permanent, match="binary log 4"):
        replayed(archive, moment(9))
    with pytest.raises(Permanent, match="does not come from"):
        replayed(archive, moment(9), start="1/2:4")


def test_a_binary_log_of_many_segments_is_read_as_one(archive: LogArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("mainstay.engines.mysql_family.history", "harness.binlogs"):
        monkeypatch.setattr(f"{module}.SEGMENT_BYTES", 100)
    log = Binlog(1)
    for sequence in range(11, 41):
        log.write(sequence, sequence)
    log.mark(41, 99.0)
    archive_log(archive, FIRST, {3: log})
    assert replayed(archive, moment(31)) == list(range(11, 31))
    part = Part(1, 3, 7)
    gone = Segment(timeline_name(1), part.index, part.name(LOG))
    archive.delete_segments(lambda one: one != gone)
    with pytest.raises(Permanent, match="lacks a part of binary log 3"):
        replayed(archive, moment(31))
