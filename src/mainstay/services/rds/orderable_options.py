"""DescribeOrderableDBInstanceOptions: every version × class × storage type that an instance can have here."""

from __future__ import annotations

from typing import Any

import msgspec

from mainstay.engines.base import EngineRules, Feature
from mainstay.engines.registry import Engines
from mainstay.model.capacity import HostCapacity
from mainstay.model.db_instance_class import CLASSES, DBInstanceClass
from mainstay.model.engine import EngineBuild
from mainstay.services.operations import Call, Request, Result
from mainstay.services.rds.engine_versions import builds_of, sort_key
from mainstay.services.rds.filters import NO_FILTERS, select
from mainstay.services.rds.paging import page
from mainstay.services.rds.storage import GP3_LARGE, IOPS_MIN, IOPS_PER_GIB, PROVISIONED, SIZES_GIB, UNSCALED
from mainstay.services.rds.table import handles
from mainstay.services.rds.volume_choice import can_encrypt

MOST_RECORDS = 1000

# What no instance of this version has, whatever its class; `unbuilt` refuses to create one with it.
_ABSENT = {
    "SupportsEnhancedMonitoring": False,
    "SupportsPerformanceInsights": False,
    "SupportsKerberosAuthentication": False,
    "OutpostCapable": False,
    "SupportsGlobalDatabases": False,
    "SupportsClusters": False,
    "SupportsDedicatedLogVolume": False,
}


class Orderable(msgspec.Struct, frozen=True, kw_only=True):
    """One combination."""

    build: EngineBuild
    db_class: DBInstanceClass
    storage_type: str

    def key(self) -> str:
        """Unique, and ordered by version, class and storage type."""
        return f"{sort_key(self.build)}/{self.db_class.name}/{self.storage_type}"


@handles("DescribeOrderableDBInstanceOptions")
def describe_orderable_db_instance_options(call: Call, request: Request) -> Result:
    """The combinations that pass all conditions. Only classes whose memory a host has are listed."""
    rules = call.use(Engines).rules(request["Engine"])
    host = call.use(HostCapacity)
    wanted_class, license_model = request.get("DBInstanceClass"), request.get("LicenseModel")
    zone_group = request.get("AvailabilityZoneGroup")
    excluded = (
        license_model not in (None, "", rules.license_model)
        or zone_group not in (None, "", call.scope.region)
        or request.get("Vpc") is False
    )
    options = [
        Orderable(build=build, db_class=db_class, storage_type=storage_type)
        for build in (() if excluded else builds_of(call, rules.name, request.get("EngineVersion")))
        for db_class in CLASSES.values()
        if db_class.memory_bytes <= host.memory_bytes and wanted_class in (None, "", db_class.name)
        for storage_type in SIZES_GIB
    ]
    shown, more = page(select(options, request, NO_FILTERS), Orderable.key, request, most=MOST_RECORDS)
    return {"OrderableDBInstanceOptions": [_show(call, rules, option) for option in shown]} | more


def _show(call: Call, rules: EngineRules, option: Orderable) -> dict[str, Any]:
    smallest_gib, largest_gib = SIZES_GIB[option.storage_type]
    return (
        {
            "Engine": option.build.engine,
            "EngineVersion": option.build.version,
            "DBInstanceClass": option.db_class.name,
            "LicenseModel": rules.license_model,
            "AvailabilityZoneGroup": call.scope.region,
            "AvailabilityZones": [
                {"Name": zone} for zone in call.settings.availability_zones.get(call.scope.region, ())
            ],
            "Vpc": True,
            "MultiAZCapable": Feature.MULTI_AZ in rules.features,
            "ReadReplicaCapable": Feature.READ_REPLICAS in rules.features,
            "SupportsIAMDatabaseAuthentication": Feature.IAM_LOGIN in rules.features - rules.lacks(option.build),
            "StorageType": option.storage_type,
            "MinStorageSize": smallest_gib,
            "MaxStorageSize": largest_gib,
            "AvailableProcessorFeatures": [],
            "SupportedEngineModes": ["provisioned"],
            "SupportedNetworkTypes": ["IPV4"],
        }
        | _ABSENT
        | {"SupportsStorageEncryption": can_encrypt(call)}
        | {"SupportsStorageAutoscaling": option.storage_type not in UNSCALED}
        | _performance(option.storage_type)
    )


def _performance(storage_type: str) -> dict[str, Any]:
    """What IOPS and throughput can be asked for."""
    if storage_type in PROVISIONED:
        return {
            "SupportsIops": True,
            "SupportsStorageThroughput": False,
            "MinIopsPerDbInstance": IOPS_MIN,
            "MinIopsPerGib": IOPS_PER_GIB[0],
            "MaxIopsPerGib": IOPS_PER_GIB[1],
        }
    if storage_type == "gp3":
        least_iops, least_throughput = GP3_LARGE
        return {
            "SupportsIops": True,
            "SupportsStorageThroughput": True,
            "MinIopsPerDbInstance": least_iops,
            "MinStorageThroughputPerDbInstance": least_throughput,
        }
    return {"SupportsIops": False, "SupportsStorageThroughput": False}
