"""What the endpoint process must know of one endpoint: where it listens, where its primary is, who may come in."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Literal

import msgspec

from mainstay.model.dns_name import is_dns_name
from mainstay.model.errors import Permanent

ADMITS_MAX = 1000
ENDPOINT_ID_LENGTH_MAX = 255


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint as it is to be from now on. Checked at construction; a wrong one raises `Permanent`."""

    endpoint_id: str
    """Names the endpoint for good; a later route of the same id replaces this one."""

    address: str
    """Stable address that clients connect to."""

    port: int
    """Stable port that clients connect to."""

    epoch: int
    """Grows with every change of primary; connections of an older epoch are cut."""

    target_address: str | None = None
    """Where the engine of the current primary listens; None while there is no primary: clients then wait a little."""

    target_port: int = 0
    """Port of the engine; without meaning while there is no target."""

    admits: tuple[str, ...] = ()
    """CIDR ranges (IPv4 or IPv6) whose clients may connect; nobody else may."""

    path: Literal["relay", "kernel"] = "relay"
    """How bytes are carried where there is a choice; "kernel" falls back to "relay" where the kernel cannot."""

    name: str = ""
    """RDS-style DNS name of the endpoint, upper and lower case alike; empty: it has none."""

    @property
    def target(self) -> tuple[str, int] | None:
        """Address and port of the engine."""
        return None if self.target_address is None else (self.target_address, self.target_port)

    def __post_init__(self) -> None:
        if not 1 <= len(self.endpoint_id) <= ENDPOINT_ID_LENGTH_MAX:
            raise Permanent(f"an endpoint id has 1 to {ENDPOINT_ID_LENGTH_MAX} characters")
        if len(self.admits) > ADMITS_MAX:
            raise Permanent(f"{self.endpoint_id} admits {len(self.admits)} ranges; at most {ADMITS_MAX} are possible")
        if self.epoch < 0:
            raise Permanent(f"epoch {self.epoch} of {self.endpoint_id} is negative")
        ports = [self.port] if self.target_address is None else [self.port, self.target_port]
        if not all(1 <= port <= 65535 for port in ports):
            raise Permanent(f"a port of {self.endpoint_id} is not between 1 and 65535")
        if self.name and not is_dns_name(self.name):
            raise Permanent(f"the name {self.name!r} of {self.endpoint_id} is not a DNS name")
        try:
            ip_address(self.address)
            if self.target_address is not None:
                ip_address(self.target_address)
            for cidr in self.admits:
                ip_network(cidr, strict=False)
        except ValueError as error:
            raise Permanent(f"{self.endpoint_id}: {error}") from error
