"""Puts networks together: what comes with every VPC, and the default VPC of a region."""

from __future__ import annotations

import msgspec

from mainstay.decide.networks import default_subnet_cidr
from mainstay.host.clock import Clock
from mainstay.host.randomness import Randomness
from mainstay.model.ec2 import (
    ALL_PROTOCOLS,
    InternetGateway,
    NetworkAcl,
    Permission,
    RegionNetwork,
    Route,
    RouteTable,
    RouteTableAssociation,
    SecurityGroup,
    SecurityGroupRule,
    Subnet,
    Vpc,
)
from mainstay.model.records import Scope
from mainstay.services.ec2.changes import record_change
from mainstay.services.ec2.resources import new_id
from mainstay.settings import Settings
from mainstay.store import Reader, Transaction

DEFAULT_VPC_CIDR = "172.31.0.0/16"
DEFAULT_GROUP = "default"
LOCAL = "local"
ANY_IPV4 = "0.0.0.0/0"
THIS_MACHINE = (
    Permission(protocol=ALL_PROTOCOLS, cidr_ipv4="127.0.0.0/8", description="this machine"),
    Permission(protocol=ALL_PROTOCOLS, cidr_ipv6="::1/128", description="this machine"),
)


def ensure_default_vpc(
    tx: Transaction, scope: Scope, settings: Settings, randomness: Randomness, clock: Clock
) -> Vpc | None:
    """Makes the region's default VPC the first time it is called; later calls change nothing.

    Returns the default VPC, or None when the user has deleted it since. `clock` is unused: networks carry no times.
    """
    del clock
    region = region_network(tx, scope, randomness)
    if region.default_vpc_made:
        return default_vpc(tx, scope)
    return build_default_vpc(tx, scope, settings, randomness)


def default_vpc(reader: Reader, scope: Scope) -> Vpc | None:
    """The region's default VPC, if it has one."""
    found = reader.find(Vpc, scope, "is-default", "true")
    return found[0] if found else None


def region_network(tx: Transaction, scope: Scope, randomness: Randomness) -> RegionNetwork:
    """What the region has once, made at first use."""
    region = tx.get(RegionNetwork, scope, "region")
    if region is None:
        region = RegionNetwork(scope=scope, dhcp_options_id=new_id("dopt", randomness))
        tx.insert(region)
    return region


def build_default_vpc(tx: Transaction, scope: Scope, settings: Settings, randomness: Randomness) -> Vpc:
    """A default VPC with a public subnet in each zone. The caller has checked that there is none.

    Its default security group also admits this machine, so that a database with all defaults can be reached from the
    host it runs on; those are ordinary rules that the user can revoke.
    """
    vpc = build_vpc(tx, scope, randomness, DEFAULT_VPC_CIDR, is_default=True)
    for number, zone in enumerate(settings.availability_zones.get(scope.region, ())):
        build_subnet(
            tx,
            vpc,
            randomness,
            default_subnet_cidr(vpc.cidr_block, number),
            zone,
            default_for_az=True,
        )
    gateway = InternetGateway(scope=scope, gateway_id=new_id("igw", randomness), vpc_id=vpc.vpc_id)
    tx.insert(gateway)
    table = main_route_table(tx, scope, vpc.vpc_id)
    internet = Route(destination=ANY_IPV4, gateway_id=gateway.gateway_id)
    tx.put(msgspec.structs.replace(table, routes=(*table.routes, internet)))
    group = default_group(tx, scope, vpc.vpc_id)
    for permission in THIS_MACHINE:
        add_rule(tx, group, permission, randomness, is_egress=False)
    tx.put(msgspec.structs.replace(region_network(tx, scope, randomness), default_vpc_made=True))
    record_change(tx, scope)
    return vpc


