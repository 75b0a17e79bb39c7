"""The kernel's own limits on what a DB instance class grants, where this host lets us set them.

Version 2 (one tree, cgroups(7)) and version 1 (a tree per controller) are detected by trying; without either an engine
still gets its class's memory through its own settings, and `mainstay doctor` says that the kernel does not enforce it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import structlog

from mainstay.model.node import NodeLimits

ROOT = Path("/sys/fs/cgroup")
CPU_PERIOD_US = 100_000
log = structlog.get_logger()


class ControlGroups:
    """One group per node, below a parent of our own named `parent`."""

    def __init__(self, parent: str, root: Path = ROOT) -> None:
        self._parent = parent
        self._root = root
        self.version = self._detect()

    def prepare(self, node_id: str, limits: NodeLimits) -> tuple[str, ...]:
        """Makes the node's groups with the class's limits; the `cgroup.procs` files its process must write itself into.

        A limit that the kernel refuses is logged and left out: an engine without it is better than none.
        """
        quota_us = limits.vcpus * CPU_PERIOD_US
        settings: dict[int, dict[str, dict[str, str]]] = {
            2: {"": {"memory.max": str(limits.memory_bytes), "cpu.max": f"{quota_us} {CPU_PERIOD_US}"}},
            1: {
                "memory": {"memory.limit_in_bytes": str(limits.memory_bytes)},
                "cpu": {"cpu.cfs_period_us": str(CPU_PERIOD_US), "cpu.cfs_quota_us": str(quota_us)},
            },
        }
        procs = []
        for controller, values in settings.get(self.version, {}).items():
            group = self._root / controller / self._parent / node_id
            try:
                group.mkdir(parents=True, exist_ok=True)
                for name, value in values.items():
                    (group / name).write_text(value)
                procs.append(str(group / "cgroup.procs"))
            except OSError as error:
                log.warning("cgroups.not_limited", node_id=node_id, group=str(group), error=str(error))
        return tuple(procs)

    def remove(self, node_id: str) -> None:
        """Removes the node's groups, which must be empty; removing what is not there is no error."""
        for group in self._groups(node_id):
            with suppress(OSError):
                group.rmdir()

    def remove_parent(self) -> None:
        """Removes our own parent too, if no node has groups there."""
        for controller in ("", "memory", "cpu"):
            with suppress(OSError):
                (self._root / controller / self._parent).rmdir()

    def _groups(self, node_id: str) -> Iterator[Path]:
        for controller in ("", "memory", "cpu"):
            yield self._root / controller / self._parent / node_id

    def _detect(self) -> int:
        """2, 1 or 0 (neither can be used)."""
        if os.geteuid() != 0:
            return 0
        try:
            if {"memory", "cpu"} <= set((self._root / "cgroup.controllers").read_text().split()):
                parent = self._root / self._parent
                parent.mkdir(exist_ok=True)
                for tree in (self._root, parent):
                    (tree / "cgroup.subtree_control").write_text("+memory +cpu")
                return 2
        except OSError:
            pass
        try:
            for controller in ("memory", "cpu"):
                if not (self._root / controller / "tasks").exists():
                    return 0
                (self._root / controller / self._parent).mkdir(exist_ok=True)
        except OSError:
            return 0
        return 1
