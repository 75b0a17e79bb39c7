"""Order among engine versions, and where an instance can go from one."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from mainstay.model.engine import EngineBuild

_NUMBER = re.compile(r"\d+")


class UpgradeTarget(msgspec.Struct, frozen=True, kw_only=True):
    """A version an instance can be upgraded to. `auto_upgrade`: the maintenance window may do so by itself."""

    engine: str
    version: str
    auto_upgrade: bool
    is_major_version_upgrade: bool


def version_key(version: str) -> tuple[int, ...]:
    """A key that orders versions of one engine: "17.10" comes after "17.9"."""
    return tuple(int(number) for number in _NUMBER.findall(version))


def newest(builds: Iterable[EngineBuild]) -> EngineBuild | None:
    """The build with the highest version, or None of none."""
    return max(builds, key=lambda build: version_key(build.version), default=None)


def upgrade_targets(build: EngineBuild, installed: Iterable[EngineBuild]) -> list[UpgradeTarget]:
    """The installed builds of a higher minor version in the same major, in ascending order.

    Only the newest of them is chosen automatically. Other major versions are no targets: an instance keeps its major.
    """
    newer = [
        other
        for other in installed
        if (other.engine, other.major) == (build.engine, build.major)
        and version_key(other.version) > version_key(build.version)
    ]
    newer.sort(key=lambda other: version_key(other.version))
    return [
        UpgradeTarget(
            engine=other.engine,
            version=other.version,
            auto_upgrade=other is newer[-1],
            is_major_version_upgrade=False,
        )
        for other in newer
    ]
