"""The agents, as the control plane sees them: specs go out, observations come in."""

from __future__ import annotations

from typing import Any, Protocol

from mainstay.model.node import NodeSpec, NodeStatus


class Fleet(Protocol):
    """Every agent of the service. `put_node` may be repeated; a spec of an older generation is ignored by the agent."""

    async def put_node(self, spec: NodeSpec) -> None:
        """Hands a spec to the node's agent, which has stored it when this returns. Raises `Transient` if it is away."""

    def observe(self, node_id: str) -> NodeStatus | None:
        """What the agent last saw of the node, None when there is no such node. Raises `Transient` if it is away."""

    def last_seen(self, node_id: str) -> NodeStatus | None:
        """As `observe`, but when the agent is away, what it saw before: for showing, never for deciding."""

    async def list_logs(self, node_id: str) -> list[dict[str, Any]]:
        """Log files of a node."""

    async def read_log(self, node_id: str, name: str, marker: str | None, lines: int | None) -> dict[str, Any]:
        """A portion of a log file."""
