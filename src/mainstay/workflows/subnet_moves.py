"""A DB instance goes to another DB subnet group, of its VPC or of another one.

The name and, on this host, the address of its endpoint stay; its network interface is a new one, in the new subnet and
in the new security groups. Source: RDS user guide, "Updating the VPC for a DB instance".
"""

from __future__ import annotations

import msgspec

from mainstay.host.clock import Clock
from mainstay.host.randomness import Randomness
from mainstay.model.db_instance import DBInstance, PendingModification
from mainstay.model.db_subnet_group import DBSubnetGroup, GroupedSubnet
from mainstay.model.ec2 import NetworkInterface, SecurityGroup
from mainstay.model.errors import ApiError
from mainstay.services.ec2.interfaces import create_service_interface, delete_service_interface
from mainstay.services.rds.events import record_instance_event
from mainstay.store import Reader, Transaction
from mainstay.workflows.node_specs import replicas_of


def obstacle_to_another_vpc(reader: Reader, instance: DBInstance) -> str:
    """Why the instance cannot leave its VPC now, "" if it can."""
    if instance.multi_az or instance.pending.multi_az:
        return "it is a Multi-AZ DB instance. Modify it to be Single-AZ first"
    if instance.source_dbi_resource_id:
        return "it is a read replica. Promote it first"
    if replicas_of(reader, instance):
        return "it has read replicas. Delete or promote them first"
    return ""


def moved(
    tx: Transaction, clock: Clock, randomness: Randomness, instance: DBInstance, pending: PendingModification
) -> DBInstance:
    """The instance in the subnet group that is pending, or as it is: then an event says what has come between."""
    if pending.db_subnet_group_name is None:
        return instance
    group = tx.get(DBSubnetGroup, instance.scope, pending.db_subnet_group_name)
    group_ids = pending.vpc_security_group_ids or instance.vpc_security_group_ids
    reason = _obstacle(tx, instance, group, group_ids)
    if group is not None and not reason:
        try:
            return _settled(tx, randomness, instance, group, group_ids)
        except ApiError as error:  # no free address, too many interfaces
            reason = error.message
    message = f"The DB instance was not moved to DB subnet group {pending.db_subnet_group_name}: {reason}."
    record_instance_event(tx, clock, instance, "RDS-EVENT-0044", reason=message)
    return instance


def _obstacle(reader: Reader, instance: DBInstance, group: DBSubnetGroup | None, group_ids: tuple[str, ...]) -> str:
    if group is None:
        return "there is no such group any more"
    found = [reader.get(SecurityGroup, instance.scope, group_id) for group_id in group_ids]
    if any(one is None or one.vpc_id != group.vpc_id for one in found):
        return f"not all of the security groups {', '.join(group_ids)} are in {group.vpc_id}"
    return obstacle_to_another_vpc(reader, instance) if group.vpc_id != instance.vpc_id else ""


def _settled(
    tx: Transaction, randomness: Randomness, instance: DBInstance, group: DBSubnetGroup, group_ids: tuple[str, ...]
) -> DBInstance:
    subnet = _nearest(group, instance.availability_zone, not_in="")
    if instance.standby_node_id:
        standby = _nearest(group, instance.secondary_availability_zone, not_in=subnet.availability_zone)
        instance = msgspec.structs.replace(
            instance, standby_subnet_id=standby.subnet_id, secondary_availability_zone=standby.availability_zone
        )
    return msgspec.structs.replace(
        instance,
        vpc_id=group.vpc_id,
        db_subnet_group_name=group.db_subnet_group_name,
        subnet_id=subnet.subnet_id,
        availability_zone=subnet.availability_zone,
        vpc_security_group_ids=group_ids,
        network_interface_id=_interface(tx, randomness, instance, subnet.subnet_id, group_ids),
    )


def _nearest(group: DBSubnetGroup, zone: str, *, not_in: str) -> GroupedSubnet:
    """The group's subnet in this zone, else its first in any but `not_in`: a group covers two zones at least."""
    candidates = [subnet for subnet in group.subnets if subnet.availability_zone != not_in]
    return next((subnet for subnet in candidates if subnet.availability_zone == zone), candidates[0])


def _interface(
    tx: Transaction, randomness: Randomness, instance: DBInstance, subnet_id: str, group_ids: tuple[str, ...]
) -> str:
    present = tx.get(NetworkInterface, instance.scope, instance.network_interface_id)
    if present is not None and present.subnet_id == subnet_id and present.group_ids == group_ids:
        return present.interface_id
    real_addresses = () if present is None else present.real_addresses
    made = create_service_interface(
        tx, instance.scope, subnet_id, group_ids, "RDSNetworkInterface",
        randomness=randomness, real_addresses=real_addresses,
    )  # fmt: skip
    delete_service_interface(tx, instance.scope, instance.network_interface_id)
    return made.interface_id
