"""MySQL's GTIDs, and its archived binary logs as one sequence of transactions up to a target."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.binlogs import BEGAN, LOG, MysqlBinlog, archive_log, uuid_of
from mainstay.backups.log_archive import LogArchive
from mainstay.backups.objects import MemoryObjects
from mainstay.backups.repository import Repository
from mainstay.engines.backups import LogLook, LogPlace
from mainstay.engines.mysql.binlog import GTID, MYSQL_LOG, PREVIOUS_GTIDS, Gtid, GtidSet, gtid_of, parse_gtid, parse_set
from mainstay.engines.mysql.replay import MysqlReplay
from mainstay.engines.mysql.words import MYSQL_WORDS
from mainstay.engines.mysql_family import replay
from mainstay.engines.mysql_family.binlog import FORMAT_DESCRIPTION, events
from mainstay.engines.mysql_family.history import History, Reached
from mainstay.engines.mysql_family.lineages import LeadsFrom, read_shipped, write_leads_from
from mainstay.engines.mysql_family.log_places import Lineage, Part, Stretch, parse_place
from mainstay.engines.mysql_family.log_source import FamilyLogSource
from mainstay.engines.node_files import NodeFiles
from mainstay.host.processes import User
from mainstay.host.randomness import SeededRandomness
from mainstay.model.errors import Permanent
from mainstay.model.node import RestoreSpec, RestoreTarget
from mainstay.model.repository_job import RepositoryRef

ONE, TWO = uuid_of(1), uuid_of(2)
FIRST = Lineage(timeline=1, first_file=3)
INTERVALS = st.lists(
    st.tuples(st.sampled_from([ONE, TWO]), st.integers(1, 30), st.integers(0, 5)).map(
        lambda one: (one[0], one[1], one[1] + one[2])
    ),
    max_size=12,
)


def new_archive() -> LogArchive:
    return LogArchive(Repository(MemoryObjects(), "a/", b"k" * 32, SeededRandomness(1)))


@pytest.fixture
def archive() -> LogArchive:
    return new_archive()


def made_of(intervals: list[tuple[str, int, int]]) -> tuple[GtidSet, set[Gtid]]:
    found = GtidSet()
    for one in intervals:
        found.add_interval(*one)
    return found, {Gtid(server, number) for server, first, last in intervals for number in range(first, last + 1)}


@given(INTERVALS, INTERVALS)
def test_sets_of_gtids_are_sets(one: list[tuple[str, int, int]], other: list[tuple[str, int, int]]) -> None:
    (left, left_names), (right, right_names) = made_of(one), made_of(other)
    everything = {Gtid(server, number) for server in (ONE, TWO) for number in range(1, 40)}
    assert {name for name in everything if name in left} == left_names
    assert (left.lacks(right) == "") == (right_names <= left_names)
    assert {name for name in everything if name in left.within(right)} == left_names & right_names
    again = parse_set(str(left))
    assert str(again) == str(left) and again.includes(str(left))
    left.update(right)
    assert {name for name in everything if name in left} == left_names | right_names


def test_sets_are_read_as_mysql_writes_them() -> None:
    upper = ONE.upper()
    found = parse_set(f"{upper}:1-3:7,\n{TWO}:9")
    assert str(found) == f"{ONE}:1-3:7,{TWO}:9" and parse_gtid(f" {upper}:7 ") in found and parse_set("").lacks(found)
    for wrong in ("0-1-7", ONE, f"{ONE}:", f"{ONE}:x", f"{ONE}:tag:1-3", f"{ONE}:1;DROP"):
        with pytest.raises(Permanent, match="GTID"):
            parse_set(wrong)
    for wrong in ("", f"{ONE}:1-3", f"{ONE}:1,{TWO}:1"):
        with pytest.raises(Permanent, match="GTID"):
            parse_gtid(wrong)


def replayed(
    archive: LogArchive,
    target: RestoreTarget,
    have: str = f"{ONE}:1-10",
    start: str = "1/3:4",
    lineage: Lineage = FIRST,
) -> list[str]:
    """Names of what is kept, "1:7" for the transaction 7 of the server 1."""
    begun: list[str] = []
    for one in History(archive, MYSQL_LOG, lineage, parse_place("1/3:4"), parse_set(have), target).read():
        if isinstance(one, Reached):
            return begun if one.after is None else begun[: one.after]
        if one.begins is not None:
            begun.append(str(one.begins).replace(ONE, "1").replace(TWO, "2"))
    raise AssertionError("no end")


def moment(second: float) -> RestoreTarget:
    return RestoreTarget(at=BEGAN + second)


def two_files(archive: LogArchive) -> tuple[MysqlBinlog, MysqlBinlog]:
    first, second = MysqlBinlog(1, f"{ONE}:1-7"), MysqlBinlog(1, f"{ONE}:1-12")
    for number in range(8, 13):
        first.write(number, number + 0.5)
    first.rotate()
    second.write(13, 15.25)
    second.write(14, 15.250001)
    second.write(15, 20)
    archive_log(archive, FIRST, {3: first, 4: second})
    return first, second


def test_the_moment_of_the_commit_decides_to_the_microsecond(archive: LogArchive) -> None:
    two_files(archive)
    assert replayed(archive, moment(12)) == ["1:11"], "what the base has is left out"
    assert replayed(archive, moment(15.25)) == ["1:11", "1:12"]
    assert replayed(archive, moment(15.250001)) == ["1:11", "1:12", "1:13"]
    assert replayed(archive, moment(20)) == ["1:11", "1:12", "1:13", "1:14"]
    assert replayed(archive, moment(20), have=f"{ONE}:1-14") == []
    with pytest.raises(Permanent, match="ends before the target"):
        replayed(archive, moment(20.5))


def test_a_place_and_a_transaction(archive: LogArchive) -> None:
    first, _second = two_files(archive)
    named = RestoreTarget(transaction=f"{ONE.upper()}:13")
    assert replayed(archive, named) == ["1:11", "1:12", "1:13"]
    assert replayed(archive, named, have=f"{ONE}:1-13") == [], "it was reached, and the agent was killed"
    for have in (f"{ONE}:1-14", f"{ONE}:1-15"):
        with pytest.raises(Permanent, match="ends before the target"):
            print(replayed(archive, named, have=have))
    with pytest.raises(Permanent, match="ends before the target"):
        replayed(archive, RestoreTarget(transaction=f"{TWO}:13"))
    assert replayed(archive, RestoreTarget(position=f"1/3:{first.end}")) == ["1:11", "1:12"]


def test_after_a_failover_moments_are_those_of_the_first_commit(archive: LogArchive) -> None:
    """The old one logged two transactions more than its successor had; that one has logged the last ones of both."""
    old, new = MysqlBinlog(1, f"{ONE}:1-10"), MysqlBinlog(2, "")
    for number in (11, 12, 13, 14):
        old.write(number, number)
    new.write(12, 12, server=1, received=19)
    new.write(1, 20)
    new.write(2, 25)
    lineage = Lineage(
        timeline=2, first_file=1, unlogged=f"{ONE}:1-11", ancestors=(Stretch(1, 3, Part(1, 3, 0), f"{ONE}:1-12"),)
    )
    archive_log(archive, FIRST, {3: old})
    archive_log(archive, lineage, {1: new})
    assert replayed(archive, moment(25), lineage=lineage) == ["1:11", "1:12", "2:1"]
    assert replayed(archive, moment(12), lineage=lineage) == ["1:11"]


def test_what_the_old_leader_had_not_shipped_must_be_in_the_new_ones_log(archive: LogArchive) -> None:
    old, new = MysqlBinlog(1, f"{ONE}:1-10"), MysqlBinlog(2, "")
    old.write(11, 11)
    new.write(1, 20)
    new.write(2, 25)
    lineage = Lineage(
        timeline=2, first_file=1, unlogged=f"{ONE}:1-12", ancestors=(Stretch(1, 3, Part(1, 3, 0), f"{ONE}:1-12"),)
    )
    archive_log(archive, FIRST, {3: old})
    archive_log(archive, lineage, {1: new})
    with pytest.raises(Permanent, match=f"{ONE}:1-12 is missing"):
        replayed(archive, moment(25), lineage=lineage)


def test_what_is_missing_between_two_files_is_told(archive: LogArchive) -> None:
    first, second = MysqlBinlog(1, f"{ONE}:1-10"), MysqlBinlog(1, f"{ONE}:1-12")
    first.write(11, 11)
    second.write(13, 13)
    archive_log(archive, FIRST, {3: first, 4: second})
    with pytest.raises(Permanent, match="is missing"):
        replayed(archive, moment(12.5))


@pytest.mark.parametrize(("kind", "words"), [(34, "without a GTID"), (42, "tag")])
def test_transactions_that_cannot_be_told_apart_are_refused(archive: LogArchive, kind: int, words: str) -> None:
    log = MysqlBinlog(1, f"{ONE}:1-10")
    log._event(kind, b"\0" * 60)
    archive_log(archive, FIRST, {3: log})
    with pytest.raises(Permanent, match=words):
        replayed(archive, moment(1))


@pytest.mark.parametrize(("batch_bytes", "expected"), [(1 << 20, [[10, 11, 12], [13, 14]]), (200, None)])
def test_relay_logs_begin_with_the_heading_of_their_file_have_no_other_and_end_before_the_target(
    archive: LogArchive,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batch_bytes: int,
    expected: list[list[int]] | None,
) -> None:
    monkeypatch.setattr(replay, "BATCH_BYTES", batch_bytes)
    two_files(archive)
    target = moment(20)
    history = History(archive, MYSQL_LOG, FIRST, parse_place("1/3:4"), parse_set(f"{ONE}:1-9"), target)
    nodes = NodeFiles(root=tmp_path, sockets=tmp_path / "sockets")
    nodes.restoring.mkdir(parents=True)
    spec = RestoreSpec(repository=RepositoryRef(prefix="a/", data_key="00"), backup_id="b", target=target)
    names: list[list[int]] = []
    batches = list(MysqlReplay(spec, nodes, User("me"), archive)._batches(history))
    for batch in batches:
        content = batch.path.read_bytes()
        whole = list(events([content]))
        assert [one.kind for one in whole[:2]] == [FORMAT_DESCRIPTION, PREVIOUS_GTIDS]
        assert whole[-1].end == len(content) and not struct.unpack_from("<H", whole[0].data, 17)[0] & 1
        assert [one.kind for one in whole].count(FORMAT_DESCRIPTION) == 1, "what depends on what is told by its file"
        names.append([gtid_of(one).number for one in whole if one.kind == GTID])
    assert [number for batch in names for number in batch] == [10, 11, 12, 13, 14]
    assert names == expected or (expected is None and len(batches) > 2)
    assert [str(batch.last) for batch in batches if batch.last][-1] == f"{ONE}:14"


class Spec:
    """What a log source reads of a spec."""

    archive = RepositoryRef(prefix="a/", data_key="00")


@pytest.mark.parametrize(
    ("took_over_at", "unlogged", "before", "first_replicated", "expected"),
    [
        (7, 2, 0, 3, 2),  # all that it had is stored: its own file is enough
        (5, 2, 0, 3, 2),  # the old one logged more than it ever had
        (9, 2, 0, 3, 1),  # its last two were not stored by the old one
        (9, 2, 7, 8, 1),  # of the first file that it has got still
        (9, 2, 8, 9, 0),  # what is between is nowhere any more
        (9, 8, 0, 9, 0),  # nor is it here: the copy that it began as had it
    ],
)
def test_after_a_failover_nothing_is_left_out(
    archive: LogArchive,
    tmp_path: Path,
    took_over_at: int,
    unlogged: int,
    before: int,
    first_replicated: int,
    expected: int,
) -> None:
    """The first leader was itself restored: its first two transactions are in no log. It has stored up to 7."""
    old = MysqlBinlog(1, "")
    for number in range(3, 8):
        old.write(number, number)
    archive_log(archive, Lineage(timeline=1, first_file=3, unlogged=f"{ONE}:1-2"), {3: old})
    follower = MysqlBinlog(2, f"{ONE}:{unlogged + 1}-{before}" if before else "")
    for number in range(first_replicated, took_over_at + 1):
        follower.write(number, number, server=1, received=number + 1)
    own = MysqlBinlog(2, f"{ONE}:{unlogged + 1}-{took_over_at}")
    own.write(1, 20)
    files = NodeFiles(root=tmp_path, sockets=tmp_path / "sockets")
    files.data.mkdir(parents=True)
    for number, log in ((1, follower), (2, own)):
        (files.data / f"{LOG}.{number:06d}").write_bytes(log.content)
    position, had = f"{ONE}:1-{took_over_at}", f"{ONE}:1-{unlogged}"
    write_leads_from(files.data, LeadsFrom(position=position, file=2, unlogged=had))
    spec: Any = Spec()
    place = LogPlace(timeline="00000001", segment=Part(1, 3, 0).name(LOG), offset=old.end)

    def look(after: LogPlace | None) -> LogLook:
        return source._compare(after, 5.0, (f"{LOG}.000002", own.end), [1, 2])

    source = FamilyLogSource(spec, files, MYSQL_WORDS, MYSQL_LOG)
    asyncio.run(source.resume(archive, place))
    found = look(place)
    if not expected:
        assert "failover" in found.missing and look(None).position.startswith("2/2:")
        return
    assert found.pieces[0].segment == Part(2, expected, 0).name(LOG)
    shipped = read_shipped(files.data)
    assert shipped is not None and shipped.lineage == Lineage(
        timeline=2,
        first_file=expected,
        ancestors=(Stretch(1, 3, Part(1, 3, 0), position, f"{ONE}:1-2"),),
        unlogged=had,
    )
