"""The fleet over RPC: today the agent of this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from mainstay.host.rpc import RpcClient
from mainstay.model.errors import Transient
from mainstay.model.node import NodeSpec, NodeStatus
from mainstay.model.repository_job import JobStatus, RepositoryJob
from mainstay.model.volume import VolumeDriverReport


class RpcFleet:
    """`Fleet`. `on_change(dbi_resource_id)` is called whenever something new is seen of an instance's node.

    `on_job(subject)` likewise for a job on a repository.
    """

    def __init__(
        self, socket: Path, on_change: Callable[[str], None], on_job: Callable[[str], None] = lambda _subject: None
    ) -> None:
        self._seen: dict[str, NodeStatus] = {}
        self._shown: dict[str, NodeStatus] = {}
        """What was seen when an agent last looked, which one that has just begun has not done yet."""

        self._jobs: dict[str, JobStatus] = {}
        self._volume_drivers: tuple[VolumeDriverReport, ...] | None = None
        self._on_job = on_job
        self._complete = False
        self._on_change = on_change
        self._client = RpcClient(socket, on_notice=self._notice, on_state=self._state)

    def start(self) -> None:
        """Begins to keep the connection."""
        self._client.start()

    async def stop(self) -> None:
        """Ends it."""
        await self._client.stop()

    @property
    def connected(self) -> bool:
        """Whether what is seen is seen now."""
        return self._complete

    async def put_node(self, spec: NodeSpec) -> None:
        await self._client.call("put_node", msgspec.to_builtins(spec))

    def observe(self, node_id: str) -> NodeStatus | None:
        if not self._complete:
            raise Transient("the agent is not connected", retry_after_s=0.2)
        return self._seen.get(node_id)

    def last_seen(self, node_id: str) -> NodeStatus | None:
        return self._shown.get(node_id)

    async def lock(self, node_id: str) -> None:
        await self._client.call("lock_node", {"node_id": node_id})

    async def unlock(self, node_id: str, key: str) -> None:
        await self._client.call("unlock_node", {"node_id": node_id, "key": key})

    def volume_drivers(self) -> tuple[VolumeDriverReport, ...] | None:
        return self._volume_drivers

    async def start_job(self, job: RepositoryJob) -> None:
        await self._client.call("start_job", msgspec.to_builtins(job))

    def observe_job(self, job_id: str) -> JobStatus | None:
        if not self._complete:
            raise Transient("the agent is not connected", retry_after_s=0.2)
        return self._jobs.get(job_id)

    async def forget_job(self, job_id: str) -> None:
        await self._client.call("forget_job", {"job_id": job_id})
        self._jobs.pop(job_id, None)

    async def list_logs(self, node_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self._client.call("list_logs", {"node_id": node_id})
        return found

    async def read_log(self, node_id: str, name: str, marker: str | None, lines: int | None) -> dict[str, Any]:
        wanted = {"node_id": node_id, "name": name, "marker": marker, "lines": lines}
        portion: dict[str, Any] = await self._client.call("read_log", wanted)
        return portion

    def _state(self, connected: bool) -> None:
        if not connected:
            self._complete = False

    def _notice(self, topic: str, data: Any) -> None:
        if topic == "nodes":
            statuses = msgspec.convert(data, list[NodeStatus])
            changed = {status.dbi_resource_id for status in [*statuses, *self._seen.values()]}
            self._seen = {status.node_id: status for status in statuses}
            self._shown = {status.node_id: self._to_show(status) for status in statuses}
            self._complete = True
            for dbi_resource_id in changed:
                self._on_change(dbi_resource_id)
        elif topic == "node":
            status = msgspec.convert(data, NodeStatus)
            self._seen[status.node_id] = status
            self._shown[status.node_id] = self._to_show(status)
            self._on_change(status.dbi_resource_id)
        elif topic == "jobs":
            self._jobs = {status.job_id: status for status in msgspec.convert(data, list[JobStatus])}
            for subject in {status.subject for status in self._jobs.values()}:
                self._on_job(subject)
        elif topic == "job":
            one = msgspec.convert(data, JobStatus)
            self._jobs[one.job_id] = one
            self._on_job(one.subject)
        elif topic == "volume_drivers" and data is not None:  # an agent that has just started does not know yet
            self._volume_drivers = msgspec.convert(data, tuple[VolumeDriverReport, ...])
        elif topic == "gone" and (gone := self._seen.pop(str(data), None)) is not None:
            self._shown.pop(str(data), None)
            self._on_change(gone.dbi_resource_id)

    def _to_show(self, status: NodeStatus) -> NodeStatus:
        return status if status.looked else self._shown.get(status.node_id, status)