def build_vpc(
    tx: Transaction,
    scope: Scope,
    randomness: Randomness,
    cidr: str,
    *,
    is_default: bool = False,
    instance_tenancy: str = "default",
    tags: dict[str, str] | None = None,
) -> Vpc:
    """A VPC with what every VPC is born with: main route table, default network ACL, default security group."""
    vpc = Vpc(
        scope=scope,
        vpc_id=new_id("vpc", randomness),
        cidr_block=cidr,
        cidr_association_id=new_id("vpc-cidr-assoc", randomness),
        dhcp_options_id=region_network(tx, scope, randomness).dhcp_options_id,
        is_default=is_default,
        instance_tenancy=instance_tenancy,
        enable_dns_hostnames=is_default,
        tags=tags or {},
    )
    tx.insert(vpc)
    main = RouteTableAssociation(association_id=new_id("rtbassoc", randomness))
    tx.insert(
        RouteTable(
            scope=scope,
            route_table_id=new_id("rtb", randomness),
            vpc_id=vpc.vpc_id,
            routes=(local_route(vpc),),
            associations=(main,),
        )
    )
    tx.insert(NetworkAcl(scope=scope, acl_id=new_id("acl", randomness), vpc_id=vpc.vpc_id))
    group = SecurityGroup(
        scope=scope,
        group_id=new_id("sg", randomness),
        name=DEFAULT_GROUP,
        description="default VPC security group",
        vpc_id=vpc.vpc_id,
    )
    tx.insert(group)
    itself = Permission(protocol=ALL_PROTOCOLS, group_id=group.group_id)
    add_rule(tx, group, itself, randomness, is_egress=False)
    add_rule(tx, group, allow_all(), randomness, is_egress=True)
    return vpc


def build_subnet(
    tx: Transaction,
    vpc: Vpc,
    randomness: Randomness,
    cidr: str,
    zone: str,
    *,
    default_for_az: bool = False,
    tags: dict[str, str] | None = None,
) -> Subnet:
    """A subnet; the caller has checked its block. Subnets of the default VPC's own making are public."""
    subnet = Subnet(
        scope=vpc.scope,
        subnet_id=new_id("subnet", randomness),
        vpc_id=vpc.vpc_id,
        cidr_block=cidr,
        availability_zone=zone,
        acl_association_id=new_id("aclassoc", randomness),
        default_for_az=default_for_az,
        map_public_ip_on_launch=default_for_az,
        tags=tags or {},
    )
    tx.insert(subnet)
    return subnet


def add_rule(
    tx: Transaction,
    group: SecurityGroup,
    permission: Permission,
    randomness: Randomness,
    *,
    is_egress: bool,
    tags: dict[str, str] | None = None,
) -> SecurityGroupRule:
    """Stores one more rule of the group."""
    rule = SecurityGroupRule(
        scope=group.scope,
        rule_id=new_id("sgr", randomness),
        group_id=group.group_id,
        is_egress=is_egress,
        permission=permission,
        tags=tags or {},
    )
    tx.insert(rule)
    return rule


def allow_all() -> Permission:
    """The egress rule that every group is born with."""
    return Permission(protocol=ALL_PROTOCOLS, cidr_ipv4=ANY_IPV4)


def local_route(vpc: Vpc) -> Route:
    """The route inside the VPC that every table is born with and nobody can remove."""
    return Route(destination=vpc.cidr_block, gateway_id=LOCAL, origin="CreateRouteTable")


def main_route_table(reader: Reader, scope: Scope, vpc_id: str) -> RouteTable:
    """The VPC's main route table; every VPC has exactly one."""
    return next(table for table in reader.find(RouteTable, scope, "vpc-id", vpc_id) if table.main)


def default_group(reader: Reader, scope: Scope, vpc_id: str) -> SecurityGroup:
    """The VPC's default security group; every VPC has exactly one."""
    groups = reader.find(SecurityGroup, scope, "vpc-id", vpc_id)
    return next(group for group in groups if group.name == DEFAULT_GROUP)
