"""EC2: the networks that databases live in. `operations` is the table of everything built."""

from mainstay.services.ec2 import (
    absent,
    internet_gateways,
    network_acls,
    network_interfaces,
    regions,
    route_tables,
    routes,
    rules,
    security_groups,
    subnets,
    tags,
    vpcs,
)
from mainstay.services.ec2.assembly import ensure_default_vpc
from mainstay.services.ec2.table import operations

__all__ = [
    "absent",
    "ensure_default_vpc",
    "internet_gateways",
    "network_acls",
    "network_interfaces",
    "operations",
    "regions",
    "route_tables",
    "routes",
    "rules",
    "security_groups",
    "subnets",
    "tags",
    "vpcs",
]
