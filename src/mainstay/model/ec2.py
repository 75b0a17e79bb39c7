"""The virtual network as EC2 names it: VPCs, subnets, security groups, routes, interfaces.

These records describe who may reach a database and where it may live; the endpoint process enforces the security
groups. Empty strings mean "none".
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from mainstay.model.records import Record, Revision

ALL_PROTOCOLS = "-1"
ANY_PORT = -1
MEMBER = "member"


class Resource(Record, frozen=True, kw_only=True, omit_defaults=True):
    """A record that users can tag."""

    tags: dict[str, str] = {}


class RegionNetwork(Record, frozen=True, kw_only=True, omit_defaults=True):
    """What a region has once: its default DHCP options, and whether its default VPC was ever made.

    The mark outlives the VPC: a user who deletes the default VPC does not get it back at the next start.
    """

    KIND: ClassVar[str] = "ec2.region"

    dhcp_options_id: str
    default_vpc_made: bool = False

    def key(self) -> str:
        return "region"


class SecurityGroupRevision(Revision, frozen=True, kw_only=True):
    """Grows by one with everything that can change an access list in this scope: rules, and who is in a group."""

    KIND: ClassVar[str] = "ec2.security-group-revision"


class Vpc(Resource, frozen=True, kw_only=True, omit_defaults=True):
    """A network with one IPv4 block."""

    KIND: ClassVar[str] = "ec2.vpc"

    vpc_id: str
    cidr_block: str
    cidr_association_id: str
    dhcp_options_id: str
    is_default: bool = False
    instance_tenancy: str = "default"
    enable_dns_support: bool = True
    enable_dns_hostnames: bool = False
    enable_network_address_usage_metrics: bool = False

    def key(self) -> str:
        return self.vpc_id

    def index(self) -> dict[str, str]:
        return {"is-default": "true"} if self.is_default else {}


class Subnet(Resource, frozen=True, kw_only=True, omit_defaults=True):
    """A part of a VPC's block in one Availability Zone."""

    KIND: ClassVar[str] = "ec2.subnet"

    subnet_id: str
    vpc_id: str
    cidr_block: str
    availability_zone: str
    acl_association_id: str
    default_for_az: bool = False
    map_public_ip_on_launch: bool = False
    private_dns_hostname_type: str = "ip-name"
    resource_name_dns_a_record: bool = False

    def key(self) -> str:
        return self.subnet_id

    def index(self) -> dict[str, str]:
        return {"vpc-id": self.vpc_id}


class SecurityGroup(Resource, frozen=True, kw_only=True, omit_defaults=True):
    """A named set of rules; the rules are records of their own."""

    KIND: ClassVar[str] = "ec2.security-group"

    group_id: str
    name: str
    description: str
    vpc_id: str

    def key(self) -> str:
        return self.group_id

    def index(self) -> dict[str, str]:
        return {"vpc-id": self.vpc_id}


class Permission(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one rule allows: a protocol, a port range and exactly one peer.

    `protocol` is "tcp", "udp", "icmp", "icmpv6", a protocol number, or "-1" for all. For ICMP the ports are the type
    and the code. `ANY_PORT` stands for all.
    """

    protocol: str
    from_port: int = ANY_PORT
    to_port: int = ANY_PORT
    cidr_ipv4: str = ""
    cidr_ipv6: str = ""
    group_id: str = ""
    description: str = ""

    @property
    def peer(self) -> str:
        """The CIDR block or group on the other side."""
        return self.cidr_ipv4 or self.cidr_ipv6 or self.group_id

    def allows_the_same_as(self, other: Permission) -> bool:
        """Whether both are the same rule to EC2, which ignores descriptions."""
        return self._identity() == other._identity()

    def _identity(self) -> tuple[str, int, int, str]:
        return (self.protocol, self.from_port, self.to_port, self.peer)


class SecurityGroupRule(Resource, frozen=True, kw_only=True, omit_defaults=True):
    """One rule of one group."""

    KIND: ClassVar[str] = "ec2.security-group-rule"

    rule_id: str
    group_id: str
    is_egress: bool
    permission: Permission

    def key(self) -> str:
        return self.rule_id

    def index(self) -> dict[str, str]:
        referenced = self.permission.group_id
        return {"group-id": self.group_id} | ({"referenced-group-id": referenced} if referenced else {})


class InternetGateway(Resource, frozen=True, kw_only=True, omit_defaults=True):
    """A gateway, attached to at most one VPC."""

    KIND: ClassVar[str] = "ec2.internet-gateway"

    gateway_id: str
    vpc_id: str = ""

    def key(self) -> str:
        return self.gateway_id

    def index(self) -> dict[str, str]:
        return {"vpc-id": self.vpc_id} if self.vpc_id else {}


class Route(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where packets to `destination` (a CIDR block) go: "local" or an internet gateway."""

    destination: str
    gateway_id: str
    origin: str = "CreateRoute"


class RouteTableAssociation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Binds a route table to a subnet or, without one, to all subnets of the VPC that have none (the main table)."""

    association_id: str
    subnet_id: str = ""

    @property
    def main(self) -> bool:
        """Whether this makes its table the VPC's main one."""
        return not self.subnet_id


class RouteTable(Resource, frozen=True, kw_only=True, omit_defaults=True):
    """Routes and the subnets that follow them."""

    KIND: ClassVar[str] = "ec2.route-table"

    route_table_id: str
    vpc_id: str
    routes: tuple[Route, ...]
    associations: tuple[RouteTableAssociation, ...] = ()

    def key(self) -> str:
        return self.route_table_id

    def index(self) -> dict[str, str]:
        members = {f"association:{one.association_id}": MEMBER for one in self.associations}
        return {"vpc-id": self.vpc_id} | members

    @property
    def main(self) -> bool:
        """Whether it is its VPC's main table."""
        return any(association.main for association in self.associations)


class NetworkAcl(Resource, frozen=True, kw_only=True, omit_defaults=True):
    """A VPC's default network ACL, which allows everything; its associations are kept with the subnets."""

    KIND: ClassVar[str] = "ec2.network-acl"

    acl_id: str
    vpc_id: str

    def key(self) -> str:
        return self.acl_id

    def index(self) -> dict[str, str]:
        return {"vpc-id": self.vpc_id}


class NetworkInterface(Resource, frozen=True, kw_only=True, omit_defaults=True):
    """A private address in a subnet and the security groups that guard it.

    `requester` names the service that owns it ("amazon-rds"); users own those without. `real_addresses` are where
    its packets come from on this host's network (the instance's endpoint address): EC2 shows them nowhere, but they
    count as the interface when a rule admits one of its groups.
    """

    KIND: ClassVar[str] = "ec2.network-interface"

    interface_id: str
    subnet_id: str
    vpc_id: str
    availability_zone: str
    private_address: str
    mac_address: str
    group_ids: tuple[str, ...]
    description: str = ""
    requester: str = ""
    attachment_id: str = ""
    source_dest_check: bool = True
    client_token: str = ""
    real_addresses: tuple[str, ...] = ()

    def key(self) -> str:
        return self.interface_id

    def index(self) -> dict[str, str]:
        members = {f"group:{group_id}": MEMBER for group_id in self.group_ids}
        token = {"client-token": self.client_token} if self.client_token else {}
        return {"vpc-id": self.vpc_id, "subnet-id": self.subnet_id} | members | token

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every address that counts as this interface."""
        return (self.private_address, *self.real_addresses)
