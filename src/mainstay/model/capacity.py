"""What the hosts that run databases have."""

from __future__ import annotations

import msgspec


class HostCapacity(msgspec.Struct, frozen=True, kw_only=True):
    """The largest host: what one instance could have at most."""

    memory_bytes: int
    vcpus: int
