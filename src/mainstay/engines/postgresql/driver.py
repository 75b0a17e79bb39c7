"""Operating a PostgreSQL node on this host. See `EngineDriver` for what each method guarantees."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from pathlib import Path

import psycopg

from mainstay.engines.base import Health, Monitor, StartCommand
from mainstay.engines.node_files import NodeFiles
from mainstay.engines.postgresql import accounts, configuration, iam_logins, looking, replication
from mainstay.engines.postgresql.backups import PostgresqlBackups
from mainstay.engines.postgresql.dumps import PostgresqlDumps
from mainstay.engines.postgresql.monitor import PostgresqlMonitor
from mainstay.engines.postgresql.quoting import identifier
from mainstay.engines.postgresql.sessions import CANNOT_CONNECT_NOW, Session, operating, refusal, session
from mainstay.host.files import fsync_directory
from mainstay.host.processes import SAFE_ENVIRONMENT, User, run
from mainstay.host.users import names_of
from mainstay.model.assignment import Assignment, Upstream
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import Permanent
from mainstay.model.node import NodeSpec, ReplicationStatus

INITDB_TIMEOUT_S = 120.0
FILE_FAULTS = """SELECT f.name, f.error FROM pg_file_settings AS f LEFT JOIN pg_settings AS s USING (name)
 WHERE f.error IS NOT NULL AND s.context IS DISTINCT FROM 'postmaster'"""
"""What the engine does not take; that a setting waits for a restart is no fault."""

COMPLAINT = re.compile(
    r"""^.*?(?:LOG:\s+(?P<of_setting>.*parameter\ ".*)|(?:FATAL|PANIC):\s+(?P<of_start>\S.*))$""",
    re.MULTILINE | re.VERBOSE,
)
"""What keeps it from starting; of a value that it does not take it says so in a line of its own before."""

PENDING_RESTART = """SELECT name FROM pg_settings
 WHERE pending_restart AND name NOT IN ('hot_standby', 'recovery_target_timeline') ORDER BY name"""
"""Both are ours, and without meaning on a node that was promoted, or has been restored."""


class PostgresqlDriver:
    """`EngineDriver` for PostgreSQL."""

    name = "postgres"
    # Fast shutdown, then immediate (recovered from WAL at the next start), then the kernel's word (manual 18.5).
    stop_signals = ((signal.SIGINT, 60.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 5.0))

    reload_signal = int(signal.SIGHUP)
    keeps_received = True
    asks_about_logins = False  # it asks control, by LDAP
    switch_patience_s = 3.0
    backups = PostgresqlBackups()
    dumps = PostgresqlDumps()

    async def configuration(
        self, spec: NodeSpec, assignment: Assignment, files: NodeFiles, build: EngineBuild
    ) -> dict[str, str]:
        owner = files.volume.stat().st_uid
        floors: dict[str, int] = {}
        if self.initialised(files) and (not assignment.writable or self._looks(spec, files)):
            floors = await replication.source_floors(files, build)
        operators = names_of((os.geteuid(), owner))
        return configuration.render(spec, assignment, files, operators, floors)

    def initialised(self, files: NodeFiles) -> bool:
        return (files.data / "PG_VERSION").exists()

    async def initialise(self, spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User) -> None:
        """initdb into a directory beside, renamed when it is complete and on disk (initdb syncs it itself)."""
        unfinished = files.volume / "data.initialising"
        await asyncio.to_thread(shutil.rmtree, unfinished, ignore_errors=True)
        await run(
            [
                str(build.bin_directory / "initdb"),
                f"--pgdata={unfinished}",
                f"--username={configuration.ADMIN_ROLE}",
                "--auth=reject",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--data-checksums",
            ],
            user=user,
            timeout_s=INITDB_TIMEOUT_S,
            env={"TZ": "UTC", **build.environment},
        )
        unfinished.rename(files.data)
        fsync_directory(files.volume)

    def start_command(self, spec: NodeSpec, files: NodeFiles, build: EngineBuild) -> StartCommand:
        recovery: tuple[str, ...] = ()
        if spec.restore is not None and self.backups.recovering(files):
            recovery = self.backups.recovery_options(spec.restore, files)
        return StartCommand(
            argv=(
                str(build.bin_directory / "postgres"),
                "-D",
                str(files.data),
                "-c",
                f"config_file={files.configuration / 'postgresql.conf'}",
                *recovery,
            ),
            env={**SAFE_ENVIRONMENT, "TZ": "UTC", **build.environment, **iam_logins.environment(files)},
            writable=(Path("/dev/null"), Path("/dev/shm")),  # shared memory of parallel queries  # noqa: S108
        )

    def _looks(self, spec: NodeSpec, files: NodeFiles) -> bool:
        """Whether it is a restore that is looked at before it is opened."""
        return spec.restore is not None and spec.restore.paused and self.backups.recovering(files)

    def follows(self, files: NodeFiles) -> bool:
        return replication.follows(files)

    async def clone(self, spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User, upstream: Upstream) -> None:
        await replication.clone(spec, files, build, user, upstream)

    async def rejoin(
        self, spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User, upstream: Upstream
    ) -> None:
        await replication.rejoin(spec, files, build, user, upstream)

    async def promote(self, spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User) -> None:
        await replication.promote(files, build, user)

    async def confirm_synchronous(self, spec: NodeSpec, files: NodeFiles, follower: str) -> bool:
        return await replication.confirm_synchronous(spec, files, follower)

    async def settle_writes(self, spec: NodeSpec, files: NodeFiles) -> None:
        await replication.settle_writes(spec, files)

    async def replication(self, spec: NodeSpec, files: NodeFiles) -> ReplicationStatus | None:
        return await replication.replication_status(spec, files)

    def loss(self, log_text: str) -> str:
        return replication.loss(log_text)

    def monitor(self, spec: NodeSpec, files: NodeFiles) -> Monitor:
        return PostgresqlMonitor(spec, files)

    async def probe(self, spec: NodeSpec, files: NodeFiles) -> Health:
        if not self.follows(files) and _is_starting(files):
            return Health(ready=False, starting=True, message="the database is starting up")
        try:
            async with session(files.sockets, spec.port) as connection:
                if self._looks(spec, files):
                    return await looking.health(connection)
                if spec.iam_login_port:
                    await iam_logins.note_members(connection, files)
                return Health(ready=True, pending_restart=await _pending_restart(connection))
        except psycopg.Error as error:
            if "not accepting connections" in str(error):  # hot_standby is off and recovery has reached consistency
                return Health(ready=True, cold=True)
            starting = (
                error.sqlstate == CANNOT_CONNECT_NOW or "starting up" in str(error) or "No such file" in str(error)
            )
            refused = not starting and refusal(error)
            return Health(ready=False, starting=starting, refused=refused, message=str(error).strip())

    def last_words(self, log_text: str) -> list[str]:
        found = (one["of_setting"] or one["of_start"] for one in COMPLAINT.finditer(log_text))
        return [said for said in found if not said.endswith("contains errors")]

    async def reload(self, spec: NodeSpec, files: NodeFiles) -> Health:
        async with operating(files.sockets, spec.port) as connection:
            await replication.reload(connection)
            faults = await connection.execute(FILE_FAULTS)
            rows = [f"{name}: {error}" for name, error in await faults.fetchall() if "restart" not in error]
            if rows:
                raise Permanent(f"the engine refuses parameters: {'; '.join(rows)}")
            if spec.iam_login_port:
                await iam_logins.note_members(connection, files)
            return Health(ready=True, pending_restart=await _pending_restart(connection))

    async def apply_accounts(self, spec: NodeSpec, files: NodeFiles) -> None:
        async with operating(files.sockets, spec.port) as connection:
            for statement in accounts.statements(spec, connection.info.server_version):
                await connection.execute(statement.encode())
            existing = await connection.execute("SELECT datname FROM pg_database")
            names = {row[0] for row in await existing.fetchall()}
            for database, owner in accounts.databases(spec):
                if database not in names:
                    # FILE_COPY of the small template is faster than WAL_LOG here, but WAL_LOG needs no checkpoint.
                    await connection.execute(f"CREATE DATABASE {identifier(database)}".encode())
                await connection.execute(f"ALTER DATABASE {identifier(database)} OWNER TO {identifier(owner)}".encode())
            admin = identifier(configuration.ADMIN_ROLE)
            await connection.execute(f"REVOKE ALL ON DATABASE {admin} FROM PUBLIC".encode())


def _is_starting(files: NodeFiles) -> bool:
    """From the eighth line of postmaster.pid: to ask the engine itself would be a line in the user's log each time."""
    try:
        lines = (files.data / "postmaster.pid").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return False
    return len(lines) > 7 and lines[7].strip() in ("starting", "standby")


async def _pending_restart(connection: Session) -> tuple[str, ...]:
    rows = await connection.execute(PENDING_RESTART)
    return tuple(row[0] for row in await rows.fetchall())
