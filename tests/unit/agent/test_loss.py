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


def test_what_it_says_itself_counts_after_a_while_though_it_receives_between_its_tries(watch: LossWatch) -> None:
    def look(now: float, said: str = "cannot apply it", upstream: str = "node-1") -> str:
        return watch.look(now, streaming=not said, upstream=upstream, said=said)

    assert [look(0.0), look(1.0, ""), look(PATIENCE_S - 1)] == ["", "", ""]
    assert look(PATIENCE_S + 1, upstream="") == "", "there is nobody to copy it from"
    assert look(PATIENCE_S + 1) == "cannot apply it"
    later = 3 * PATIENCE_S  # it got over that: this is something new
    assert [look(later), look(later + 1, ""), look(later + 5)] == ["", "", ""]
    assert look(later + PATIENCE_S) == "cannot apply it"
    watch.forget()
    assert look(later + PATIENCE_S + 1) == "", "it has been copied since"


def test_what_a_copy_replaces_is_no_reason_to_copy_again(watch: LossWatch, log: Path) -> None:
    cut_off(watch, 0.0)
    log.write_text(log.read_text() + REMOVED)
    assert cut_off(watch, PATIENCE_S) != ""
    watch.forget()
    assert cut_off(watch, PATIENCE_S + 1) == cut_off(watch, 3 * PATIENCE_S) == ""
