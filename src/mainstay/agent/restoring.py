"""A node whose data comes from a backup: its files are copied, then its engine is served the log until it is open.

Every step may be repeated after a crash: the files are complete in a directory beside before they are put in place.
Each attempt has a directory of its own, since the worker of a killed agent lives on for some seconds, and empties what
it could not complete.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import structlog

from mainstay.agent.loss import newest_log, read_tail
from mainstay.agent.repositories import Repositories
from mainstay.engines.backups import Recovery
from mainstay.engines.base import EngineDriver
from mainstay.engines.node_files import NodeFiles
from mainstay.host.files import fsync_directory
from mainstay.host.processes import User
from mainstay.host.threads import to_its_end
from mainstay.host.volumes import VolumePlace
from mainstay.host.volumes.clones import Clones
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import MainstayError, Transient
from mainstay.model.node import RestoreProgress, RestoreSpec

UNFINISHED = "data.restoring-"
STORED_AGAIN_S = 2.0

log = structlog.get_logger()


class Restoring:
    """The restore of one node."""

    def __init__(
        self, files: NodeFiles, driver: EngineDriver, repositories: Repositories, clones: Clones, user: User
    ) -> None:
        self._files = files
        self._clones = clones
        self._driver = driver
        self._repositories = repositories
        self._user = user
        self._copied: RestoreProgress | None = None
        self._since = 0.0
        self._server: Recovery | None = None
        self._serving: asyncio.Task[None] | None = None

    async def lend_clone(self, restore: RestoreSpec | None, place: VolumePlace) -> None:
        """Before the volume is made: if there is a clone of the backup on this host, it begins as that."""
        if restore is not None and restore.crash_consistent:
            await to_its_end(self._clones.lend, restore.repository.prefix, restore.backup_id, place)

    async def copy(
        self, restore: RestoreSpec, build: Callable[[], EngineBuild], placing: Callable[[], None] = lambda: None
    ) -> None:
        """Puts the backup's files in place; everything is checked and on disk before it is the data directory.

        `placing` is called just before. Raises `Permanent` for a backup that is damaged or not there, `Transient` for a
        repository that is away. A volume that began as a clone of the backup has the files already.
        """
        await to_its_end(self._remove_unfinished)
        self._since = asyncio.get_running_loop().time()
        cloned = self._files.cloned_data
        if restore.crash_consistent and cloned.is_dir() and not cloned.is_symlink():
            unfinished = cloned
        else:
            unfinished = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=self._files.volume))
            self._user.give(unfinished)
            await self._require_stored(restore)
            await self._repositories.restore(restore, unfinished, self._user, self._note)
            if not restore.crash_consistent:
                await self._driver.backups.complete_copy(unfinished, build, self._user)
        placing()
        await to_its_end(self._put_in_place, unfinished, crash_consistent=restore.crash_consistent)

    async def _require_stored(self, restore: RestoreSpec) -> None:
        """A snapshot is available when there is a clone of it, which may be of no use here."""
        if restore.crash_consistent and await self._repositories.facts(restore.repository, restore.backup_id) is None:
            raise Transient("the DB snapshot is still being stored", retry_after_s=STORED_AGAIN_S)

    def _put_in_place(self, unfinished: Path, *, crash_consistent: bool) -> None:
        backups = self._driver.backups
        if not crash_consistent:
            backups.prepare_restored(unfinished, self._user)
        elif backups.crash_copies is not None:
            backups.crash_copies.prepare(unfinished, self._user)
        unfinished.rename(self._files.data)
        fsync_directory(self._files.volume)
        shutil.rmtree(self._files.cloned, ignore_errors=True)
        self._remove_unfinished()

    def _remove_unfinished(self) -> None:
        """What earlier attempts left. The worker of an agent that was killed may still write there, or tidy up."""
        for path in self._files.volume.glob(UNFINISHED + "*"):
            shutil.rmtree(path, ignore_errors=True)

    def _note(self, bytes_done: int, bytes_total: int) -> None:
        seconds = round(asyncio.get_running_loop().time() - self._since, 3)
        self._copied = RestoreProgress(phase="files", bytes_done=bytes_done, bytes_total=bytes_total, seconds=seconds)

    @property
    def under_way(self) -> bool:
        """Whether the engine's data is there and has not reached its target."""
        return self._driver.backups.recovering(self._files)

    @property
    def progress(self) -> RestoreProgress | None:
        """How far it is, None when nothing is being restored."""
        if self._server is not None:
            # In whole seconds: whatever else changes in a node's status is told at once.
            seconds = float(int(asyncio.get_running_loop().time() - self._since))
            return RestoreProgress(phase="log", bytes_done=self._server.served_bytes, seconds=seconds)
        return self._copied

    def failure(self) -> str:
        """Why the engine that has just ended will never reach its target; "" if that is not known."""
        if not self.under_way:
            return ""
        newest = newest_log(self._files.logs / "error")
        said = "" if newest is None else self._driver.backups.recovery_failure(read_tail(newest))
        server = self._server
        if server is None:
            return said
        lacking = server.lacking
        return server.failure or (f"{said}; the log archive has {lacking}" if said and lacking else said)

    def serve(self, restore: RestoreSpec | None) -> None:
        """Serves the engine that is starting now, if it is recovering; with None there is no such engine any more.

        It asks for a file more after the sign that it is recovering has gone.
        """
        if restore is None:
            self.end()
            return
        self._copied = None  # an engine that starts has its files
        if (self._serving is None or self._serving.done()) and (self.under_way or self._files.restoring.exists()):
            self._since = asyncio.get_running_loop().time()
            archive = self._repositories.log_archive(restore.repository)
            self._server = self._driver.backups.recovery(restore, self._files, self._user, archive)
            self._serving = asyncio.create_task(self._run(self._server))

    async def _run(self, server: Recovery) -> None:
        try:
            await server.run()
        except (MainstayError, OSError) as error:
            log.error("restore.not_serving", error=str(error))

    def end(self) -> None:
        """Nothing is served any more."""
        task, self._serving = self._serving, None
        if task is not None:
            task.cancel()
        if self._server is not None:
            self._server.remove()
            self._server = None
