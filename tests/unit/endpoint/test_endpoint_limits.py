"""Limits on connections and on log lines."""

from __future__ import annotations

from mainstay.endpoint.limits import FILES_RESERVED, LogGate, Quota, connections_for


def test_two_descriptors_per_connection_and_a_reserve() -> None:
    assert connections_for(FILES_RESERVED + 2 * 100) == 100
    assert connections_for(10) == 0


def test_quota_per_endpoint_and_in_total() -> None:
    quota = Quota(3, per_endpoint_max=2)
    assert [quota.take("a"), quota.take("a")] == [None, None]
    assert quota.take("a") == "connections_per_endpoint"
    assert quota.take("b") is None
    assert quota.take("c") == "connections_total"
    quota.give_back("a")
    assert quota.take("c") is None
    assert quota.open() == {"a": 1, "b": 1, "c": 1}


def test_the_same_complaint_passes_once_per_interval() -> None:
    gate = LogGate(10.0)
    assert gate.passes("refused", "a", 0.0) == 0
    assert gate.passes("refused", "a", 5.0) is None
    assert gate.passes("refused", "a", 9.9) is None
    assert gate.passes("refused", "b", 5.0) == 0
    assert gate.passes("limit", "a", 5.0) == 0
    assert gate.passes("refused", "a", 10.0) == 2
    gate.forget("a")
    assert gate.passes("refused", "a", 10.1) == 0
