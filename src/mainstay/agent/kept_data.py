"""Data of a node that is set aside when other data takes its place, brought back, or discarded.

Each is one rename within the volume, so that whoever dies when, all of the data is there under one name or the other.
What is remembered comes before the rename where it says that nothing is in place, and what is in place is named before
it is put there: found again, a step goes on from either side of the rename.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from mainstay.agent.restoring import UNFINISHED
from mainstay.decide.node import Wanted
from mainstay.engines.node_files import NodeFiles
from mainstay.host.files import fsync_directory
from mainstay.host.threads import to_its_end
from mainstay.model.assignment import Assignment
from mainstay.model.errors import Permanent
from mainstay.model.node import NodeSpec

PREFIX = "data.kept-"

log = structlog.get_logger()


class KeptData:
    """What one node has beside its data. `remember(**changes)` keeps changes of what is in effect.

    When `fence()` returns, no process of the engine can run on the volume.
    """

    def __init__(self, files: NodeFiles, remember: Callable[..., None], fence: Callable[[], Awaitable[None]]) -> None:
        self._files = files
        self._remember = remember
        self._fence = fence

    @property
    def names(self) -> tuple[str, ...]:
        """What is there; nothing on a volume that is not open. What is no directory is not ours but the engine's."""
        try:
            with os.scandir(self._files.volume) as entries:
                found = [one.name for one in entries if one.is_dir(follow_symlinks=False)]
        except OSError:
            return ()
        return tuple(sorted(name.removeprefix(PREFIX) for name in found if name.startswith(PREFIX)))

    async def set_aside(self, spec: NodeSpec, _assignment: Assignment, _wanted: Wanted) -> None:
        """The data in place is kept under its name, and nothing is in its place."""
        if spec.exchange is not None:
            await self._fence()
            self._remember(had_data=False, accounts="")
            await to_its_end(self._rename, self._files.data, self._place(spec.exchange.aside))
            log.info("node.data_set_aside", node_id=spec.node_id, name=spec.exchange.aside)

    async def bring_back(self, spec: NodeSpec, _assignment: Assignment, _wanted: Wanted) -> None:
        """What was kept under the wanted name is in place."""
        if spec.exchange is not None:
            self.note_placed(spec)
            await to_its_end(self._remove_unfinished)
            await to_its_end(self._rename, self._place(spec.exchange.wanted), self._files.data)
            self._remember(had_data=True)
            log.info("node.data_brought_back", node_id=spec.node_id, name=spec.exchange.wanted)

    async def discard(self, spec: NodeSpec, _assignment: Assignment, wanted: Wanted) -> None:
        """What is not to stay is removed."""
        for name in set(self.names) - set(wanted.kept):
            await to_its_end(shutil.rmtree, self._place(name))
            log.info("node.kept_data_discarded", node_id=spec.node_id, name=name)

    def note_placed(self, spec: NodeSpec) -> None:
        """The wanted data is about to be put in place, where nothing is."""
        if spec.exchange is not None:
            self._remember(data_name=spec.exchange.wanted)

    def _remove_unfinished(self) -> None:
        """What a restore that came to nothing has left is not wanted any more."""
        for path in self._files.volume.glob(UNFINISHED + "*"):
            shutil.rmtree(path, ignore_errors=True)

    def _rename(self, source: Path, target: Path) -> None:
        if os.path.lexists(target):
            raise Permanent(f"{target} exists already: nothing is put in its place")
        source.rename(target)
        fsync_directory(self._files.volume)

    def _place(self, name: str) -> Path:
        return self._files.volume / f"{PREFIX}{name}"
