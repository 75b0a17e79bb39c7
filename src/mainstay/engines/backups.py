"""How an engine's data and log get into a backup repository and out of it again: what each engine's folder provides.

The repository itself (`mainstay.backups`) knows no engine, and an engine knows no repository: between them are files
to be copied, segments of a log to be shipped, and a directory to be made into a database.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import msgspec

from mainstay.backups.log_archive import LogArchive, StoredSegment
from mainstay.backups.verify_log import NeededSegment
from mainstay.engines.node_files import NodeFiles
from mainstay.host.processes import User
from mainstay.model.backup import SourceFile
from mainstay.model.engine import EngineBuild
from mainstay.model.node import NodeSpec, RestoreSpec
from mainstay.model.repository_job import BackupFacts


class LogPlace(msgspec.Struct, frozen=True, kw_only=True):
    """A place in a log that is made of files: `offset` bytes into a segment of a timeline."""

    timeline: str
    segment: str
    offset: int


class LogPiece(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes `start` to `end` of a segment, durable in the engine's file `path`. `last`: the segment ends there.

    The segment begins `skipped` bytes into the file.
    """

    timeline: str
    segment: str
    path: Path
    start: int
    end: int
    last: bool
    skipped: int = 0

    @property
    def place(self) -> LogPlace:
        """Where the log goes on behind this piece."""
        return LogPlace(timeline=self.timeline, segment=self.segment, offset=self.end)


