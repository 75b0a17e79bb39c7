"""What several workers say of a proxy, as one. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from mainstay.model.proxy import ProxyStatus, TargetState

ALLOWED = "MaxDatabaseConnectionsAllowed"
GAUGES = frozenset(
    {
        "ClientConnections",
        "DatabaseConnections",
        "DatabaseConnectionsCurrentlyBorrowed",
        "DatabaseConnectionsCurrentlyInTransaction",
        "DatabaseConnectionsCurrentlySessionPinned",
        "ClientConnectionsWaiting",
        ALLOWED,
    }
)
"""What is now; everything else has been counted since the worker began."""


def summed(metrics: Iterable[dict[str, float]], allowed: int) -> dict[str, float]:
    """The sums; the budget is one for all."""
    sums: Counter[str] = Counter()
    for one in metrics:
        sums.update(one)
    return {**sums, ALLOWED: allowed}


def counted(metrics: dict[str, float]) -> dict[str, float]:
    """What stays counted when a worker has ended."""
    return {name: value for name, value in metrics.items() if name not in GAUGES}


def as_one(proxy_id: str, statuses: list[ProxyStatus], metrics: dict[str, float]) -> ProxyStatus:
    """The status of a proxy. A spec is in force when it is in every worker; a target that has connections is healthy,
    whatever a worker without any has last seen of it.
    """
    if not statuses:
        return ProxyStatus(
            proxy_id=proxy_id,
            generation=0,
            target_state=TargetState.UNAVAILABLE,
            target_reason="PENDING_PROXY_CAPACITY",
            metrics=metrics,
        )
    well = [one for one in statuses if one.target_state is TargetState.AVAILABLE]
    ill = [one for one in statuses if one.target_state is not TargetState.AVAILABLE]
    connected = [one for one in well if one.metrics.get("DatabaseConnections")]
    shown = (connected or ill or well)[0]
    return msgspec.structs.replace(
        shown,
        generation=min(one.generation for one in statuses),
        failure=next((one.failure for one in statuses if one.failure), ""),
        metrics=metrics,
    )
