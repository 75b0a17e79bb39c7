"""Where databases are, as the agent tells: its notices, not control's, so that a failover needs nobody else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from mainstay.host.rpc import RpcClient
from mainstay.model.node import NodePhase, NodeRole, NodeStatus
from mainstay.settings import Settings


class Places:
    """The nodes of this host. `changed` is called whenever something new is known of one."""

    def __init__(self, settings: Settings, changed: Callable[[], None]) -> None:
        self.known = False
        """Whether the agent has told yet."""

        self._settings = settings
        self._changed = changed
        self._nodes: dict[str, NodeStatus] = {}
        self._agent = RpcClient(settings.runtime / "agent.sock", on_notice=self._notice)

    def start(self) -> None:
        """Begins to listen."""
        self._agent.start()

    async def stop(self) -> None:
        """No more."""
        await self._agent.stop()

    def of(self, target: str) -> tuple[str, int] | None:
        """The socket of the node that leads this DB instance now, and its epoch; None while none is ready."""
        for node in self._nodes.values():
            leads = node.role is NodeRole.PRIMARY and node.phase is NodePhase.RUNNING
            if node.dbi_resource_id == target and leads and (node.pair is None or node.pair.primary == node.node_id):
                path = self._settings.runtime / "nodes" / node.node_id / f".s.PGSQL.{node.port}"
                return str(path), 1 if node.pair is None else node.pair.epoch
        return None

    def _notice(self, topic: str, data: Any) -> None:
        if topic == "nodes":
            self._nodes = {status.node_id: status for status in msgspec.convert(data, list[NodeStatus])}
            self.known = True
        elif topic == "node":
            status = msgspec.convert(data, NodeStatus)
            self._nodes[status.node_id] = status
        elif topic == "gone":
            self._nodes.pop(str(data), None)
        self._changed()
