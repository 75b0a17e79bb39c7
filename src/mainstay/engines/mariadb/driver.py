"""Operating a MariaDB node on this host. See `EngineDriver` for what each method guarantees."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal

from pymysql.constants import ER

from mainstay.engines.base import Health, Monitor, StartCommand
from mainstay.engines.mariadb import accounts, configuration, replay, replication
from mainstay.engines.mariadb.backups import MariadbBackups
from mainstay.engines.mariadb.bootstrap import bootstrap_command, bootstrap_script, server
from mainstay.engines.mariadb.catalogue import OPTION_NAMES
from mainstay.engines.mariadb.monitor import MariadbMonitor
from mainstay.engines.mariadb.procedures import procedures
from mainstay.engines.mariadb.sessions import answering, operators, session, unseen
from mainstay.engines.mariadb.variables import QUERY, Variable, pending_restart, statements
from mainstay.engines.mysql_family.option_file import parse
from mainstay.engines.mysql_family.sessions import Error, Session, message_of, number_of, silent
from mainstay.engines.mysql_family.trees import fsync_tree
from mainstay.engines.node_files import NodeFiles
from mainstay.host.files import fsync_directory
from mainstay.host.processes import SAFE_ENVIRONMENT, User, run
from mainstay.model.assignment import Assignment, Upstream
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import Permanent
from mainstay.model.node import NodeSpec, ReplicationStatus

BOOTSTRAP_TIMEOUT_S = 120.0
PROBE_TIMEOUT_S = 1.0
NOT_YET = ("No such file or directory", "Connection refused")


class MariadbDriver:
    """`EngineDriver` for MariaDB."""

    name = "mariadb"
    # A shutdown in which InnoDB writes what it must; killed, it recovers from its redo log at the next start.
    stop_signals = ((signal.SIGTERM, 90.0), (signal.SIGKILL, 5.0))

    reload_signal = None
    # A relay log is begun anew with its process: what it had and had not applied is asked of the source again.
    keeps_received = False
    backups = MariadbBackups()

    async def configuration(
        self, spec: NodeSpec, assignment: Assignment, files: NodeFiles, build: EngineBuild
    ) -> dict[str, str]:
        owner = files.volume.stat().st_uid
        follow = ""
        if not assignment.writable and assignment.upstream is not None and self.initialised(files):
            follow = await replication.follow_statements(spec, files, assignment.upstream)
        return configuration.render(spec, assignment, files, build, operators((os.geteuid(), owner)), follow)

    def initialised(self, files: NodeFiles) -> bool:
        return (files.data / "mysql" / "global_priv.frm").exists()

    async def initialise(self, spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User) -> None:
        """The bootstrap server into a directory beside, renamed when it is complete and on disk."""
        unfinished = files.volume / "data.initialising"
        await asyncio.to_thread(shutil.rmtree, unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        user.give(unfinished)
        await run(
            bootstrap_command(build, unfinished),
            user=user,
            timeout_s=BOOTSTRAP_TIMEOUT_S,
            env={"TZ": "UTC", **build.environment},
            stdin=bootstrap_script(build),
        )
        await asyncio.to_thread(fsync_tree, unfinished)
        unfinished.rename(files.data)
        fsync_directory(files.volume)

    def start_command(self, spec: NodeSpec, files: NodeFiles, build: EngineBuild) -> StartCommand:
        """A shell that makes the engine's directories as the engine's own user, and becomes the engine."""
        logs = [files.logs / name for name in configuration.LOG_DIRECTORIES]
        directories = [*logs, configuration.temporary(files), configuration.exchange(files)]
        directories += [files.restoring] if self.backups.recovering(files) else []
        making = shlex.join(["mkdir", "-p", "-m", "700", "--", *map(str, directories)])
        return StartCommand(
            argv=(
                "/bin/sh",
                "-c",
                f'{making} && exec "$@"',
                "mariadbd",
                server(build),
                f"--defaults-file={files.configuration / configuration.OPTION_FILE}",
                *(self._role_options(files) if not self.backups.recovering(files) else replay.options(files)),
            ),
            env={**SAFE_ENVIRONMENT, "TZ": "UTC", **build.environment},
        )

    @staticmethod
    def _role_options(files: NodeFiles) -> tuple[str, ...]:
        """By what the data is, not by what the node is wanted to be: a follower takes writes when it was promoted."""
        if not replication.follows(files):
            return ("--read-only=0",)
        return ("--read-only=1", f"--init-file={files.configuration / configuration.FOLLOWER_STARTUP_FILE}")

    def follows(self, files: NodeFiles) -> bool:
        return replication.follows(files)

    async def clone(self, spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User, upstream: Upstream) -> None:
        await replication.clone(spec, files, build, user, upstream)

    async def rejoin(
        self, spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User, upstream: Upstream
    ) -> None:
        """Always a copy: its binary log may hold transactions that were never acknowledged, and nobody else has."""
        await replication.clone(spec, files, build, user, upstream)

    async def promote(self, spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User) -> None:
        await replication.promote(files)

    async def confirm_synchronous(self, spec: NodeSpec, files: NodeFiles, follower: str) -> bool:
        return await replication.confirm_synchronous(files, follower)

    async def settle_writes(self, spec: NodeSpec, files: NodeFiles) -> None:
        """Nothing: a primary that is slow to shut down is killed, and copied anew in any case."""

    async def replication(self, spec: NodeSpec, files: NodeFiles) -> ReplicationStatus | None:
        return await replication.replication_status(files)

    def loss(self, log_text: str) -> str:
        return replication.loss(log_text)

    def monitor(self, spec: NodeSpec, files: NodeFiles) -> Monitor:
        return MariadbMonitor(spec, files)

    async def probe(self, spec: NodeSpec, files: NodeFiles) -> Health:
        try:
            async with session(files.sockets, timeout_s=PROBE_TIMEOUT_S) as connection:
                if self.backups.recovering(files):
                    return Health(ready=False, starting=True, message="the log is being replayed")
                if self.follows(files):
                    # What cannot be applied must not be acknowledged either.
                    message = await replication.hold_back(connection)
                    return Health(ready=True, message=message)
                return await self._health(connection, spec)
        except Error as error:
            message = message_of(error)
            if number_of(error) == ER.CON_COUNT_ERROR:  # all connections are in use, which it says itself
                return Health(ready=True, message=message)
            return Health(ready=False, starting=any(words in message for words in NOT_YET), message=message)

    async def reload(self, spec: NodeSpec, files: NodeFiles) -> Health:
        async with answering(files.sockets) as connection:
            known = await _variables(connection)
            for statement in statements(known, _wanted(files), configuration.OURS):
                try:
                    await connection.execute(statement)
                except Error as error:
                    if silent(error):
                        raise
                    raise Permanent(f"the engine refuses parameters: {statement}: {message_of(error)}") from error
            await self._follow(connection, files)
            await connection.execute("FLUSH SSL")  # the certificate may be another one
            return await self._health(connection, spec)

    async def apply_accounts(self, spec: NodeSpec, files: NodeFiles) -> None:
        async with answering(files.sockets, replicated=True) as connection:
            await unseen(connection)
            for statement in (*accounts.statements(spec), *procedures()):
                await connection.execute(statement)

    async def _follow(self, connection: Session, files: NodeFiles) -> None:
        """The source may be another one now."""
        statements_file = files.configuration / configuration.FOLLOW_STATEMENTS_FILE
        if self.follows(files) and statements_file.exists():
            await unseen(connection)
            await replication.follow(connection, statements_file.read_text())

    @staticmethod
    async def _health(connection: Session, spec: NodeSpec) -> Health:
        return Health(ready=True, pending_restart=pending_restart(await _variables(connection), spec.parameters))


def _wanted(files: NodeFiles) -> dict[str, str]:
    """What the option file says, by the names of the variables."""
    options = parse((files.configuration / configuration.OPTION_FILE).read_text())
    variable_names = {option: name for name, option in OPTION_NAMES.items()}
    return {variable_names.get(name, name).removeprefix("loose_"): value for name, value in options.items()}


async def _variables(connection: Session) -> dict[str, Variable]:
    rows = await connection.execute(QUERY)
    texts = [[None if column is None else str(column) for column in row] for row in rows]
    return {str(text[0]): Variable(*text) for text in texts}  # type: ignore[arg-type]  # the columns of QUERY
