"""Order and upgrade targets of engine versions."""

from __future__ import annotations

from pathlib import Path

from mainstay.decide.engine_versions import newest, upgrade_targets, version_key
from mainstay.model.engine import EngineBuild


def build(version: str, major: str, engine: str = "postgres") -> EngineBuild:
    nowhere = Path("/nowhere")
    return EngineBuild(
        engine=engine,
        version=version,
        major=major,
        family=engine + major,
        prefix=nowhere,
        bin_directory=nowhere,
        library_directory=nowhere,
        share_directory=nowhere,
        origin="installed",
    )


ALL = [
    build("17.10", "17"),
    build("17.9", "17"),
    build("17.2", "17"),
    build("18.1", "18"),
    build("17.11", "17", "other"),
]


def test_versions_are_numbers() -> None:
    assert version_key("17.10") > version_key("17.9") > version_key("17")
    assert version_key("10.11.9") < version_key("11.4.1")
    assert newest(ALL[:3]) is ALL[0]
    assert newest([]) is None


def test_targets_are_newer_minors_and_the_newest_is_automatic() -> None:
    targets = upgrade_targets(build("17.2", "17"), ALL)
    assert [(one.version, one.auto_upgrade) for one in targets] == [("17.9", False), ("17.10", True)]
    assert upgrade_targets(build("17.10", "17"), ALL) == []