class LogLook(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to ship. When all of it is stored, every commit up to `moment` can be restored.

    `moment` (epoch seconds of the database's clock, 0.0: no news) is such that the log holds a commit after it.
    `position` and `timeline` name the end of the pieces. `small_files` are stored whole, under their names.
    `missing` names the first segment that is needed and that the engine has not got any more.
    """

    moment: float
    position: str
    timeline: str
    pieces: tuple[LogPiece, ...]
    small_files: tuple[tuple[str, Path], ...] = ()
    unshipped_bytes: int = 0
    missing: str = ""


class LogSource(Protocol):
    """The log of one running primary, through a session of its own. Every method raises `Transient` if it is away."""

    async def resume(self, archive: LogArchive, after: LogPlace) -> None:
        """Called once, before the first look, if something is in the archive already, up to this place."""

    async def look(self, after: LogPlace | None) -> LogLook:
        """What has become durable after this place; None: from the oldest that the engine keeps for us.

        From the first look on the engine keeps what was not released.
        """

    async def release(self, until: LogPlace) -> None:
        """Everything before this place is stored: the engine need not keep it for us."""

    async def give_up(self) -> None:
        """The engine need not keep anything for us."""

    async def close(self) -> None:
        """Ends the session. Never raises."""


class Standby(Protocol):
    """The other node of the one that is backed up, whose files may be read in place of the leader's."""

    @property
    def node_id(self) -> str:
        """Under which the leader knows it."""

    @property
    def files(self) -> NodeFiles:
        """Where its things are."""

    @property
    def build(self) -> EngineBuild:
        """What it runs."""

    def unchanged(self) -> bool:
        """Whether the process that ran when the backup began runs still, and follows the same leader."""

    def configure(self, name: str, content: str) -> None:
        """Writes a file of its configuration, and makes its engine read all of them."""


class BackupHost(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup is made with: the node's places, what it runs, and as whom."""

    files: NodeFiles
    build: EngineBuild
    user: User


class OpenBackup(Protocol):
    """A backup that has begun: the engine takes care that what is copied from now on can be made consistent."""

    @property
    def sources(self) -> Sequence[SourceFile]:
        """What to copy, and the directories that must exist. What has gone or shrunk when it is read is no error."""

    @property
    def streamed_bytes(self) -> int | None:
        """About how much `stream` writes; None if there is nothing to be stored but `sources`."""

    async def stream(self, pipe: int) -> None:
        """Begins to write files into a pipe (`mainstay.backups.streams`), and does not wait for the end of that.

        Asked once, and only if there are `streamed_bytes`. The caller may close the descriptor afterwards.
        """

    @property
    def from_standby(self) -> bool:
        """Whether the files are the standby's."""

    async def finish(self) -> BackupEnd:
        """Ends the backup in the engine: only now there is one. Raises `Transient`, then there is none."""


class BackupEnd(msgspec.Struct, frozen=True, kw_only=True):
    """What is known at the end: places in the log, small files that belong to the copy, the log in between."""

    timeline: str
    start_position: str
    stop_position: str
    consistent_at: float
    extra_files: tuple[SourceFile, ...]
    log: tuple[LogPiece, ...]


class Recovery(Protocol):
    """Brings one restored engine, which is starting, to its target."""

    @property
    def failure(self) -> str:
        """What is wrong with the archive, or with what is in it, in words for a person; "" if nothing is."""

    @property
    def lacking(self) -> str:
        """What the archive has not got, should the engine say that it lacks something."""

    @property
    def served_bytes(self) -> int:
        """How much of the log the engine was given."""

    async def run(self) -> None:
        """Until it is done, or cancelled. If it cannot be done the engine ends, and `failure` or its log say why."""

    def remove(self) -> None:
        """Leaves nothing behind but the database."""


class CrashCopies(Protocol):
    """How an engine's directory is copied as it is at one moment, as after a power cut, with nothing but the files."""

    async def flush(self, spec: NodeSpec, files: NodeFiles) -> None:
        """Whatever was acknowledged before is on disk when this returns. Raises `Transient`."""

    def refusal(self, data: Path) -> str:
        """Why this directory cannot be copied so, in words, or ""."""

    def files(self, data: Path) -> Iterable[SourceFile]:
        """What belongs to the copy of a directory that nobody changes."""

    def prepare(self, data: Path, user: User) -> None:
        """Makes such a copy into the directory of another instance, which recovers when it is started.

        Blocking; may be repeated; everything is durable when it returns.
        """


class EngineBackups(Protocol):
    """Backups of one engine."""

    @property
    def crash_copies(self) -> CrashCopies | None:
        """None: the engine's directory cannot be copied as after a power cut."""

    def log_source(self, spec: NodeSpec, files: NodeFiles) -> LogSource:
        """The log of this node, which leads."""

    def begin(
        self, spec: NodeSpec, host: BackupHost, backup_id: str, standby: Standby | None
    ) -> AbstractAsyncContextManager[OpenBackup]:
        """Begins a backup of this node, which leads; leaving the context without `finish` gives it up.

        The files are the standby's, if there is one and it can be brought to where its files will do.
        """

    async def complete_copy(self, data: Path, build: Callable[[], EngineBuild], user: User) -> None:
        """Does what was left to be done on the files when they were backed up, before anything else is done with them.

        `build` is asked if it takes the engine's own programs. Everything is durable when this returns. May not be
        repeated on files on which it failed. Raises `Permanent`, `Transient`.
        """

    def prepare_restored(self, data: Path, user: User) -> None:
        """Makes a directory as it came from the repository into one that the engine recovers when it is started.

        Blocking; everything is durable when it returns.
        """

    def recovering(self, files: NodeFiles) -> bool:
        """Whether the data is a restored backup that has not reached its target yet."""

    def recovery(self, restore: RestoreSpec, files: NodeFiles, user: User, archive: LogArchive) -> Recovery:
        """What helps an engine that is `recovering` from outside, for one life of it."""

    def segments_after(self, name: str, count: int) -> list[str]:
        """Names of the next segments of the timeline, as far as they follow from this one's."""

    def whole_segment(self, data: bytes) -> bytes:
        """A segment that is still growing in the repository, as the engine takes it."""

    def recovery_failure(self, log_text: str) -> str:
        """Why recovery cannot reach its target, from the engine's log; "" if nothing there says so."""

    async def check(
        self, spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User, note: Callable[[int, int], None]
    ) -> tuple[str, ...]:
        """Reads all that this running engine has; what it finds wrong, in sentences. `note` is told bytes and total.

        Leaves traces in the databases: only for a copy that is thrown away. Raises `Transient` if it goes away.
        """

    def segments_between(
        self, start: str, end: str, timeline: str, history: str, stored: Sequence[StoredSegment]
    ) -> Sequence[NeededSegment]:
        """What a recovery from one position to the other along the timeline reads, with how much of it there must be.

        `history` is the content of the timeline's `history_file`, `stored` what the archive has: some engines' segments
        do not tell from positions alone. Of those that are missing at least one is named.
        """

    def history_file(self, timeline: str) -> str:
        """The small file of the log that tells where the timeline comes from, "" if it is the first one."""

    def position_in(self, segment: str, offset: int) -> str:
        """The position so many bytes into the segment."""

    @property
    def log_directory(self) -> str:
        """Where the engine looks for its log, below its data directory."""

    def export_files(self, facts: BackupFacts, owner: str) -> dict[str, bytes]:
        """What a restored backup with its log needs so that stock programs can start it: path -> content.

        Paths are below the data directory, and may be there already; the last one is a README for a person. `owner` is
        the system user who may log in as the superuser.
        """

    def import_refusal(self, names: Mapping[str, int]) -> str:
        """Why a directory with these names, of these sizes, is no backup of stock tools that can be taken, or ""."""

    async def check_import(self, data: Path, build: EngineBuild, user: User, *, has_manifest: bool) -> None:
        """Raises `Permanent` saying what is wrong with such a backup, a copy of which is in `data`."""

    async def convert_import(self, data: Path, build: EngineBuild, user: User, master: str) -> None:
        """Makes such a copy into data of ours, whose superuser is ours and whose master user has this name."""

    @property
    def segment_bytes(self) -> int:
        """Length of a full segment; one that has ended before counts as that long in places and positions."""

    def index_of(self, segment: str) -> int:
        """The segment's number in its log, whatever the timeline."""

    def index_at(self, position: str) -> int:
        """The number of the first segment that is read to go on from this position."""
