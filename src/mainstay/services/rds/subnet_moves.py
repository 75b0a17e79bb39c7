"""ModifyDBInstance with DBSubnetGroupName: what is refused, and what becomes pending.

Source: RDS API reference, ModifyDBInstance; RDS user guide, "Updating the VPC for a DB instance".
"""

from __future__ import annotations

from typing import Any

import msgspec

from mainstay.model.db_instance import DBInstance
from mainstay.model.errors import ApiError
from mainstay.services.operations import Call, Request
from mainstay.services.rds.placement import public_access, security_groups
from mainstay.services.rds.subnet_groups import require_subnet_group
from mainstay.workflows.subnet_moves import obstacle_to_another_vpc


def requested_move(call: Call, instance: DBInstance, request: Request) -> dict[str, Any]:
    """The fields of `PendingModification` that the request's DBSubnetGroupName comes to; none without it.

    Into another VPC the request must name security groups of that VPC, for those the instance has cannot go with it.
    """
    if "DBSubnetGroupName" not in request:
        return {}
    group = require_subnet_group(call.tx, call.scope, request["DBSubnetGroupName"])
    if group.vpc_id == instance.vpc_id:
        return {"db_subnet_group_name": group.db_subnet_group_name, "vpc_security_group_ids": None}
    pending = msgspec.structs.replace(instance.pending, multi_az=request.get("MultiAZ", instance.pending.multi_az))
    obstacle = obstacle_to_another_vpc(call.tx, msgspec.structs.replace(instance, pending=pending))
    if obstacle:
        raise ApiError(
            "InvalidVPCNetworkStateFault",
            f"DB instance {instance.db_instance_identifier} cannot move to {group.vpc_id}: {obstacle}.",
        )
    wanted = request.get("VpcSecurityGroupIds") or instance.vpc_security_group_ids
    if request.get("PubliclyAccessible", instance.publicly_accessible):
        public_access(call, group, True)
    return {
        "db_subnet_group_name": group.db_subnet_group_name,
        "vpc_security_group_ids": security_groups(call, group.vpc_id, wanted),
    }
