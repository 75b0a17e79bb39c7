"""DescribeAccountAttributes and DescribeSourceRegions."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from mainstay.model.db_instance import DBInstance
from mainstay.model.db_parameter_group import DBParameterGroup
from mainstay.model.db_snapshot import MANUAL, DBSnapshot
from mainstay.model.db_subnet_group import DBSubnetGroup
from mainstay.model.errors import invalid_value
from mainstay.model.option_group import OptionGroup
from mainstay.model.records import Scope
from mainstay.services.operations import Call, Request, Result
from mainstay.services.rds import quotas
from mainstay.services.rds.filters import NO_FILTERS, select
from mainstay.services.rds.paging import page
from mainstay.services.rds.table import handles
from mainstay.store import Reader


def _none(_reader: Reader, _scope: Scope) -> int:
    """The use of what cannot be made here."""
    return 0


class Quota(msgspec.Struct, frozen=True):
    """One line of DescribeAccountAttributes."""

    name: str
    used: Callable[[Reader, Scope], int]
    most: int


QUOTAS = (
    Quota("DBInstances", lambda reader, scope: reader.count(DBInstance, scope), quotas.DB_INSTANCES),
    Quota("ReservedDBInstances", _none, quotas.RESERVED_DB_INSTANCES),
    Quota(
        "AllocatedStorage",
        lambda reader, scope: sum(one.allocated_storage_gib for one in reader.scan(DBInstance, scope)),
        quotas.ALLOCATED_STORAGE_GIB,
    ),
    Quota(
        "DBParameterGroups",
        lambda reader, scope: sum(not one.is_default for one in reader.scan(DBParameterGroup, scope)),
        quotas.DB_PARAMETER_GROUPS,
    ),
    Quota(
        "ManualSnapshots",
        lambda reader, scope: sum(one.snapshot_type == MANUAL for one in reader.scan(DBSnapshot, scope)),
        quotas.MANUAL_SNAPSHOTS,
    ),
    Quota("EventSubscriptions", _none, quotas.EVENT_SUBSCRIPTIONS),
    Quota("DBSubnetGroups", lambda reader, scope: reader.count(DBSubnetGroup, scope), quotas.DB_SUBNET_GROUPS),
    Quota(
        "OptionGroups",
        lambda reader, scope: sum(not one.is_default for one in reader.scan(OptionGroup, scope)),
        quotas.OPTION_GROUPS,
    ),
    Quota(
        "SubnetsPerDBSubnetGroup",
        lambda reader, scope: max((len(one.subnets) for one in reader.scan(DBSubnetGroup, scope)), default=0),
        quotas.SUBNETS_PER_DB_SUBNET_GROUP,
    ),
    Quota("ReadReplicasPerMaster", _none, quotas.READ_REPLICAS_PER_SOURCE),
)


@handles("DescribeAccountAttributes")
def describe_account_attributes(call: Call, _request: Request) -> Result:
    """Every quota with what is used of it."""
    return {
        "AccountQuotas": [
            {"AccountQuotaName": quota.name, "Used": quota.used(call.tx, call.scope), "Max": quota.most}
            for quota in QUOTAS
        ]
    }


@handles("DescribeSourceRegions")
def describe_source_regions(call: Call, request: Request) -> Result:
    """The other regions of this installation."""
    wanted = request.get("RegionName")
    if wanted and wanted not in call.settings.regions:
        raise invalid_value(f"Invalid region name: {wanted}")
    regions = [name for name in call.settings.regions if name != call.scope.region and wanted in (None, "", name)]
    shown, more = page(select(regions, request, NO_FILTERS), lambda name: name, request)
    return {
        "SourceRegions": [
            {
                "RegionName": name,
                "Endpoint": f"https://rds.{name}.amazonaws.com",
                "Status": "available",
                "SupportsDBInstanceAutomatedBackupsReplication": False,
            }
            for name in shown
        ]
    } | more
