"""When a follower is lost: only by its own words, only those of this time, only while its source is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from mainstay.agent.loss import PATIENCE_S, LossWatch
from mainstay.engines.postgresql.replication import loss

REMOVED = (
    "2026-01-01 00:00:00 UTC::@:[7]:FATAL:  could not receive data from WAL stream: ERROR:  requested WAL segment"
    " 000000010000000000000003 has already been removed\n"
)
FORKED = "LOG:  new timeline 2 forked off current database system timeline 1 before current recovery point 0/5000000\n"
OTHER = "FATAL:  could not connect to the primary server: connection refused\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    file = tmp_path / "postgresql.log.2026-01-01-00"
    file.write_text(REMOVED)
    return file


@pytest.fixture
def watch(log: Path) -> LossWatch:
    return LossWatch(log.parent, loss)


def cut_off(watch: LossWatch, now: float, upstream: str = "node-1") -> str:
    return watch.look(now, streaming=False, upstream=upstream)


def test_the_engines_words() -> None:
    assert "removed WAL" in loss(OTHER + REMOVED + OTHER) and "new primary" in loss(FORKED)
    assert loss(OTHER) == loss("") == ""


@pytest.mark.parametrize("words", [REMOVED, FORKED])
def test_what_it_says_while_cut_off_counts_after_a_while(watch: LossWatch, log: Path, words: str) -> None:
    assert cut_off(watch, 0.0) == ""
    log.write_text(log.read_text() + words)
    assert cut_off(watch, PATIENCE_S - 1) == ""
    assert cut_off(watch, PATIENCE_S) == loss(words)


def test_what_it_said_before_does_not_count(watch: LossWatch, log: Path) -> None:
    cut_off(watch, 0.0)
    log.write_text(log.read_text() + OTHER)
    assert cut_off(watch, 60.0) == ""
    log.with_name("postgresql.log.2026-01-01-01").write_text(REMOVED)
    assert cut_off(watch, 70.0) != "", "a newer file of the same time does"


def test_time_does_not_run_while_it_streams_or_its_source_is_away_or_changes(watch: LossWatch, log: Path) -> None:
    cut_off(watch, 0.0)
    log.write_text(REMOVED * 2)
    assert watch.look(20.0, streaming=True, upstream="node-1") == ""
    assert cut_off(watch, 21.0) == ""
    log.write_text(REMOVED * 3)
    assert cut_off(watch, 40.0, upstream="") == "" and cut_off(watch, 41.0) == ""
    log.write_text(REMOVED * 4)
    assert cut_off(watch, 60.0, upstream="node-2") == ""
    log.write_text(REMOVED * 5)
    assert cut_off(watch, 60.0 + PATIENCE_S, upstream="node-2") != ""


def test_without_any_log_nothing_is_lost(tmp_path: Path) -> None:
    watch = LossWatch(tmp_path / "none", loss)
    assert cut_off(watch, 0.0) == cut_off(watch, 60.0) == ""


def test_one_that_cannot_go_on_is_lost_after_a_while_though_it_is_silent_between_its_tries(watch: LossWatch) -> None:
    def looks(*looks: tuple[float, str]) -> list[bool]:
        return [watch.stuck(now, at) for now, at in looks]

    assert looks((0.0, "1-7"), (1.0, ""), (PATIENCE_S - 1, "1-7"), (PATIENCE_S, "1-7")) == [False, False, False, True]
    assert not any(looks((20.0, "1-8"), (29.0, "1-9"), (38.0, "1-10"))), "each time at another one"
    assert not any(looks((60.0, "1-10"), (69.0, "1-10"))), "it got over that: this is something new"
    assert looks((70.0, "1-10")) == [True]
    watch.forget()
    assert looks((71.0, "1-10")) == [False], "it has been copied since"


def test_what_a_copy_replaces_is_no_reason_to_copy_again(watch: LossWatch, log: Path) -> None:
    cut_off(watch, 0.0)
    log.write_text(log.read_text() + REMOVED)
    assert cut_off(watch, PATIENCE_S) != ""
    watch.forget()
    assert cut_off(watch, PATIENCE_S + 1) == cut_off(watch, 3 * PATIENCE_S) == ""
