"""Storage types and their limits (RDS user guide, "Amazon RDS DB instance storage")."""

from __future__ import annotations

from types import MappingProxyType

import msgspec

LARGEST_GIB = 65536


class StorageType(msgspec.Struct, frozen=True, kw_only=True):
    """One storage type. A zero limit means that the quantity cannot be chosen for it.

    gp3 volumes below `tunable_from_gib` have the baseline only: neither IOPS nor throughput can be given.
    """

    name: str
    least_gib: int
    most_gib: int = LARGEST_GIB
    tunable_from_gib: int = 0
    baseline_iops: int = 0
    baseline_throughput_mib_s: int = 0
    least_iops: int = 0
    most_iops: int = 0
    least_iops_per_gib: float = 0.0
    most_iops_per_gib: float = 0.0
    least_throughput_mib_s: int = 0
    most_throughput_mib_s: int = 0
    most_throughput_mib_s_per_iops: float = 0.0

    @property
    def supports_iops(self) -> bool:
        """Whether the user may choose the IOPS."""
        return self.most_iops > 0

    @property
    def supports_throughput(self) -> bool:
        """Whether the user may choose the throughput."""
        return self.most_throughput_mib_s > 0


STORAGE_TYPES = MappingProxyType(
    {
        one.name: one
        for one in (
            StorageType(name="gp2", least_gib=20),
            StorageType(
                name="gp3",
                least_gib=20,
                tunable_from_gib=400,
                baseline_iops=3000,
                baseline_throughput_mib_s=125,
                least_iops=12000,
                most_iops=64000,
                least_iops_per_gib=0.5,
                most_iops_per_gib=500.0,
                least_throughput_mib_s=500,
                most_throughput_mib_s=4000,
                most_throughput_mib_s_per_iops=0.25,
            ),
            StorageType(
                name="io1",
                least_gib=100,
                least_iops=1000,
                most_iops=256000,
                least_iops_per_gib=0.5,
                most_iops_per_gib=50.0,
            ),
            StorageType(
                name="io2",
                least_gib=100,
                least_iops=1000,
                most_iops=256000,
                least_iops_per_gib=0.5,
                most_iops_per_gib=1000.0,
            ),
            StorageType(name="standard", least_gib=5, most_gib=3072),
        )
    }
)
"""Every storage type by its API name."""
