"""What is kept of a build's answers, and when it is asked again."""

from __future__ import annotations

from pathlib import Path

import msgspec

from mainstay.engines.builds import Builds
from mainstay.engines.kept_catalogue import kept_rows
from mainstay.model.engine import EngineBuild
from mainstay.settings import Settings


class Row(msgspec.Struct, frozen=True):
    name: str


def test_other_questions_are_asked_and_what_was_kept_of_the_old_ones_stays(tmp_path: Path) -> None:
    """Services of two versions share the builds: each has its own answers, and neither asks twice."""
    builds = Builds(Settings(home=tmp_path / "home"))
    build = EngineBuild(
        engine="mariadb", version="10.11.19", major="10.11", family="mariadb10.11", prefix=tmp_path,
        bin_directory=tmp_path, library_directory=tmp_path, share_directory=tmp_path, origin="installed",
    )  # fmt: skip
    calls: list[str] = []

    def kept(*asked: str) -> list[Row]:
        def ask(_build: EngineBuild, _user: str) -> list[Row]:
            calls.append(",".join(asked))
            return [Row(name) for name in asked]

        return kept_rows(builds, build, list[Row], ask, asked=asked)

    for _ in range(2):
        assert kept("names") == [Row("names")]
        assert kept("names", "bounds") == [Row("names"), Row("bounds")]
    assert calls == ["names", "names,bounds"]
