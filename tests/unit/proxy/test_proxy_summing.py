"""What several workers say of a proxy, as one."""

from __future__ import annotations

from mainstay.model.proxy import ProxyStatus, TargetState
from mainstay.proxy.summing import ALLOWED, as_one, counted, summed


def status(connections: int, reason: str = "", *, generation: int = 3, failure: str = "") -> ProxyStatus:
    return ProxyStatus(
        proxy_id="prx-1",
        generation=generation,
        target_state=TargetState.UNAVAILABLE if reason else TargetState.AVAILABLE,
        target_reason=reason,
        failure=failure,
        metrics={"DatabaseConnections": connections},
    )


def test_sums_and_the_one_budget() -> None:
    one: dict[str, float] = {"ClientConnections": 3, "QueryRequests": 10, ALLOWED: 7}
    two: dict[str, float] = {"ClientConnections": 4, "Pinned: x": 1, ALLOWED: 7}
    assert summed([one, two], 7) == {"ClientConnections": 7, "QueryRequests": 10, "Pinned: x": 1, ALLOWED: 7}
    assert counted(one) == {"QueryRequests": 10}, "clients of a worker that has ended are none"


def test_a_target_with_connections_is_healthy() -> None:
    for statuses in ([status(2), status(0, "CONNECTION_FAILED")], [status(0, "CONNECTION_FAILED"), status(2)]):
        assert as_one("prx-1", statuses, {}).target_state is TargetState.AVAILABLE
    for statuses in ([status(0), status(0, "CONNECTION_FAILED")], [status(0, "CONNECTION_FAILED"), status(0)]):
        assert as_one("prx-1", statuses, {}).target_reason == "CONNECTION_FAILED"
    assert as_one("prx-1", [status(0), status(0)], {}).target_state is TargetState.AVAILABLE


def test_a_spec_is_in_force_when_it_is_everywhere() -> None:
    assert as_one("prx-1", [status(1, generation=4), status(1, generation=3)], {}).generation == 3
    assert as_one("prx-1", [status(1), status(1, failure="no address")], {}).failure == "no address"
    nobody = as_one("prx-1", [], {})
    assert (nobody.generation, nobody.target_reason) == (0, "PENDING_PROXY_CAPACITY")
