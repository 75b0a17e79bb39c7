"""DB subnet groups: the subnets of one VPC in which instances may live."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from mainstay.model.records import Record

DEFAULT_SUBNET_GROUP = "default"
MEMBER = "member"


class GroupedSubnet(msgspec.Struct, frozen=True, order=True):
    """A subnet of the group. A subnet never changes its zone, so the zone is kept here."""

    subnet_id: str
    availability_zone: str


class DBSubnetGroup(Record, frozen=True, kw_only=True, omit_defaults=True):
    """A named set of subnets of one VPC that covers at least two Availability Zones. The name is lower case."""

    KIND: ClassVar[str] = "db-subnet-group"

    db_subnet_group_name: str
    description: str
    vpc_id: str
    subnets: tuple[GroupedSubnet, ...]
    tags: dict[str, str] = {}

    def key(self) -> str:
        return self.db_subnet_group_name

    def index(self) -> dict[str, str]:
        members = {f"subnet:{subnet.subnet_id}": MEMBER for subnet in self.subnets}
        return {"vpc-id": self.vpc_id} | members

    @property
    def arn(self) -> str:
        """`arn:aws:rds:<region>:<account>:subgrp:<name>`."""
        return self.scope.arn("rds", f"subgrp:{self.db_subnet_group_name}")
