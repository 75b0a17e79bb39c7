"""Operating a node of this family on this host. See `EngineDriver` for what each method guarantees."""

from __future__ import annotations

import asyncio
import re
import shlex
import signal
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import structlog
from pymysql.constants import ER

from mainstay.engines.backups import EngineBackups
from mainstay.engines.base import Health, Monitor, StartCommand
from mainstay.engines.mysql_family import events, iam_logins, layout, replay, time_zones, unforced
from mainstay.engines.mysql_family.followers import Followers, empty_directory, follows
from mainstay.engines.mysql_family.local_sessions import answering, operating, operators, run_all, session
from mainstay.engines.mysql_family.monitor import FamilyMonitor
from mainstay.engines.mysql_family.option_file import parse, render
from mainstay.engines.mysql_family.sessions import (
    REFUSED,
    SHUT_OUT,
    Error,
    Session,
    message_of,
    number_of,
    passing,
    silent,
)
from mainstay.engines.mysql_family.trees import fsync_tree
from mainstay.engines.mysql_family.variables import Variable, pending_restart, statements
from mainstay.engines.mysql_family.words import Words
from mainstay.engines.node_files import NodeFiles
from mainstay.host.files import fsync_directory
from mainstay.host.processes import SAFE_ENVIRONMENT, User
from mainstay.model.assignment import Assignment, Upstream
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import Permanent, Transient
from mainstay.model.node import NodeRole, NodeSpec, ReplicationStatus

PROBE_TIMEOUT_S = 1.0
LET_IN_TIMEOUT_S = 5.0
COMPLAINT = re.compile(
    r"^.*\[ERROR\] (?:\[MY-\d+\] )?(?:\[\w+\] )?(?:\S*(?:mysqld|mariadbd): )?(?P<said>\S.*?)\s*$", re.MULTILINE
)
SAYS_NOTHING = frozenset({"Aborting", "Data Dictionary initialization failed."})
NOT_YET = ("No such file or directory", "Connection refused")

log = structlog.get_logger()


