"""The routing table and its rules: what a new route changes, which connections survive it, who is admitted.

Pure: no sockets, no clock. Guarantees, tested in tests/unit/endpoint/test_routing.py:
- An epoch never goes back: a late message of a deposed primary is refused.
- A connection survives a change only if its epoch is not older and its engine is still the target.
- While an endpoint has no target its connections are left alone: the engine ends them itself if it goes down.
- As with AWS security groups, which are stateful, a changed access list decides about new connections only.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import msgspec

from mainstay.endpoint.limits import ROUTES_MAX
from mainstay.model.errors import Permanent
from mainstay.model.route import Route


class Change(msgspec.Struct, frozen=True):
    """What `put` or `remove` means for sockets. `route` is None for a removal, `previous` None for a new endpoint."""

    route: Route | None
    previous: Route | None

    @property
    def listens_anew(self) -> bool:
        """A socket must be opened."""
        return self.route is not None and (self.previous is None or _place(self.route) != _place(self.previous))

    @property
    def listens_no_more(self) -> bool:
        """The previous socket must be closed."""
        return self.previous is not None and (self.route is None or _place(self.route) != _place(self.previous))


def survives(route: Route | None, epoch: int, target: tuple[str, int]) -> bool:
    """Whether a connection made at `epoch` to `target` may live on under this route."""
    if route is None or epoch < route.epoch:
        return False
    return route.target is None or route.target == target


class RoutingTable:
    """All routes by endpoint id."""

    def __init__(self, routes: Iterable[Route] = ()) -> None:
        self._routes = {route.endpoint_id: route for route in routes}

    def get(self, endpoint_id: str) -> Route | None:
        """The route of an endpoint, None when it has none."""
        return self._routes.get(endpoint_id)

    def all(self) -> tuple[Route, ...]:
        """Every route, in order of endpoint id."""
        return tuple(self._routes[endpoint_id] for endpoint_id in sorted(self._routes))

    def plan(self, route: Route) -> Change:
        """What `put` would change. Raises `Permanent` for an older epoch, a taken place or a full table."""
        previous = self._routes.get(route.endpoint_id)
        if previous is not None and route.epoch < previous.epoch:
            raise Permanent(
                f"{route.endpoint_id} is at epoch {previous.epoch}; epoch {route.epoch} is over",
                hint="The sender is not the current owner of this endpoint any more.",
            )
        if previous is None and len(self._routes) >= ROUTES_MAX:
            raise Permanent(f"there are {ROUTES_MAX} routes already; one host cannot have more")
        for other in self._routes.values():
            if other.endpoint_id != route.endpoint_id and _place(other) == _place(route):
                raise Permanent(f"{route.address}:{route.port} belongs to {other.endpoint_id}")
        return Change(route, previous)

    def put(self, route: Route) -> Change:
        """Replaces or adds the route of an endpoint."""
        change = self.plan(route)
        self._routes[route.endpoint_id] = route
        return change

    def remove(self, endpoint_id: str) -> Change:
        """Takes the endpoint away; nothing happens when it has no route."""
        return Change(None, self._routes.pop(endpoint_id, None))


def admitted(route: Route, client_address: str) -> bool:
    """Whether the access list lets this client in. An IPv4 client of an IPv6 socket is judged by its IPv4 address."""
    address = ip_address(client_address)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in _networks(route.admits))


@lru_cache(maxsize=1024)
def _networks(admits: tuple[str, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(cidr, strict=False) for cidr in admits)


def _place(route: Route) -> tuple[str, int]:
    return route.address, route.port
