"""The fleet over RPC: today the agent of this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from mainstay.host.rpc import RpcClient
from mainstay.model.errors import Transient
from mainstay.model.node import NodeSpec, NodeStatus


class RpcFleet:
    """`Fleet`. `on_change(dbi_resource_id)` is called whenever something new is seen of an instance's node."""

    def __init__(self, socket: Path, on_change: Callable[[str], None]) -> None:
        self._seen: dict[str, NodeStatus] = {}
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
        return self._seen.get(node_id)

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
            self._complete = True
            for dbi_resource_id in changed:
                self._on_change(dbi_resource_id)
        elif topic == "node":
            status = msgspec.convert(data, NodeStatus)
            self._seen[status.node_id] = status
            self._on_change(status.dbi_resource_id)
        elif topic == "gone" and (gone := self._seen.pop(str(data), None)) is not None:
            self._on_change(gone.dbi_resource_id)
