"""The lag of a read replica in seconds: truthful for one that is slow, and for one whose source is idle."""

from __future__ import annotations

from mainstay.agent.lag import LagMeter
from mainstay.model.node import ReplicationStatus


def seen(lag_bytes: int | None, lag_s: float | None, *, streaming: bool = True) -> ReplicationStatus:
    return ReplicationStatus(streaming=streaming, lag_s=lag_s, lag_bytes=lag_bytes)


def test_before_it_was_ever_complete_the_age_of_the_last_transaction_is_all_that_is_known() -> None:
    meter = LagMeter()
    assert meter.measure(seen(5000, 12.0), 100.0).lag_s == 12.0
    assert meter.measure(seen(None, None, streaming=False), 100.0).lag_s is None


def test_a_source_that_was_idle_for_long_does_not_make_its_replica_slow() -> None:
    meter = LagMeter()
    meter.measure(seen(0, 0.0), 100.0)
    behind = meter.measure(seen(200, 3600.0), 102.0)
    assert (behind.lag_s, behind.lag_bytes) == (2.0, 200)


def test_a_slow_replica_is_as_late_as_its_last_transaction_says() -> None:
    meter = LagMeter()
    meter.measure(seen(0, 0.0), 100.0)
    assert meter.measure(seen(900, 7.5), 400.0).lag_s == 7.5


def test_lag_grows_while_nothing_is_replayed_or_nothing_comes() -> None:
    meter = LagMeter()
    meter.measure(seen(0, 0.0), 100.0)
    assert [meter.measure(seen(900, 3600.0 + now), now).lag_s for now in (101.0, 105.0, 160.0)] == [1.0, 5.0, 60.0]
    assert meter.measure(seen(None, None, streaming=False), 200.0).lag_s == 100.0
    assert meter.measure(seen(0, 0.0), 201.0).lag_s == 0.0
