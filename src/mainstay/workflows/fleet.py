"""The agents, as the control plane sees them: specs go out, observations come in."""

from __future__ import annotations

from typing import Any, Protocol

from mainstay.model.db_instance import DBInstance
from mainstay.model.node import NodeSpec, NodeStatus, leading
from mainstay.model.repository_job import JobStatus, RepositoryJob
from mainstay.model.volume import VolumeDriverReport


class Fleet(Protocol):
    """Every agent of the service. `put_node` may be repeated; a spec of an older generation is ignored by the agent."""

    async def put_node(self, spec: NodeSpec) -> None:
        """Hands a spec to the node's agent, which has stored it when this returns. Raises `Transient` if it is away."""

    def observe(self, node_id: str) -> NodeStatus | None:
        """What the agent last saw of the node, None when there is no such node. Raises `Transient` if it is away."""

    def last_seen(self, node_id: str) -> NodeStatus | None:
        """As `observe`, but when the agent is away or has not looked yet, what was seen before: for showing, never for
        deciding.
        """

    async def lock(self, node_id: str) -> None:
        """Takes the key of the node's volume away: its engine gets errors at once and is stopped. `Transient`."""

    async def unlock(self, node_id: str, key: str) -> None:
        """Opens the node's volume and has its engine started. `Permanent` for another key, `Transient` if away."""

    def volume_drivers(self) -> tuple[VolumeDriverReport, ...] | None:
        """Which volumes the hosts can have; None before an agent has told."""

    async def start_job(self, job: RepositoryJob) -> None:
        """Orders work on a repository; one that is known already changes nothing. Raises `Transient`."""

    def observe_job(self, job_id: str) -> JobStatus | None:
        """What the agent last saw of a job, None for one it does not know. Raises `Transient` if it is away."""

    async def forget_job(self, job_id: str) -> None:
        """The job's outcome is recorded or not wanted any more: one that runs is given up. Raises `Transient`."""

    async def list_logs(self, node_id: str) -> list[dict[str, Any]]:
        """Log files of a node."""

    async def read_log(self, node_id: str, name: str, marker: str | None, lines: int | None) -> dict[str, Any]:
        """A portion of a log file."""


def last_seen_leader(fleet: Fleet, instance: DBInstance) -> NodeStatus | None:
    """What was last seen of the node that leads the instance: for showing, never for deciding."""
    return leading([fleet.last_seen(node_id) for node_id in instance.node_ids])


def leader_id(fleet: Fleet, instance: DBInstance) -> str:
    """The node that leads the instance, as far as it is known."""
    seen = last_seen_leader(fleet, instance)
    return instance.node_id if seen is None else seen.node_id