class FamilyDriver(ABC):
    """`EngineDriver` but for what MariaDB and MySQL each do in their own way.

    `ours` are variables that a change of the parameters leaves alone, `option_group` the option file's group,
    `option_names` the options that are not called as their variables are, `renew_certificate` the statement that has
    the certificate read again.
    """

    name: str
    # A shutdown in which InnoDB writes what it must; killed, it recovers from its redo log at the next start.
    stop_signals = ((signal.SIGTERM, 90.0), (signal.SIGKILL, 5.0))
    switch_patience_s: float
    reload_signal = None
    # A relay log is begun anew with its process: what it had and had not applied is asked of the source again.
    keeps_received = False
    asks_about_logins = True
    backups: EngineBackups
    dumps = None
    words: Words
    followers: Followers
    ours: frozenset[str]
    option_group: str
    option_names: Mapping[str, str]
    renew_certificate: str
    log_directories: tuple[str, ...] = layout.LOG_DIRECTORIES

    @abstractmethod
    def server(self, build: EngineBuild) -> str:
        """Path of the server program."""

    @abstractmethod
    async def make_data(self, build: EngineBuild, data: Path, user: User) -> None:
        """Makes the engine's files in this directory, which is empty and the user's. They need not be on the disk."""

    @abstractmethod
    def has_data(self, files: NodeFiles) -> bool:
        """Whether there is a complete data directory."""

    @abstractmethod
    def own_options(
        self, spec: NodeSpec, assignment: Assignment, files: NodeFiles, build: EngineBuild
    ) -> dict[str, str]:
        """Options that no DB parameter group decides."""

    @abstractmethod
    def startup_script(self, operators: tuple[str, ...]) -> str:
        """SQL that the engine runs at every start; `operators` may act as administrators over the node's socket."""

    @abstractmethod
    async def clone(self, spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User, upstream: Upstream) -> None:
        """See `EngineDriver`."""

    @abstractmethod
    async def variables(self, connection: Session, version: str, wanted: Mapping[str, str]) -> dict[str, Variable]:
        """The settings of the running engine of this version, by name. What differs from `wanted` is told exactly."""

    def left_by_the_killed(self, files: NodeFiles) -> tuple[Path, ...]:
        """What a server that was killed leaves, and what would keep the next one from starting."""
        return ()

    async def tend_accounts(self, connection: Session, operators: tuple[str, ...]) -> None:
        """Puts what is ours in the engine back as it is to be, where users can change it. Raises `Error`."""
        return

    async def make_way(self, connection: Session, operators: tuple[str, ...], error: str) -> None:
        """Of a follower that has stopped applying with this error: it tries again right after this. Raises `Error`."""
        return

    async def load_plugins(self, connection: Session, wanted: Mapping[str, str]) -> None:
        """Loads what the running engine lacks of what these settings are about. Raises `Error`."""
        return

    @abstractmethod
    async def account_statements(self, connection: Session, spec: NodeSpec) -> list[str]:
        """SQL that makes users, the first database and procedures as the spec wants them, each on its own."""

    async def configuration(
        self, spec: NodeSpec, assignment: Assignment, files: NodeFiles, build: EngineBuild
    ) -> dict[str, str]:
        follow = ""
        if not assignment.writable and assignment.upstream is not None and self.initialised(files):
            follow = await self.followers.follow_statements(spec, files, assignment.upstream)
        script = self.startup_script(operators(files))
        rendered = self.render(spec, self.own_options(spec, assignment, files, build), script, follow)
        if follow and assignment.upstream is not None:
            rendered[layout.SOURCE_FILE] = assignment.upstream.host
        if assignment.role is NodeRole.STANDBY and assignment.upstream is not None:
            rendered[layout.UPSTREAM_FILE] = assignment.upstream.host
            if self.initialised(files):
                unforced.note_running(files)  # written for a start, or for what runs: a copy has none yet
        return rendered

    def render(self, spec: NodeSpec, own: dict[str, str], startup: str, follow: str) -> dict[str, str]:
        """File name -> content of all that a node reads; what is our own comes last, so that it wins.

        `follow` is what makes a follower follow its source, "" for a node that follows nobody.
        """
        users = {self.option_names.get(name, name): value for name, value in sorted(spec.parameters.items())}
        following = {} if not follow else {
            layout.FOLLOWER_STARTUP_FILE: startup + follow,
            layout.FOLLOW_STATEMENTS_FILE: follow,
        }  # fmt: skip
        return following | {
            layout.OPTION_FILE: render(self.option_group, users, own),
            layout.STARTUP_FILE: startup,
            layout.CERTIFICATE_FILE: spec.certificate.certificate_pem,
            layout.KEY_FILE: spec.certificate.private_key_pem,
            layout.CA_FILE: spec.certificate.ca_pem,
        }

    async def initialise(self, spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User) -> None:
        """The bootstrap server into a directory beside, renamed when it is complete and on disk."""
        unfinished = files.volume / "data.initialising"
        await empty_directory(unfinished, user)
        await self.make_data(build, unfinished, user)
        await asyncio.to_thread(fsync_tree, unfinished)
        unfinished.rename(files.data)
        fsync_directory(files.volume)

    def initialised(self, files: NodeFiles) -> bool:
        """What a standby's host has left of it when it went down is no data that anybody could go on with."""
        return self.has_data(files) and not (follows(files) and unforced.is_torn(files))

    def start_command(self, spec: NodeSpec, files: NodeFiles, build: EngineBuild) -> StartCommand:
        """A shell that makes the engine's directories as the engine's own user, and becomes the engine."""
        logs = [files.logs / name for name in self.log_directories]
        recovering = self.backups.recovering(files)
        directories = [*logs, layout.temporary(files), layout.exchange(files)]
        directories += [files.restoring] if recovering else []
        making = shlex.join(["mkdir", "-p", "-m", "700", "--", *map(str, directories)])
        if left := self.left_by_the_killed(files):
            making += f" && {shlex.join(['rm', '-f', '--', *map(str, left)])}"
        return StartCommand(
            argv=(
                "/bin/sh",
                "-c",
                f'{making} && exec "$@"',
                self.name,
                self.server(build),
                f"--defaults-file={files.configuration / layout.OPTION_FILE}",
                *(replay.options(files, self.words) if recovering else self._role_options(files)),
            ),
            env={**SAFE_ENVIRONMENT, "TZ": "UTC", **build.environment, **iam_logins.environment(files)},
        )

    @staticmethod
    def _role_options(files: NodeFiles) -> tuple[str, ...]:
        """By what the data is, not by what the node is wanted to be: a follower takes writes when it was promoted."""
        if not follows(files):
            return ("--read-only=0",)
        return ("--read-only=1", f"--init-file={files.configuration / layout.FOLLOWER_STARTUP_FILE}")

    def follows(self, files: NodeFiles) -> bool:
        return follows(files)

    async def rejoin(
        self, spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User, upstream: Upstream
    ) -> None:
        """Always a copy: its binary log may hold transactions that were never acknowledged, and nobody else has."""
        await self.clone(spec, files, build, user, upstream)

    async def promote(self, spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User) -> None:
        await self.followers.promote(files)

    async def confirm_synchronous(self, spec: NodeSpec, files: NodeFiles, follower: str) -> bool:
        return await self.followers.confirm_synchronous(files, follower)

    async def settle_writes(self, spec: NodeSpec, files: NodeFiles) -> None:
        """Nothing: a primary that is slow to shut down is killed, and copied anew in any case."""
        return

    async def replication(self, spec: NodeSpec, files: NodeFiles) -> ReplicationStatus | None:
        return await self.followers.replication_status(files)

    def loss(self, log_text: str) -> str:
        return self.followers.loss(log_text)

    def monitor(self, spec: NodeSpec, files: NodeFiles) -> Monitor:
        return FamilyMonitor(files, self.words)

    async def probe(self, spec: NodeSpec, files: NodeFiles) -> Health:
        try:
            async with session(files.sockets, timeout_s=PROBE_TIMEOUT_S) as connection:
                if self.backups.recovering(files):
                    return Health(ready=False, starting=True, message="the log is being replayed")
                await self.tend_accounts(connection, operators(files))
                if self.follows(files):
                    # What cannot be applied must not be acknowledged either.
                    status = await self.followers.status(connection)
                    if status is not None and status.apply_errno and not status.applying:
                        await self.make_way(connection, operators(files), status.apply_error)
                    message = await self.followers.hold_back(connection, files, status)
                    if status is not None and status.receive_errno in REFUSED:
                        await self._let_in_again(spec, files)
                    await events.note(files)
                    applied = str(await connection.value(self.words.applied)) if message else ""
                    return Health(ready=True, message=message, stuck_at=applied)
                return await self._health(connection, spec)
        except Error as error:
            message = message_of(error)
            if number_of(error) == ER.CON_COUNT_ERROR:  # all connections are in use, which it says itself
                return Health(ready=True, message=message)
            if number_of(error) in SHUT_OUT:
                return Health(ready=False, locked_out=True, message=message)
            starting = any(words in message for words in NOT_YET)
            return Health(ready=False, starting=starting, refused=not passing(error), message=message)

    async def _let_in_again(self, spec: NodeSpec, files: NodeFiles) -> None:
        """Its source does not know it: it did not answer when it was told, or was killed before that was on its disk.

        Nobody else would notice: until then the follower only tries again.
        """
        try:
            place = Path((files.configuration / layout.SOURCE_FILE).read_text())
            async with answering(place, timeout_s=LET_IN_TIMEOUT_S) as source:
                await self.followers.let_in(source, spec)
        except (OSError, Error, Transient) as error:
            log.warning("follower.not_let_in", node_id=spec.node_id, error=str(error))

    def last_words(self, log_text: str) -> list[str]:
        said = (found["said"] for found in COMPLAINT.finditer(log_text))
        return [sentence for sentence in said if sentence not in SAYS_NOTHING]

    async def reload(self, spec: NodeSpec, files: NodeFiles) -> Health:
        async with operating(files) as connection:
            wanted = self._wanted(files)
            await self.load_plugins(connection, wanted)
            known = await self.variables(connection, spec.engine_version, wanted)
            for statement in statements(known, wanted, self.ours):
                try:
                    await connection.execute(statement)
                except Error as error:
                    if silent(error):
                        raise
                    raise Permanent(f"the engine refuses parameters: {statement}: {message_of(error)}") from error
            await self._follow(connection, files)
            await connection.execute(self.renew_certificate)
            return await self._health(connection, spec)

    async def apply_accounts(self, spec: NodeSpec, files: NodeFiles) -> None:
        async with operating(files, replicated=True) as connection:
            await run_all(connection, self.words.unseen)
            await run_all(connection, await self.account_statements(connection, spec))
            await time_zones.fill(connection)

    async def _follow(self, connection: Session, files: NodeFiles) -> None:
        """The source may be another one now."""
        statements_file = files.configuration / layout.FOLLOW_STATEMENTS_FILE
        if self.follows(files) and statements_file.exists():
            await run_all(connection, self.words.unseen)
            await self.followers.follow(connection, files, statements_file.read_text())

    async def _health(self, connection: Session, spec: NodeSpec) -> Health:
        known = await self.variables(connection, spec.engine_version, spec.parameters)
        return Health(ready=True, pending_restart=pending_restart(known, spec.parameters))

    def _wanted(self, files: NodeFiles) -> dict[str, str]:
        """What the option file says, by the names of the variables."""
        return self.wanted_of(parse((files.configuration / layout.OPTION_FILE).read_text()))

    def wanted_of(self, options: Mapping[str, str]) -> dict[str, str]:
        """What these options say, by the names of the variables. Of two that are one the last counts."""
        variable_names = {option: name for name, option in self.option_names.items()}
        return {variable_names.get(name, name).removeprefix("loose_"): value for name, value in options.items()}
