"""What a build said of its parameters, kept on disk: asking it takes seconds, and the answer never changes."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import msgspec

from mainstay.engines.builds import Builds
from mainstay.host.files import write_atomically
from mainstay.model.engine import EngineBuild, ParameterDefinition

T = TypeVar("T", bound=msgspec.Struct)


def kept_rows(
    builds: Builds,
    build: EngineBuild,
    rows_type: type[list[T]],
    ask: Callable[[EngineBuild, str], list[T]],
    *,
    asked: Sequence[str] = (),
) -> list[T]:
    """The rows of the build; `ask` (with the engines' user) is called if none are kept, or what is kept is damaged.

    `asked` are the questions: what another Mainstay, which asked others, has kept in the same place stays its own.
    """
    questions = f"-{hashlib.sha256(chr(0).join(asked).encode()).hexdigest()[:8]}" if asked else ""
    path = builds.directory / "catalogue" / f"{build.name}-{build.origin}{questions}.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=rows_type)
    except (FileNotFoundError, msgspec.DecodeError):
        rows = ask(build, builds.engine_user_name)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        write_atomically(path, msgspec.json.encode(rows), mode=0o644)
        return rows


class KeptCatalogue(ABC):
    """Parameter definitions by build, read once a process."""

    def __init__(self, builds: Builds) -> None:
        self._builds = builds
        self._known: dict[tuple[str, str], dict[str, ParameterDefinition]] = {}

    def definitions(self, build: EngineBuild) -> dict[str, ParameterDefinition]:
        """Every parameter by name. The first call for a build may take seconds; later ones nothing."""
        key = (build.name, str(build.prefix))
        if key not in self._known:
            found = {definition.name: definition for definition in self._define(self._builds, build)}
            self._known[key] = dict(sorted(found.items()))
        return self._known[key]

    @abstractmethod
    def _define(self, builds: Builds, build: EngineBuild) -> Iterable[ParameterDefinition]:
        """The parameters of the build; a later one of the same name wins."""
