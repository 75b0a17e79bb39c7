"""How many of each thing an account may have in a region.

Where AWS's own default is a quota that it raises on request (5 VPCs), ours is what one would be granted, because
there is nobody here to ask.
"""

from __future__ import annotations

from mainstay.model.ec2 import Resource
from mainstay.model.errors import ApiError
from mainstay.model.records import Scope
from mainstay.store import Reader

VPCS = 100
SUBNETS_PER_VPC = 200
SECURITY_GROUPS = 2500
RULES_PER_GROUP = 60
GROUPS_PER_INTERFACE = 5
INTERNET_GATEWAYS = 100
ROUTE_TABLES_PER_VPC = 200
ROUTES_PER_TABLE = 500
NETWORK_INTERFACES = 5000
INSTANCES = 0
ELASTIC_ADDRESSES = 0


def require_room(reader: Reader, scope: Scope, kind: type[Resource], limit: int, code: str, plural: str) -> None:
    """Raises `code` when the scope holds as many resources of the kind as it may."""
    if reader.count(kind, scope) >= limit:
        raise ApiError(code, f"The maximum number of {plural} has been reached.")
