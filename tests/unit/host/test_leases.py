"""The lease store: compare and replace, for one writer at a time, and nothing half-done."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from mainstay.host import leases as module
from mainstay.host.leases import LocalLeases
from mainstay.model.errors import Permanent, Transient
from mainstay.model.node import Failover
from mainstay.model.pair import FAILOVERS_KEPT, PairRecord

DB = "db-ONE"
FIRST = PairRecord(epoch=1, primary="node-1", since=1.0, reason="the standby is being made")


def test_a_record_is_there_after_a_restart_and_gone_after_forget(tmp_path: Path) -> None:
    store = LocalLeases(tmp_path)
    assert store.read(DB) is None
    store.replace(DB, None, FIRST)
    store.replace("db-TWO", None, FIRST.in_sync("node-2", "7@1.0", "8@1.0", 2.0))
    assert LocalLeases(tmp_path).read(DB) == FIRST
    store.forget(DB)
    store.forget(DB)
    assert store.read(DB) is None and store.read("db-TWO") is not None


def test_a_change_decided_on_an_older_record_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    store, late = LocalLeases(tmp_path), LocalLeases(tmp_path)
    store.replace(DB, None, FIRST)
    in_sync = FIRST.in_sync("node-2", "7@1.0", "8@1.0", 2.0)
    store.replace(DB, FIRST, in_sync)
    alone = in_sync.alone("the standby's process ended", 3.0)
    store.replace(DB, in_sync, alone)
    failover = Failover(epoch=2, at=4.0, row="r", because="b", old_primary="node-1", new_primary="node-2")
    for expected in (None, FIRST, in_sync):
        with pytest.raises(Transient, match="changed meanwhile"):
            late.replace(DB, expected, in_sync.taken_over(failover, 0, 4.0))
        assert store.read(DB) == alone


def test_a_full_disk_is_transient_and_leaves_the_record_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalLeases(tmp_path)
    store.replace(DB, None, FIRST)

    def full(_path: Path, _content: bytes) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomically", full)
        with pytest.raises(Transient, match="cannot be written"):
            store.replace(DB, FIRST, FIRST.alone("x", 2.0))
    assert store.read(DB) == FIRST
    store.replace(DB, FIRST, FIRST.alone("x", 2.0))


@pytest.mark.parametrize("content", [b"", b"{", b'{"epoch": "one"}', b"\xff\xfe"])
def test_a_damaged_record_is_told_and_never_guessed(content: bytes, tmp_path: Path) -> None:
    store = LocalLeases(tmp_path)
    (tmp_path / f"{DB}.json").write_bytes(content)
    with pytest.raises(Permanent, match="cannot be read"):
        store.read(DB)
    with pytest.raises(Permanent):
        store.replace(DB, None, FIRST)
    assert (tmp_path / f"{DB}.json").read_bytes() == content


COUNT_UP = """
import os, sys
from pathlib import Path
from mainstay.host.leases import LocalLeases
from mainstay.model.errors import Transient
from mainstay.model.pair import PairRecord
store, done = LocalLeases(Path(sys.argv[1])), 0
while done < 30:
    present = store.read("db-ONE")
    try:
        following = PairRecord(epoch=present.epoch + 1, primary=str(os.getpid()), since=0.0, reason="")
        store.replace("db-ONE", present, following)
        done += 1
    except Transient:
        continue
"""


def test_of_processes_that_decide_at_once_one_wins_each_time(tmp_path: Path) -> None:
    LocalLeases(tmp_path).replace(DB, None, FIRST)
    writers = [subprocess.Popen([sys.executable, "-c", COUNT_UP, str(tmp_path)]) for _ in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    present = LocalLeases(tmp_path).read(DB)
    assert present is not None and present.epoch == 1 + 3 * 30, "an update was lost"


def test_a_takeover_begins_alone_at_the_next_epoch_and_history_is_bounded() -> None:
    record = FIRST
    for number in range(FAILOVERS_KEPT + 5):
        there = f"node-{2 - number % 2}"
        record = record.in_sync(there, "7@1.0", "8@1.0", 2.0)
        assert record.standby == there
        failover = Failover(
            epoch=record.epoch + 1, at=3.0, row="r", because="b", old_primary=record.primary, new_primary=there
        )
        record = record.taken_over(failover, 0, 3.0)
        assert (record.primary, record.standby, record.incarnation) == (there, "", "")
    assert record.epoch == FAILOVERS_KEPT + 6 and len(record.failovers) == FAILOVERS_KEPT
