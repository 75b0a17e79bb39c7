"""`mainstay backups export`: a snapshot as plain files, for whoever wants to leave, or to look at it with other tools.

The files are written by this command itself, in a worker process, with the key that the control process opens for it;
nothing is believed that was not checked against the manifest. The directory is complete when README-MAINSTAY.txt is
there, which is written last.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec

from mainstay.agent.backup_facts import log_of
from mainstay.agent.repositories import SystemRepositories
from mainstay.cli.agent import ask_control
from mainstay.cli.progress import Show, bar
from mainstay.decide.progress import Pace, Told, is_due, pace_words, size
from mainstay.engines.builds import Builds
from mainstay.engines.registry import drivers
from mainstay.host.file_identity import files_as
from mainstay.host.files import fsync_directory
from mainstay.host.processes import User
from mainstay.host.randomness import SystemRandomness
from mainstay.model.errors import MainstayError, Permanent
from mainstay.model.node import RestoreSpec, RestoreTarget
from mainstay.model.repository_job import BackupFacts, RepositoryRef
from mainstay.settings import Settings

README = "README-MAINSTAY.txt"
FILES = "files"


class Telling:
    """Events of the snapshot that tell how far its export is: seldom, like those of all long work, and at its end.

    The export does not wait for them, and does without them if the service is away meanwhile.
    """

    def __init__(self, settings: Settings, snapshot: str, region: str, directory: Path) -> None:
        self._settings = settings
        self._export = {"name": snapshot, "region": region, "directory": str(directory)}
        self._begun_at = time.time()
        self._told: Told | None = None
        self._task: asyncio.Task[None] | None = None

    def note(self, bytes_done: int, bytes_total: int) -> None:
        """Perhaps tells it."""
        now = time.time()
        pace = Pace(begun_at=self._begun_at, bytes_done=bytes_done, bytes_total=bytes_total)
        if is_due(pace, self._told, now, self._settings.progress_event_interval_s):
            self._told = Told(at=now, tenths=pace.tenths)
            words = pace_words(bytes_done, bytes_total, now - self._begun_at)
            self._task = asyncio.create_task(asyncio.to_thread(self._tell, words))

    def end(self) -> None:
        """It is complete."""
        self._tell("")

    def _tell(self, progress: str) -> None:
        with suppress(MainstayError):
            ask_control(self._settings, "tell_export", {**self._export, "progress": progress})


def export_snapshot(settings: Settings, snapshot: str, directory: Path, *, region: str, owner: str) -> None:
    """Does it, or leaves nothing behind. Raises `Permanent` for damage, by name, and for a directory that is in use."""
    user = _user(owner)
    directory = directory.absolute()
    if directory.exists() and any(directory.iterdir()):
        raise Permanent(f"{directory} is not empty", hint="Name a directory that is empty or does not exist.")
    answer = ask_control(settings, "open_backup", {"name": snapshot, "region": region})
    ref = msgspec.convert(answer["repository"], RepositoryRef)
    facts = msgspec.convert(answer["facts"], BackupFacts)
    telling = Telling(settings, snapshot, region, directory)
    with bar() as show:

        def note(doing: str, done: int, total: int) -> None:
            show(doing, done, total)
            if doing == FILES:
                telling.note(done, total)

        asyncio.run(_write(settings, ref, facts, answer["engine"], directory, user, note))
    telling.end()
    print(
        f"{snapshot} is in {directory}: {size(facts.size_bytes)} and its log. {directory / README} says how to use it."
    )


def _user(owner: str) -> User:
    if not owner:
        return User(pwd.getpwuid(os.geteuid()).pw_name)
    try:
        entry = pwd.getpwnam(owner)
    except KeyError as error:
        raise Permanent(f"there is no system user {owner!r}") from error
    if os.geteuid() != 0 and entry.pw_uid != os.geteuid():
        raise Permanent("only root can give files to another user", hint="Leave --owner out.")
    return User(owner, entry.pw_uid, entry.pw_gid)


async def _write(
    settings: Settings,
    ref: RepositoryRef,
    facts: BackupFacts,
    engine: str,
    directory: Path,
    user: User,
    show: Show,
) -> None:
    driver, repositories = drivers()[engine], SystemRepositories(settings, SystemRandomness())
    spec = RestoreSpec(repository=ref, backup_id=facts.backup_id, target=RestoreTarget(timeline=facts.timeline))
    await repositories.restore(spec, directory, user, lambda done, total: show(FILES, done, total))
    if not facts.crash_consistent:
        build = partial(Builds(settings).resolve, engine, facts.engine_version)
        await driver.backups.complete_copy(directory, build, user)
    archive = repositories.log_archive(ref)
    needed = log_of(facts, archive, driver.backups)
    name = driver.backups.history_file(facts.timeline) if needed else ""

    owner = None if user.user_id is None or user.group_id is None else (user.user_id, user.group_id)

    def put(name: str, content: bytes) -> None:
        path = directory / name
        with files_as(owner):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with open(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)

    for number, one in enumerate(needed):
        content = archive.read_segment(one.segment)
        if content is None or len(content) < one.end:
            raise Permanent(f"the log segment {one.name}, which the snapshot needs, is missing or not complete")
        put(f"{driver.backups.log_directory}/{one.name}", driver.backups.whole_segment(content))
        show("log", number + 1, len(needed))
    if name:
        put(f"{driver.backups.log_directory}/{name}", archive.read_small(name) or b"")
    for file, content in driver.backups.export_files(facts, user.name).items():
        put(file, content)
    fsync_directory(directory / driver.backups.log_directory)
    fsync_directory(directory)
