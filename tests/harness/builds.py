"""Builds of engines that are said to be installed."""

from __future__ import annotations

from pathlib import Path

from mainstay.model.engine import EngineBuild
from mainstay.model.errors import Permanent


def build(version: str) -> EngineBuild:
    nowhere = Path("/nowhere")
    major = version.split(".")[0]
    return EngineBuild(
        engine="postgres",
        version=version,
        major=major,
        family=f"postgres{major}",
        prefix=nowhere,
        bin_directory=nowhere,
        library_directory=nowhere,
        share_directory=nowhere,
        origin="installed",
    )


class InstalledBuilds:
    """Builds as the registry asks for them."""

    def __init__(self, *versions: str) -> None:
        self.present = [build(version) for version in versions]

    def installed(self) -> list[EngineBuild]:
        return list(self.present)

    def of(self, engine: str) -> list[EngineBuild]:
        return [one for one in self.present if one.engine == engine]

    def resolve(self, engine: str, version: str) -> EngineBuild:
        found = [one for one in self.of(engine) if version in (one.version, one.major)]
        if not found:
            raise Permanent(f"{engine} {version} is not installed")
        return max(found, key=lambda one: one.version)
