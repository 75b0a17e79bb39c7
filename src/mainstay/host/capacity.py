"""What this machine has to give to engines."""

from __future__ import annotations

import os

import psutil

from mainstay.model.capacity import HostCapacity


def host_capacity() -> HostCapacity:
    """Memory and processors of this machine."""
    return HostCapacity(memory_bytes=psutil.virtual_memory().total, vcpus=os.cpu_count() or 1)
