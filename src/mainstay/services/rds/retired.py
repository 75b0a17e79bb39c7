"""What the API has but this service never: reserved instances (nobody sells them) and EC2-Classic security groups."""

from __future__ import annotations

from mainstay.model.errors import ApiError
from mainstay.services.operations import Call, Request, Result
from mainstay.services.rds.filters import NO_FILTERS, select
from mainstay.services.rds.paging import page
from mainstay.services.rds.table import handles


@handles("DescribeReservedDBInstances")
def describe_reserved_db_instances(_call: Call, request: Request) -> Result:
    """None; naming one raises."""
    if named := request.get("ReservedDBInstanceId"):
        raise ApiError("ReservedDBInstanceNotFoundFault", f"ReservedDBInstance {named} not found.")
    return _nothing("ReservedDBInstances", request)


@handles("DescribeReservedDBInstancesOfferings")
def describe_reserved_db_instances_offerings(_call: Call, request: Request) -> Result:
    """None; naming one raises."""
    if named := request.get("ReservedDBInstancesOfferingId"):
        raise ApiError("ReservedDBInstancesOfferingNotFoundFault", f"ReservedDBInstancesOffering {named} not found.")
    return _nothing("ReservedDBInstancesOfferings", request)


@handles("DescribeDBSecurityGroups")
def describe_db_security_groups(_call: Call, request: Request) -> Result:
    """None, as in every account without EC2-Classic; naming one raises."""
    if named := request.get("DBSecurityGroupName"):
        raise ApiError("DBSecurityGroupNotFoundFault", f"DBSecurityGroup {named} not found.")
    return _nothing("DBSecurityGroups", request)


def _nothing(member: str, request: Request) -> Result:
    """An empty page; filters and paging are still checked."""
    nothing: list[str] = []
    shown, more = page(select(nothing, request, NO_FILTERS), str, request)
    return {member: shown} | more
