"""Why an engine did not come up, in its own words.

Users read them in an event, so they tell nothing of the host: of a path only the last part is left.
"""

from __future__ import annotations

import re
from pathlib import Path

from mainstay.agent.loss import newest_log, read_tail
from mainstay.engines.base import EngineDriver
from mainstay.engines.node_files import NodeFiles

SENTENCES_MAX = 3
CHARACTERS_MAX = 500
DIRECTORIES = re.compile(r"(?<![\w.])/(?:[^\s/'\"`,:;]+/)+")


class LastWords:
    """What the engine of one node writes from a start on: to its standard output, then to its own log."""

    def __init__(self, files: NodeFiles, driver: EngineDriver) -> None:
        self._files = files
        self._driver = driver
        self._begins: dict[Path, int] = {}

    def begin(self) -> None:
        """A process is about to be started: what was written before is not about it."""
        self._begins = {path: _size(path) for path in self._written()}

    def after(self, what: str) -> str:
        """What has become of the process, and what the engine said of it, if anything."""
        said = "; ".join(self._sentences())
        return f"{what}: {said[:CHARACTERS_MAX]}" if said else what

    def _sentences(self) -> list[str]:
        found: dict[str, None] = {}
        for path in self._written():
            try:
                text = read_tail(path, self._begins.get(path, 0))
            except OSError:  # on a volume that was locked meanwhile, or never there
                continue
            found |= dict.fromkeys(without_directories(said).rstrip(".") for said in self._driver.last_words(text))
        return list(found)[-SENTENCES_MAX:]

    def _written(self) -> list[Path]:
        newest = newest_log(self._files.logs / "error")
        return [self._files.output, *([] if newest is None else [newest])]


def without_directories(text: str) -> str:
    """The text with every absolute path cut down to the name of what it leads to."""
    return DIRECTORIES.sub("", text)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
