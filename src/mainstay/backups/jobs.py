"""The heavy jobs and what is said about them, as JSON lines between a worker process and whoever started it.

To the worker: one job, then, where it asks for it, one `Late`. From it: `Progressed` any number of times, perhaps
`Copied`, and in the end `Done` or `Failed`. Keys and credentials travel here and nowhere else.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from mainstay.backups.objects import ObjectNotFound, open_objects
from mainstay.backups.parallel import Cancelled
from mainstay.backups.repository import Repository
from mainstay.backups.sealing import LEVEL_DEFAULT, Damaged
from mainstay.backups.sources import walk
from mainstay.backups.streams import StreamBroken, Streaming
from mainstay.backups.verify_log import NeededSegment
from mainstay.host.randomness import SystemRandomness
from mainstay.model.backup import BackupSummary, SourceFile
from mainstay.model.errors import MainstayError, Permanent, Transient

JOB_BYTES_MAX = 256 << 20


class Place(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A repository: the URL of an object storage, its options, the prefix there and the data key."""

    url: str
    prefix: str
    data_key: bytes
    options: dict[str, str] = {}
    level: int = LEVEL_DEFAULT

    def open(self) -> Repository:
        """The repository. Raises as `open_objects`."""
        objects = open_objects(self.url, self.options)
        return Repository(objects, self.prefix, self.data_key, SystemRandomness(), level=self.level)

    def __repr__(self) -> str:
        return f"Place({self.url}, {self.prefix}, ****)"


class Tree(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A directory to back up but for the paths that match one of the patterns (fnmatch; `*` matches `/` too)."""

    root: str
    prefix: str = ""
    excluded: tuple[str, ...] = ()

    def sources(self) -> list[SourceFile]:
        """What is there now."""

        def is_excluded(path: str) -> bool:
            return any(fnmatchcase(path.removeprefix(self.prefix), pattern) for pattern in self.excluded)

        return list(walk(Path(self.root), is_excluded, self.prefix))


class BackupJob(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="backup"):
    """Write a backup. With `ask_late` the worker says `Copied` once all was read, and waits for a `Late`.

    As root, with uid and gid, the files are opened as that user, who may own them and so could point elsewhere with
    links. `streaming`: files that come through a pipe which the worker was started with.
    """

    place: Place
    backup_id: str
    base_id: str = ""
    streaming: Streaming | None = None
    trees: tuple[Tree, ...] = ()
    sources: tuple[SourceFile, ...] = ()
    attributes: dict[str, str] = {}
    ask_late: bool = False
    uid: int | None = None
    gid: int | None = None


class RestoreJob(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="restore"):
    """Restore a backup into an empty directory; as root, as this user and group (both or neither)."""

    place: Place
    backup_id: str
    destination: str
    uid: int | None = None
    gid: int | None = None


class VerifyJob(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="verify"):
    """Read a backup back; what is wrong is in `Done.damages`."""

    place: Place
    backup_id: str


class VerifyAllJob(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="verify-all"):
    """Read these backups back, what they share once; `sizes`, one for each, weigh the progress."""

    place: Place
    backup_ids: tuple[str, ...]
    sizes: tuple[int, ...]


class VerifyLogJob(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="verify-log"):
    """Read the log back; what is wrong, or missing of `needed` and `small`, is in `Done.damages`."""

    place: Place
    needed: tuple[NeededSegment, ...] = ()
    small: tuple[str, ...] = ()


class CopyJob(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="copy"):
    """Copy a backup to another repository; `base_id` is an earlier one there."""

    source: Place
    backup_id: str
    target: Place
    target_id: str
    base_id: str = ""


class CollectJob(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="collect"):
    """Delete these backups, then what nothing needs any more; see `collect_garbage`."""

    place: Place
    delete: tuple[str, ...] = ()
    writing: tuple[str, ...] = ()


Job = BackupJob | RestoreJob | VerifyJob | VerifyAllJob | VerifyLogJob | CopyJob | CollectJob


class Progressed(msgspec.Struct, frozen=True, tag="progress"):
    """Bytes done of the total, both as far as known."""

    done: int
    total: int


class Copied(msgspec.Struct, frozen=True, tag="copied"):
    """All sources of a backup were read; the worker waits for a `Late`."""


class Damage(msgspec.Struct, frozen=True):
    """One finding of a verification; `backup_id` where several backups were verified."""

    key: str
    reason: str
    files: tuple[str, ...]
    backup_id: str = ""


class Done(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="done"):
    """The job succeeded. `freed` are bytes that a collection removed."""

    summary: BackupSummary | None = None
    damages: tuple[Damage, ...] = ()
    freed: int = 0


class Failed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="failed"):
    """The job failed; `raise_error` raises what the worker raised."""

    kind: str
    message: str
    hint: str = ""
    retry_after_s: float = 1.0
    key: str = ""
    reason: str = ""
    files: tuple[str, ...] = ()

    def error(self) -> MainstayError:
        """The worker's error."""
        if self.kind == "damaged":
            return Damaged(self.key, self.reason, files=self.files)
        if self.kind == "not-found":
            return ObjectNotFound(self.key)
        if self.kind == "cancelled":
            return Cancelled()
        if self.kind == "stream-broken":
            return StreamBroken(self.message)
        if self.kind == "transient":
            return Transient(self.message, retry_after_s=self.retry_after_s, hint=self.hint)
        return Permanent(self.message, hint=self.hint)


Message = Progressed | Copied | Done | Failed


def failed(error: MainstayError) -> Failed:
    """The message that carries this error."""
    if isinstance(error, Damaged):
        return Failed(kind="damaged", message=error.message, key=error.key, reason=error.reason, files=error.files)
    if isinstance(error, ObjectNotFound):
        return Failed(kind="not-found", message=error.message, key=error.key)
    if isinstance(error, Cancelled):
        return Failed(kind="cancelled", message=error.message)
    if isinstance(error, StreamBroken):
        return Failed(kind="stream-broken", message=error.message)
    if isinstance(error, Transient):
        return Failed(kind="transient", message=error.message, hint=error.hint, retry_after_s=error.retry_after_s)
    return Failed(kind="permanent", message=error.message, hint=error.hint)
