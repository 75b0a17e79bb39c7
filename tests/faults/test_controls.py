"""Positive controls: the fault tests must turn red when a protection is taken out (tests/faults/sabotage)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from harness.link import Link
from harness.pairs import MultiAZ, freezer_works
from harness.sabotage import SabotagedService
from harness.service import eventually
from harness.writers import Outcome, Verdict, Writers, judge

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]

ROUNDS_MAX = 10


@contextmanager
def sabotaged(name: str) -> Iterator[tuple[MultiAZ, Link]]:
    """A Multi-AZ instance of a service that lacks something, over a link that is as slow as in the tests."""
    with SabotagedService(name) as service:
        pair = MultiAZ(service, service.create_instance("m1", MultiAZ=True))
        pair.await_in_sync()
        pair.make_table()
        with Link(service.settings.runtime / "nodes") as link:
            link.delay(0.02, 0.05)
            yield pair, link


def verdict_of(pair: MultiAZ, writers: Writers) -> Verdict:
    """Of everything until now."""
    return judge(writers.operations, writers.read, pair.rows())


def test_asynchronous_replication_loses_commits() -> None:
    with sabotaged("asynchronous_replication") as (pair, link):
        for number in range(ROUNDS_MAX):
            with pair.writers() as writers:
                pair.kill_rounds(link, writers, 1, dwell_s=0.1)
            verdict = verdict_of(pair, writers)
            print(f"asynchronous replication, kill {number + 1}: {verdict}")
            if verdict.lost:
                return
            pair.make_table()
    pytest.fail("the checker does not see the loss of asynchronous replication")


def test_alone_recorded_late_loses_commits(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--faults-full"):
        pytest.skip("in `make faults` only")
    with sabotaged("alone_recorded_late") as (pair, link):
        pair.relay_follower(link)
        before = pair.await_in_sync()
        with pair.writers() as writers:
            eventually(writers.acknowledged)
            link.cut(silently=False)
            cut_at = time.monotonic()
            eventually(lambda: writers.acknowledged_since(cut_at + 0.2))
            assert pair.record.standby, "the sabotage is of no effect"
            pair.kill(before.primary)
            pair.await_epoch(before.epoch + 1)
            link.restore()
            writers.resumed()
        verdict = verdict_of(pair, writers)
        print(f"ALONE recorded late: {verdict}")
        assert verdict.lost and verdict.unread


def test_unfenced_primary_acknowledges_in_the_new_epoch() -> None:
    with sabotaged("fencing_off") as (pair, _link):
        before = pair.await_in_sync()
        with pair.writers() as writers, pair.stranded(before.primary) as stranded:
            eventually(lambda: writers.acknowledged_since(0) and stranded.acknowledged_since(0))
            with (pair.frozen if freezer_works() else pair.stopped)(before.primary):
                frozen_at = time.monotonic()
                pair.await_epoch(before.epoch + 1)
                fenced_at = time.monotonic()
                eventually(lambda: writers.acknowledged_since(frozen_at))
            eventually(lambda: stranded.acknowledged_after(fenced_at), timeout_s=20)
            late = stranded.acknowledged_after(fenced_at)
        print(f"fencing off: {len(late)} commits were acknowledged by the old primary in the new epoch")
        assert late and all(one.outcome is Outcome.ACKNOWLEDGED for one in late)
