"""A node's data as a copy: of the node that it follows, or of a backup.

Guarantees: there is one copy at a time, and it goes on in the background; what came of it `take_outcome` tells, once.
Of one that is not wanted any more nothing is left running when `cancel` returns. Accounts in a copied engine are
remembered as inherited: what its source had been given is not taken for what this node was asked to have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import structlog

from mainstay.agent.kept_data import KeptData
from mainstay.agent.node_engine import make_sockets
from mainstay.agent.restoring import Restoring
from mainstay.agent.tools import KeeperTools
from mainstay.decide.node import INHERITED_ACCOUNTS, Wanted
from mainstay.engines.base import EngineDriver
from mainstay.engines.node_files import NodeFiles
from mainstay.model.assignment import Assignment
from mainstay.model.errors import MainstayError, Transient
from mainstay.model.node import NodeSpec, NodeTarget, RestoreSpec

log = structlog.get_logger()


class Copying:
    """The copy that is being made for one node, if there is one.

    `remember(**changes)` keeps changes of what is in effect; `changed` is called when a copy has ended.
    """

    def __init__(
        self,
        driver: EngineDriver,
        files: NodeFiles,
        tools: KeeperTools,
        restoring: Restoring,
        kept: KeptData,
        remember: Callable[..., None],
        changed: Callable[[], None],
    ) -> None:
        self.lost = ""
        """Why the node can never go on from the data that it has, so that the next copy is one anew; "" if it can."""

        self._driver = driver
        self._files = files
        self._tools = tools
        self._restoring = restoring
        self._kept = kept
        self._remember = remember
        self._changed = changed
        self._task: asyncio.Task[None] | None = None
        self._backup_id: str | None = None

    @property
    def under_way(self) -> bool:
        """Whether there is one whose outcome was not taken yet."""
        return self._task is not None

    async def begin_copy(self, spec: NodeSpec, assignment: Assignment, _wanted: Wanted) -> None:
        """Copies the node that is to be followed, or what this one lacks of it."""
        if self._task is None:
            self._backup_id = None
            self._task = asyncio.create_task(self._copy(spec, assignment))

    async def begin_restore(self, spec: NodeSpec, _assignment: Assignment, _wanted: Wanted) -> None:
        """Copies the backup that the spec names."""
        if self._task is None and spec.restore is not None:
            self._backup_id = spec.restore.backup_id
            self._task = asyncio.create_task(self._restore(spec, spec.restore))

    async def end_unwanted(self, spec: NodeSpec, wanted: Wanted) -> None:
        """A copy for a node that is not to run, or a restore of something else, ends; what came of it is nothing."""
        stale = self._backup_id is not None and (spec.restore is None or spec.restore.backup_id != self._backup_id)
        if self._task is not None and (stale or wanted.target is not NodeTarget.RUNNING):
            await self.cancel()

    async def cancel(self) -> None:
        """Gives up a copy that is not wanted any more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError, MainstayError, OSError):
                await task

    def take_outcome(self) -> None:
        """The outcome of a copy that has ended. Raises what it raised."""
        task = self._task
        if task is not None and task.done():
            self._task = None
            task.result()

    async def _copy(self, spec: NodeSpec, assignment: Assignment) -> None:
        upstream = assignment.upstream
        if upstream is None:
            raise Transient("there is nobody to copy from")
        try:
            make_sockets(self._files, self._tools.user)
            anew = self.lost or not self._driver.initialised(self._files)
            copy = self._driver.clone if anew else self._driver.rejoin
            started = self._tools.clock.monotonic()
            await copy(spec, self._files, self._tools.build(spec), self._tools.user, upstream)
            # The copied engine knows nothing of what this one was told before.
            self._remember(accounts=INHERITED_ACCOUNTS, had_data=True)
            self.lost = ""
            seconds = round(self._tools.clock.monotonic() - started, 3)
            log.info("node.copied", node_id=spec.node_id, upstream=upstream.node_id, seconds=seconds)
        finally:
            self._changed()

    async def _restore(self, spec: NodeSpec, restore: RestoreSpec) -> None:
        try:
            started = self._tools.clock.monotonic()
            build = partial(self._tools.build, spec)
            await self._restoring.copy(restore, build, lambda: self._kept.note_placed(spec))
            self._remember(had_data=True)
            seconds = round(self._tools.clock.monotonic() - started, 3)
            log.info("node.restored", node_id=spec.node_id, backup_id=restore.backup_id, seconds=seconds)
        finally:
            self._changed()
