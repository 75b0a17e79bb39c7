"""`mainstay explain INSTANCE`: why the last failover happened, or why one is not possible now, in plain words."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from mainstay.cli.agent import ask_agent
from mainstay.model.errors import Permanent
from mainstay.model.node import Failover, NodePhase, NodeRole, NodeStatus, PairStatus, ReplicationStatus, leading
from mainstay.settings import Settings


def show_explanation(settings: Settings, identifier: str) -> None:
    """Prints it. Raises `Permanent` if this host has no such instance."""
    statuses = msgspec.convert(ask_agent(settings, "nodes"), list[NodeStatus])
    found = [status for status in statuses if status.db_instance_identifier == identifier]
    if not found:
        known = ", ".join(sorted({status.db_instance_identifier for status in statuses})) or "none"
        raise Permanent(f"there is no DB instance {identifier!r} on this host", hint=f"There are: {known}.")
    for line in explanation(found, time.time()):
        print(line)


def explanation(statuses: Sequence[NodeStatus], now: float) -> list[str]:
    """The lines for one instance. `now` is epoch seconds."""
    leader = leading(statuses) or statuses[0]
    lines = [f"{leader.db_instance_identifier}: {_nodes(statuses)}"]
    if leader.failure:
        lines.append(f"In the way at {leader.node_id}: {leader.failure}")
    if leader.replication is not None:
        lines.append(_following(leader.replication))
    pair = leader.pair
    if pair is None:
        lines.append("No failover is possible: it is not a Multi-AZ instance, there is no standby.")
        return lines
    lines.append(_readiness(pair, now))
    if not pair.failovers:
        lines.append("It has never failed over.")
    for failover in reversed(pair.failovers):
        lines.append(_told(failover, statuses, now))
    return lines


def _nodes(statuses: Sequence[NodeStatus]) -> str:
    words = {NodeRole.PRIMARY: "primary", NodeRole.STANDBY: "standby", NodeRole.REPLICA: "read replica"}
    order = sorted(statuses, key=lambda status: status.role is NodeRole.STANDBY)
    return ", ".join(f"{words[one.role]} in {one.availability_zone} ({_phase(one)})" for one in order)


def _phase(status: NodeStatus) -> str:
    return "running" if status.phase is NodePhase.RUNNING else str(status.phase)


def _following(replication: ReplicationStatus) -> str:
    if replication.lag_s is None:
        return f"It follows its source; its lag is not known. {replication.message}".strip()
    size = "" if replication.lag_bytes is None else f", {replication.lag_bytes} bytes"
    state = "and is receiving" if replication.streaming else f"but receives nothing: {replication.message}"
    return f"It follows its source {state}; it is {replication.lag_s:.1f} s{size} behind."


def _readiness(pair: PairStatus, now: float) -> str:
    since = f"since {_time(pair.since)} ({_ago(now - pair.since)} ago)"
    if pair.in_sync:
        return f"A failover is possible, and would lose no acknowledged commit: the standby has every commit {since}."
    return f"No failover is possible now, {since}: {pair.obstacle or pair.reason}. The primary acknowledges alone."


def _told(failover: Failover, statuses: Sequence[NodeStatus], now: float) -> str:
    zones = {status.node_id: status.availability_zone for status in statuses}
    old, new = zones.get(failover.old_primary, "a removed node"), zones.get(failover.new_primary, "a removed node")
    took = (
        f"writable again after {failover.writable_after_s:.3f} s" if failover.writable_after_s else "not writable yet"
    )
    return (
        f"{_time(failover.at)} ({_ago(now - failover.at)} ago): failover from {old} to {new}, because"
        f" {failover.because} (rule {failover.row}, epoch {failover.epoch}); {took}."
    )


def _time(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))


def _ago(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
