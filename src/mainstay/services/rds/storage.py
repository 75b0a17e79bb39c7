"""AllocatedStorage, StorageType, Iops and StorageThroughput: what fits together.

Source: RDS user guide, "Amazon RDS DB instance storage".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mainstay.model.db_instance import DBInstance
from mainstay.model.errors import invalid_combination, invalid_value

SIZES_GIB = {"gp2": (20, 65536), "gp3": (20, 65536), "io1": (100, 65536), "io2": (100, 65536), "standard": (5, 3072)}
PROVISIONED = frozenset({"io1", "io2"})
UNSCALED = frozenset({"standard"})
"""Storage types that do not grow by themselves."""
IOPS_PER_GIB = (0.5, 50.0)
IOPS_MIN = 1000
GP3_TUNABLE_FROM_GIB = 400
GP3_BASE = (3000, 125)
GP3_LARGE = (12000, 500)
GROWTH_PERCENT_MIN = 10


class Storage(msgspec.Struct, frozen=True, kw_only=True):
    """A consistent choice. Sizes in GiB, throughput in MiB/s."""

    allocated_gib: int
    storage_type: str
    iops: int | None
    throughput: int | None


def storage(allocated_gib: int, storage_type: str | None, iops: int | None, throughput: int | None) -> Storage:
    """Completes and checks a choice; raises the `ApiError` that RDS gives."""
    kind = storage_type or ("io1" if iops else "gp3")
    if kind not in SIZES_GIB:
        raise invalid_value(f"Invalid storage type: {kind}")
    smallest, largest = SIZES_GIB[kind]
    if not smallest <= allocated_gib <= largest:
        raise invalid_value(
            f"Invalid storage size for storage type {kind}: {allocated_gib}."
            f" The size must be between {smallest} and {largest} GiB."
        )
    if throughput is not None and kind != "gp3":
        raise invalid_combination(f"You can't specify StorageThroughput for storage type {kind}.")
    if kind in PROVISIONED:
        return _provisioned(allocated_gib, kind, iops)
    if kind == "gp3":
        return _gp3(allocated_gib, iops, throughput)
    if iops is not None:
        raise invalid_combination(f"You can't specify IOPS for storage type {kind}.")
    return Storage(allocated_gib=allocated_gib, storage_type=kind, iops=None, throughput=None)


def modified_storage(instance: DBInstance, request: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the instance with the changes asked for: what is not named stays, as far as it fits."""
    present = instance.allocated_storage_gib
    size = request.get("AllocatedStorage", present)
    if size < present:
        raise invalid_combination("Invalid storage size for storage modification: storage cannot be reduced.")
    if present < size < present + present * GROWTH_PERCENT_MIN / 100:
        size = -(-present * (100 + GROWTH_PERCENT_MIN) // 100)
    kind = request.get("StorageType", instance.storage_type)
    same_kind = kind == instance.storage_type and size == present
    chosen = storage(
        size,
        kind,
        request.get("Iops", instance.iops if same_kind else None),
        request.get("StorageThroughput", instance.storage_throughput if same_kind else None),
    )
    return {
        "allocated_storage_gib": chosen.allocated_gib,
        "storage_type": chosen.storage_type,
        "iops": chosen.iops,
        "storage_throughput": chosen.throughput,
    }


def autoscaling_maximum(engine: str, maximum_gib: int, allocated_gib: int, storage_type: str) -> int:
    """A MaxAllocatedStorage that fits the storage. Raises the `ApiError` that RDS gives."""
    if storage_type in UNSCALED:
        raise invalid_combination(f"Storage autoscaling is not supported for storage type {storage_type}.")
    if maximum_gib <= allocated_gib:
        raise invalid_combination("Max storage size must be greater than storage size")
    if maximum_gib * 100 < allocated_gib * (100 + GROWTH_PERCENT_MIN):
        raise invalid_combination("The maximum allocated storage must be increased by at least 10 percent.")
    if maximum_gib > SIZES_GIB[storage_type][1]:
        raise invalid_combination(
            f"Invalid max storage size for engine name {engine} and storage type {storage_type}: {maximum_gib}"
        )
    return maximum_gib


def requested_maximum(request: Mapping[str, Any], engine: str, stored: Storage) -> int | None:
    """MaxAllocatedStorage of a new instance, None if its storage is not to grow by itself."""
    wanted = request.get("MaxAllocatedStorage")
    return None if wanted is None else autoscaling_maximum(engine, wanted, stored.allocated_gib, stored.storage_type)


def _provisioned(allocated_gib: int, kind: str, iops: int | None) -> Storage:
    if iops is None:
        raise invalid_combination(f"You must specify Iops for storage type {kind}.")
    least, most = (ratio * allocated_gib for ratio in IOPS_PER_GIB)
    if iops < IOPS_MIN or not least <= iops <= most:
        raise invalid_combination(
            f"The IOPS to GiB ratio must be between {IOPS_PER_GIB[0]} and {IOPS_PER_GIB[1]:.0f}; the least is"
            f" {IOPS_MIN} IOPS."
        )
    return Storage(allocated_gib=allocated_gib, storage_type=kind, iops=iops, throughput=None)


def _gp3(allocated_gib: int, iops: int | None, throughput: int | None) -> Storage:
    base = GP3_BASE if allocated_gib < GP3_TUNABLE_FROM_GIB else GP3_LARGE
    chosen = (base[0] if iops is None else iops, base[1] if throughput is None else throughput)
    if allocated_gib < GP3_TUNABLE_FROM_GIB and chosen != base:
        raise invalid_combination(
            f"You can't specify IOPS or storage throughput for a storage size less than {GP3_TUNABLE_FROM_GIB}."
        )
    if chosen[0] < base[0] or chosen[1] < base[1]:
        raise invalid_combination(f"gp3 storage of this size has at least {base[0]} IOPS and {base[1]} MiB/s.")
    return Storage(allocated_gib=allocated_gib, storage_type="gp3", iops=chosen[0], throughput=chosen[1])
