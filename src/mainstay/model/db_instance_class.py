"""DB instance classes: how many vCPUs and how much memory each gives (RDS user guide, "DB instance classes")."""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType

import msgspec

from mainstay.model.errors import ApiError

GIB = 1 << 30
MIB = 1 << 20

_BURSTABLE = {
    "micro": (2, 1),
    "small": (2, 2),
    "medium": (2, 4),
    "large": (2, 8),
    "xlarge": (4, 16),
    "2xlarge": (8, 32),
}
_SIZES = {"large": 2, "xlarge": 4, "2xlarge": 8, "4xlarge": 16, "8xlarge": 32, "12xlarge": 48, "16xlarge": 64}
_GENERAL_GIB_PER_VCPU = 4
_MEMORY_GIB_PER_VCPU = 8
# Family -> (GiB per vCPU, vCPUs of the sizes beyond 16xlarge).
_FAMILIES = {
    "m5": (_GENERAL_GIB_PER_VCPU, {"24xlarge": 96}),
    "m6g": (_GENERAL_GIB_PER_VCPU, {}),
    "m6i": (_GENERAL_GIB_PER_VCPU, {"24xlarge": 96, "32xlarge": 128}),
    "m7g": (_GENERAL_GIB_PER_VCPU, {}),
    "r5": (_MEMORY_GIB_PER_VCPU, {"24xlarge": 96}),
    "r6g": (_MEMORY_GIB_PER_VCPU, {}),
    "r6i": (_MEMORY_GIB_PER_VCPU, {"24xlarge": 96, "32xlarge": 128}),
    "r7g": (_MEMORY_GIB_PER_VCPU, {}),
}

RESERVED_SHARE = 32  # one part in 32 of the memory
RESERVED_LEAST_BYTES = 128 * MIB


class DBInstanceClass(msgspec.Struct, frozen=True, kw_only=True):
    """One class. `memory_bytes` is the nominal memory."""

    name: str
    vcpus: int
    memory_bytes: int

    @property
    def db_instance_class_memory_bytes(self) -> int:
        """`DBInstanceClassMemory` of parameter formulas: what the engine may count on.

        The nominal memory less what the operating system and the agents need: 1/32 of it, 128 MiB at least. As on
        AWS, limits computed from it are therefore lower than the nominal memory suggests.
        """
        return self.memory_bytes - max(RESERVED_LEAST_BYTES, self.memory_bytes // RESERVED_SHARE)


def _table() -> Iterator[DBInstanceClass]:
    for family in ("t3", "t4g"):
        for size, (vcpus, memory_gib) in _BURSTABLE.items():
            yield DBInstanceClass(name=f"db.{family}.{size}", vcpus=vcpus, memory_bytes=memory_gib * GIB)
    for family, (gib_per_vcpu, larger) in _FAMILIES.items():
        for size, vcpus in (_SIZES | larger).items():
            yield DBInstanceClass(name=f"db.{family}.{size}", vcpus=vcpus, memory_bytes=vcpus * gib_per_vcpu * GIB)


CLASSES = MappingProxyType({one.name: one for one in _table()})
"""Every class by name, families together and small sizes first."""


def db_instance_class(name: str) -> DBInstanceClass:
    """The class. Raises `ApiError` InvalidParameterValue for a name that is none."""
    found = CLASSES.get(name)
    if found is None:
        raise ApiError("InvalidParameterValue", f"Invalid DB Instance class: {name}")
    return found
