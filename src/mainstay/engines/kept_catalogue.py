"""What a build said of its parameters, kept on disk: asking it takes seconds, and the answer never changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from mainstay.engines.builds import Builds
from mainstay.host.files import write_atomically
from mainstay.model.engine import EngineBuild

T = TypeVar("T", bound=msgspec.Struct)


def kept_rows(
    builds: Builds, build: EngineBuild, rows_type: type[list[T]], ask: Callable[[EngineBuild, str], list[T]]
) -> list[T]:
    """The rows of the build; `ask` (with the engines' user) is called if none are kept, or what is kept is damaged."""
    path = builds.directory / "catalogue" / f"{build.name}-{build.origin}.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=rows_type)
    except (FileNotFoundError, msgspec.DecodeError):
        rows = ask(build, builds.engine_user_name)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        write_atomically(path, msgspec.json.encode(rows), mode=0o644)
        return rows
