"""Whether the log of one node is shipped now, and by whom."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from mainstay.agent.archiver import Archiver
from mainstay.agent.tools import KeeperTools
from mainstay.engines.base import EngineDriver
from mainstay.engines.node_files import NodeFiles
from mainstay.model.node import ArchiveStatus, NodeSpec

FINISH_PATIENCE_S = 5.0


class Archiving:
    """Keeps an archiver while its node leads. What it promised stays promised while the node is away."""

    def __init__(self, driver: EngineDriver, files: NodeFiles, tools: KeeperTools, changed: Callable[[], None]) -> None:
        self._driver = driver
        self._files = files
        self._tools = tools
        self._changed = changed
        self._archiver: Archiver | None = None
        self._task: asyncio.Task[None] | None = None
        self._prefix = ""
        self.status: ArchiveStatus | None = None

    def tend(self, spec: NodeSpec, leads: bool) -> None:
        """Ships from now on, to where the spec says, or not any more."""
        if spec.archive is None or not spec.archive.data_key or not leads:  # its key may be awaited from control
            self.end()
            if spec.archive is None:
                self.status = None
            return
        if self._task is not None and not self._task.done() and self._prefix == spec.archive.prefix:
            return
        self.end()
        archiver = self._tools.archiver(
            spec.node_id,
            self._driver.backups.log_source(spec, self._files),
            partial(self._tools.repositories.log_archive, spec.archive),
            self._driver.backups,
            self._files.volume,
            self._tools.clock,
            self._note,
        )
        self._archiver, self._prefix = archiver, spec.archive.prefix
        self._task = asyncio.create_task(archiver.run())

    async def finish(self) -> None:
        """Ships what there is before the engine is stopped; an object storage that is away delays it only so long."""
        if self._archiver is not None and self._task is not None and not self._task.done():
            with suppress(TimeoutError):
                async with asyncio.timeout(FINISH_PATIENCE_S):
                    await self._archiver.finish()
        self.end()

    def end(self) -> None:
        """Nothing is shipped any more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        self._archiver = None

    def _note(self) -> None:
        if self._archiver is not None:
            self.status = self._archiver.status
            self._changed()
