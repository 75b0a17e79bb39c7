"""What the agent tells the endpoint process: where each endpoint's connections go now."""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from mainstay.host.rpc import RpcClient
from mainstay.model.node import NodeSpec
from mainstay.model.route import Route


class Routes(Protocol):
    """The endpoint process, seen from a keeper. All three may be repeated."""

    async def publish(self, spec: NodeSpec, epoch: int) -> None:
        """Clients connect to this node, under the spec's access list; connections of an older epoch end."""

    async def hold(self, spec: NodeSpec, epoch: int) -> None:
        """There is no node to connect to for the moment: new connections wait."""

    async def withdraw(self, spec: NodeSpec) -> None:
        """There is no such endpoint any more: connections are refused, existing ones end."""


class EndpointRoutes:
    """`Routes` over the endpoint process's RPC socket."""

    def __init__(self, client: RpcClient, path: Literal["relay", "kernel"]) -> None:
        self._client = client
        self._path = path

    async def publish(self, spec: NodeSpec, epoch: int) -> None:
        await self._put(spec, epoch, spec.listen_address)

    async def hold(self, spec: NodeSpec, epoch: int) -> None:
        await self._put(spec, epoch, None)

    async def withdraw(self, spec: NodeSpec) -> None:
        await self._client.call("remove_route", {"endpoint_id": spec.endpoint.endpoint_id})

    async def _put(self, spec: NodeSpec, epoch: int, target: str | None) -> None:
        route = Route(
            endpoint_id=spec.endpoint.endpoint_id,
            address=spec.endpoint.address,
            port=spec.endpoint.port,
            target_address=target,
            target_port=spec.port,
            epoch=epoch,
            admits=spec.endpoint.admits,
            path=self._path,
            name=spec.endpoint.name,
        )
        await self._client.call("put_route", msgspec.to_builtins(route))
