"""Stands where an engine has something not yet. The API refuses what would need it (`Feature`), so that nothing in here
but `recovering` is ever asked; whatever asks nevertheless is told so, loudly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import NoReturn

from mainstay.backups.log_archive import LogArchive, StoredSegment
from mainstay.backups.verify_log import NeededSegment
from mainstay.engines.backups import BackupHost, CrashCopies, LogSource, OpenBackup, Recovery, Standby
from mainstay.engines.node_files import NodeFiles
from mainstay.host.processes import User
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import Permanent
from mainstay.model.node import NodeSpec, RestoreSpec
from mainstay.model.repository_job import BackupFacts


class NoImports:
    """The part of `EngineBackups` of an engine that takes no foreign backups (`Feature.DATA_EXCHANGE`).

    Nor has it copies as after a power cut, unless it says so.
    """

    crash_copies: CrashCopies | None = None

    def _refuse(self) -> NoReturn:
        raise Permanent("this is not built for the engine")

    def import_refusal(self, names: Mapping[str, int]) -> str:
        self._refuse()

    async def check_import(self, data: Path, build: EngineBuild, user: User, *, has_manifest: bool) -> None:
        self._refuse()

    async def convert_import(self, data: Path, build: EngineBuild, user: User, master: str) -> None:
        self._refuse()


class NoBackups(NoImports):
    """`EngineBackups` of an engine that has none. Everything raises `Permanent`."""

    log_directory = ""
    segment_bytes = 0

    def recovering(self, files: NodeFiles) -> bool:
        """Never: nothing of this engine was ever restored."""
        return False

    def log_source(self, spec: NodeSpec, files: NodeFiles) -> LogSource:
        self._refuse()

    def begin(
        self, spec: NodeSpec, host: BackupHost, backup_id: str, standby: Standby | None
    ) -> AbstractAsyncContextManager[OpenBackup]:
        self._refuse()

    def prepare_restored(self, data: Path, user: User) -> None:
        self._refuse()

    def recovery(self, restore: RestoreSpec, files: NodeFiles, user: User, archive: LogArchive) -> Recovery:
        self._refuse()

    def segments_after(self, name: str, count: int) -> list[str]:
        self._refuse()

    def whole_segment(self, data: bytes) -> bytes:
        self._refuse()

    def recovery_failure(self, log_text: str) -> str:
        self._refuse()

    async def check(
        self, spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User, note: Callable[[int, int], None]
    ) -> tuple[str, ...]:
        self._refuse()

    def segments_between(
        self, start: str, end: str, timeline: str, history: str, stored: Sequence[StoredSegment]
    ) -> Sequence[NeededSegment]:
        self._refuse()

    def history_file(self, timeline: str) -> str:
        self._refuse()

    def position_in(self, segment: str, offset: int) -> str:
        self._refuse()

    def export_files(self, facts: BackupFacts, owner: str) -> dict[str, bytes]:
        self._refuse()

    def index_of(self, segment: str) -> int:
        self._refuse()

    def index_at(self, position: str) -> int:
        self._refuse()
