"""DescribeValidDBInstanceModifications: which storage an instance may be changed to."""

from __future__ import annotations

from typing import Any

from mainstay.model.db_instance import DBInstance
from mainstay.services.operations import Call, Request, Result
from mainstay.services.rds.db_instances import find_instance
from mainstay.services.rds.demands import on
from mainstay.services.rds.storage import (
    GP3_BASE,
    GP3_LARGE,
    GP3_TUNABLE_FROM_GIB,
    IOPS_MIN,
    IOPS_PER_GIB,
    PROVISIONED,
    SIZES_GIB,
    UNSCALED,
)
from mainstay.services.rds.table import handles


@handles("DescribeValidDBInstanceModifications", on("db", "DBInstanceIdentifier"))
def describe_valid_db_instance_modifications(call: Call, request: Request) -> Result:
    """Every storage type, from the present size upwards: storage cannot shrink."""
    instance = find_instance(call, request["DBInstanceIdentifier"])
    options = [_option(instance, kind) for kind in SIZES_GIB if SIZES_GIB[kind][1] >= instance.allocated_storage_gib]
    return {
        "ValidDBInstanceModificationsMessage": {
            "Storage": options,
            "ValidProcessorFeatures": [],
            "SupportsDedicatedLogVolume": False,
        }
    }


def _option(instance: DBInstance, kind: str) -> dict[str, Any]:
    least, most = SIZES_GIB[kind]
    least = max(least, instance.allocated_storage_gib)
    option: dict[str, Any] = {
        "StorageType": kind,
        "StorageSize": [_range(least, most)],
        "SupportsStorageAutoscaling": kind not in UNSCALED,
    }
    if kind in PROVISIONED:
        option["ProvisionedIops"] = [_range(max(IOPS_MIN, int(IOPS_PER_GIB[0] * least)), int(IOPS_PER_GIB[1] * most))]
        option["IopsToStorageRatio"] = [{"From": IOPS_PER_GIB[0], "To": IOPS_PER_GIB[1]}]
    elif kind == "gp3":
        iops, throughput = GP3_BASE if least < GP3_TUNABLE_FROM_GIB else GP3_LARGE
        option["ProvisionedIops"] = [_range(iops, iops)]
        option["ProvisionedStorageThroughput"] = [_range(throughput, throughput)]
    return option


def _range(least: int, most: int) -> dict[str, int]:
    return {"From": least, "To": most, "Step": 1}
