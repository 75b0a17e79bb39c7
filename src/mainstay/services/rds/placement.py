"""Where a new or changed instance goes: network, zone, and whether the host can hold its class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from mainstay.model.capacity import HostCapacity
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_instance_class import CLASSES, DBInstanceClass
from mainstay.model.db_subnet_group import DBSubnetGroup
from mainstay.model.ec2 import InternetGateway, SecurityGroup
from mainstay.model.errors import ApiError, invalid_combination, invalid_value
from mainstay.services.ec2.assembly import default_group
from mainstay.services.ec2.changes import notify
from mainstay.services.ec2.interfaces import create_service_interface
from mainstay.services.operations import Call
from mainstay.services.rds.subnet_groups import default_subnet_group, require_subnet_group

GIB = 1 << 30
GROUPS_MAX = 5


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """The network side of an instance."""

    subnet_group: DBSubnetGroup
    availability_zone: str
    subnet_id: str
    secondary_availability_zone: str = ""
    standby_subnet_id: str = ""
    group_ids: tuple[str, ...]
    publicly_accessible: bool


def place(call: Call, request: Mapping[str, Any]) -> Place:
    """Chooses what the request leaves open. Raises the `ApiError` that RDS gives for what does not fit."""
    name = request.get("DBSubnetGroupName")
    group = default_subnet_group(call) if name is None else require_subnet_group(call.tx, call.scope, name)
    multi_az = bool(request.get("MultiAZ"))
    if multi_az and request.get("AvailabilityZone"):
        raise invalid_combination("Requesting a specific availability zone is not valid for Multi-AZ instances.")
    zone, subnet_id = _zone(call, group, request.get("AvailabilityZone"))
    secondary, standby_subnet_id = standby_zone(call, group, zone) if multi_az else ("", "")
    return Place(
        secondary_availability_zone=secondary,
        standby_subnet_id=standby_subnet_id,
        subnet_group=group,
        availability_zone=zone,
        subnet_id=subnet_id,
        group_ids=security_groups(call, group.vpc_id, request.get("VpcSecurityGroupIds") or ()),
        publicly_accessible=public_access(call, group, request.get("PubliclyAccessible")),
    )


def _zone(call: Call, group: DBSubnetGroup, wanted: str | None) -> tuple[str, str]:
    zones = call.settings.availability_zones[call.scope.region]
    if wanted is not None and wanted not in zones:
        raise invalid_value(f"{wanted} is not a valid availability zone.")
    candidates = [subnet for subnet in group.subnets if wanted in (None, subnet.availability_zone)]
    if not candidates:
        raise invalid_combination(
            f"DB Subnet Group {group.db_subnet_group_name} has no subnet in availability zone {wanted}."
        )
    chosen = candidates[call.randomness.below(len(candidates))]
    return chosen.availability_zone, chosen.subnet_id


def standby_zone(call: Call, group: DBSubnetGroup, primary: str) -> tuple[str, str]:
    """Zone and subnet of a standby: any of the group's but the primary's zone."""
    candidates = [subnet for subnet in group.subnets if subnet.availability_zone != primary]
    if not candidates:
        raise ApiError(
            "DBSubnetGroupDoesNotCoverEnoughAZs",
            f"DB Subnet Group {group.db_subnet_group_name} doesn't meet availability zone coverage requirement. Please"
            " add subnets to cover at least 2 availability zones.",
        )
    chosen = candidates[call.randomness.below(len(candidates))]
    return chosen.availability_zone, chosen.subnet_id


def security_groups(
    call: Call, vpc_id: str, wanted: Sequence[str] | None, *, of: str = "DB instance"
) -> tuple[str, ...]:
    """The groups asked for, or the VPC's default one; each must exist in the VPC. `of` names what they are for."""
    if not wanted:
        return (default_group(call.tx, call.scope, vpc_id).group_id,)
    if len(set(wanted)) > GROUPS_MAX:
        raise invalid_value(f"A {of} takes at most {GROUPS_MAX} VPC security groups.")
    for group_id in wanted:
        group = call.tx.get(SecurityGroup, call.scope, group_id)
        if group is None:
            raise invalid_value(f"Invalid security group , groupId= {group_id}, groupName=.")
        if group.vpc_id != vpc_id:
            raise invalid_combination(
                f"The {of} and EC2 security group are in different VPCs. The {of} is in {vpc_id} and the EC2 security"
                f" group is in {group.vpc_id}"
            )
    return tuple(dict.fromkeys(wanted))


def public_access(call: Call, group: DBSubnetGroup, wanted: bool | None) -> bool:
    """PubliclyAccessible: as asked, else true in a default group whose VPC has an internet gateway."""
    gateway = bool(call.tx.find(InternetGateway, call.scope, "vpc-id", group.vpc_id))
    if wanted and not gateway:
        raise ApiError(
            "InvalidVPCNetworkStateFault",
            "Cannot create a publicly accessible DBInstance. The specified VPC has no internet gateway attached."
            " Update the VPC and then try again",
        )
    return (gateway and group.db_subnet_group_name == "default") if wanted is None else wanted


def require_capacity(
    call: Call, name: str, replaced: DBInstance | None = None, *, multi_az: bool = False
) -> DBInstanceClass:
    """The class, if this host can hold one more instance of it (`replaced` leaves its own class).

    A Multi-AZ instance takes the memory of two.
    """
    chosen = CLASSES.get(name)
    if chosen is None:
        raise invalid_value(f"Invalid DB Instance class: {name}")
    host = call.use(HostCapacity)
    if chosen.memory_bytes > host.memory_bytes:
        raise ApiError(
            "InsufficientDBInstanceCapacityFault",
            f"{name} needs {chosen.memory_bytes // GIB} GiB of memory; this host has {host.memory_bytes // GIB} GiB."
            " Choose a smaller class.",
        )
    used = sum(
        CLASSES[instance.db_instance_class].memory_bytes * len(instance.node_ids)
        for instance in call.tx.scan(DBInstance)
        if replaced is None or instance.dbi_resource_id != replaced.dbi_resource_id
    )
    limit = host.memory_bytes * call.settings.memory_overcommit
    needed = chosen.memory_bytes * (2 if multi_az else 1)
    if used + needed > limit:
        raise ApiError(
            "InsufficientDBInstanceCapacityFault",
            f"The instances here hold {used / GIB:.0f} GiB of the {limit / GIB:.0f} GiB that may be given out;"
            f" {name} needs {needed / GIB:.0f} GiB more. Delete an instance, choose a smaller class or raise"
            " the setting memory_overcommit.",
        )
    return chosen


def with_network_interface(call: Call, instance: DBInstance) -> DBInstance:
    """The new instance with an interface in its subnet, which is recorded."""
    interface = create_service_interface(
        call.tx, call.scope, instance.subnet_id, instance.vpc_security_group_ids, "RDSNetworkInterface",
        randomness=call.randomness,
    )  # fmt: skip
    notify(call)
    return msgspec.structs.replace(instance, network_interface_id=interface.interface_id)
