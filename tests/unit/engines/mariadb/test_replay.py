"""The relay logs that are made of archived binary logs."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.binlogs import BEGAN, LOG, Binlog, archive_log
from mainstay.backups.log_archive import LogArchive
from mainstay.backups.objects import MemoryObjects
from mainstay.backups.repository import Repository
from mainstay.engines.mariadb.binlog import GTID, MARIADB_LOG, gtid_of
from mainstay.engines.mariadb.replay import MariadbReplay
from mainstay.engines.mysql_family import replay
from mainstay.engines.mysql_family.binlog import FORMAT_DESCRIPTION, events
from mainstay.engines.mysql_family.history import History
from mainstay.engines.mysql_family.log_places import Lineage, parse_place
from mainstay.engines.node_files import NodeFiles
from mainstay.host.processes import User
from mainstay.host.randomness import SeededRandomness
from mainstay.model.node import RestoreSpec, RestoreTarget
from mainstay.model.repository_job import RepositoryRef

FIRST = Lineage(timeline=1, first_file=1)


def batches(tmp_path: Path, files: dict[int, Binlog], at: float) -> list[list[tuple[str, int]]]:
    """Of every relay log, kind and length of its events, with the GTIDs that begin transactions."""
    archive = LogArchive(Repository(MemoryObjects(), "a/", b"k" * 32, SeededRandomness(1)))
    archive_log(archive, FIRST, files)
    target = RestoreTarget(at=BEGAN + at)
    history = History(archive, MARIADB_LOG, FIRST, parse_place("1/1:4"), MARIADB_LOG.transactions("0-1-1"), target)
    nodes = NodeFiles(root=tmp_path, sockets=tmp_path / "sockets")
    nodes.restoring.mkdir(parents=True)
    spec = RestoreSpec(repository=RepositoryRef(prefix="a/", data_key="00"), backup_id="b", target=target)
    made = MariadbReplay(spec, nodes, User("me"), archive)
    found = []
    for batch in made._batches(history):
        content = batch.path.read_bytes()
        whole = list(events([content]))
        assert whole[-1].end == len(content) and whole[0].kind == FORMAT_DESCRIPTION, LOG
        gtids = [(str(gtid_of(one)), one.timestamp - BEGAN) for one in whole if one.kind == GTID]
        assert str(batch.last or "") == (gtids[-1][0] if gtids else "")
        assert sum(one.kind != FORMAT_DESCRIPTION for one in whole) == 3 * len(gtids), "transactions are whole"
        found.append(gtids)
    return found


def log_of(*sequences: int) -> Binlog:
    log = Binlog(1)
    for sequence in sequences:
        log.write(sequence, sequence)
    return log


def test_relay_logs_end_with_the_last_transaction_before_the_target(tmp_path: Path) -> None:
    first, second = log_of(1, 2, 3), log_of(4, 5, 6)
    second.mark(7, 7.5)
    assert batches(tmp_path, {1: first, 2: second}, 6) == [[("0-1-2", 2), ("0-1-3", 3), ("0-1-4", 4), ("0-1-5", 5)]]


def test_batches_are_of_whole_transactions_and_never_run_past_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "BATCH_BYTES", 200)
    log = log_of(*range(1, 12))
    log.mark(12, 30.0)
    made = batches(tmp_path, {1: log}, 8)
    together = [one for batch in made for one in batch]
    assert len(made) > 2 and together == [(f"0-1-{number}", number) for number in range(2, 8)]


def test_a_transaction_that_a_crash_has_cut_off_is_not_in_it(tmp_path: Path) -> None:
    crashed, later = log_of(2, 3), log_of(3, 4)
    crashed.content = crashed.content[:-9]
    later.mark(5, 9.0)
    assert batches(tmp_path, {1: crashed, 2: later}, 9) == [[("0-1-2", 2), ("0-1-3", 3), ("0-1-4", 4)]]


def test_nothing_is_to_be_replayed(tmp_path: Path) -> None:
    log = log_of(1)
    log.mark(2, 9.0)
    assert batches(tmp_path, {1: log}, 5) == [[]]
