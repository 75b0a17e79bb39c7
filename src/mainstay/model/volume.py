"""A node's volume: what is wanted of it, what is seen of it, and what a host can do.

A volume is made by a driver (`mainstay.host.volumes`): "directory", "image" or "gocryptfs". The data key of an
encrypted one is a secret that no agent writes to its disk.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

DATA_KEY_BYTES = 32


class VolumeSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a node's volume is. `driver` and `encrypted` never change, `size_bytes` only grows; 0: not limited.

    `data_key` (64 hexadecimal digits; a secret, never logged) is "" where it is not known: an encrypted volume that is
    not open then waits for it.
    """

    driver: str
    size_bytes: int = 0
    encrypted: bool = False
    data_key: str = ""

    def __repr__(self) -> str:
        key = "****" if self.data_key else ""
        return (
            f"VolumeSpec(driver={self.driver!r}, size_bytes={self.size_bytes}, encrypted={self.encrypted},"
            f" data_key={key!r})"
        )


class VolumePhase(StrEnum):
    """What a volume is seen to be.

    MISSING: not made, or not completely. CLOSED: made, not mounted. LOCKED: mounted, its key is not in the kernel.
    OPEN: the engine can read and write it.
    """

    MISSING = "missing"
    CLOSED = "closed"
    LOCKED = "locked"
    OPEN = "open"


class VolumeUsage(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a volume. Sizes are 0 where they are not limited or not known.

    `size_bytes` is what was allocated, `free_bytes` what the engine can still take of an open volume. `growing`: an
    enlargement was begun and not ended.
    """

    phase: VolumePhase
    size_bytes: int = 0
    used_bytes: int = 0
    free_bytes: int = 0
    growing: bool = False

    @property
    def full(self) -> bool:
        """Whether an engine must be expected to fail for want of space: a log segment does not fit any more."""
        if self.phase is not VolumePhase.OPEN or not self.size_bytes:
            return False
        return self.free_bytes < min(FULL_BELOW_BYTES, self.size_bytes // FULL_BELOW_PART)


FULL_BELOW_BYTES = 20 << 20
"""A log segment of 16 MiB and a little; of small volumes one part in FULL_BELOW_PART."""

FULL_BELOW_PART = 20


class VolumeDriverReport(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a kind of volume can be used on a host, found out by trying. `reason` says why not, or what is limited.

    `driver` and `encrypted` are those of `VolumeSpec`; `sized`: its size is a real limit. `clones`: a DB snapshot of it
    can be a clone, which is there at once; `clones_reason` says why not.
    """

    driver: str
    encrypted: bool
    sized: bool
    usable: bool
    reason: str = ""
    clones: bool = False
    clones_reason: str = ""
