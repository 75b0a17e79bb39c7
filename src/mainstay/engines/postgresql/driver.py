"""Operating a PostgreSQL node on this host. See `EngineDriver` for what each method guarantees."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from psycopg.rows import TupleRow

from mainstay.engines.base import Health, NodeFiles, StartCommand
from mainstay.engines.postgresql import accounts, configuration
from mainstay.engines.postgresql.quoting import identifier
from mainstay.host.files import fsync_directory
from mainstay.host.processes import SAFE_ENVIRONMENT, User, run
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import Permanent, Transient
from mainstay.model.node import NodeSpec

INITDB_TIMEOUT_S = 120.0
CONNECT_TIMEOUT_S = 5
RELOAD_TIMEOUT_S = 10.0
STATEMENT_TIMEOUT_MS = 30_000
CANNOT_CONNECT_NOW = "57P03"


class PostgresqlDriver:
    """`EngineDriver` for PostgreSQL."""

    name = "postgres"
    # Fast shutdown, then immediate (recovered from WAL at the next start), then the kernel's word (manual 18.5).
    stop_signals = ((signal.SIGINT, 60.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 5.0))

    def configuration(self, spec: NodeSpec, files: NodeFiles, build: EngineBuild) -> dict[str, str]:
        owner = files.volume.stat().st_uid
        return configuration.render(spec, files, configuration.operators((os.geteuid(), owner)))

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
        return StartCommand(
            argv=(
                str(build.bin_directory / "postgres"),
                "-D",
                str(files.data),
                "-c",
                f"config_file={files.configuration / 'postgresql.conf'}",
            ),
            env={**SAFE_ENVIRONMENT, "TZ": "UTC", **build.environment},
        )

    async def probe(self, spec: NodeSpec, files: NodeFiles) -> Health:
        try:
            async with _connect(spec, files) as connection:
                return Health(ready=True, pending_restart=await _pending_restart(connection))
        except psycopg.OperationalError as error:
            starting = (
                error.sqlstate == CANNOT_CONNECT_NOW or "starting up" in str(error) or "No such file" in str(error)
            )
            return Health(ready=False, starting=starting, message=str(error).strip())

    async def reload(self, spec: NodeSpec, files: NodeFiles) -> Health:
        """pg_reload_conf() only signals; the postmaster has read the files when its load time has moved."""
        async with _answering(spec, files) as connection:
            before = await _value(connection, "SELECT pg_conf_load_time()")
            await connection.execute("SELECT pg_reload_conf()")
            deadline = asyncio.get_running_loop().time() + RELOAD_TIMEOUT_S
            while await _value(connection, "SELECT pg_conf_load_time()") == before:
                if asyncio.get_running_loop().time() > deadline:
                    raise Transient(f"the engine did not reload its settings within {RELOAD_TIMEOUT_S} s")
                await asyncio.sleep(0.01)
            faults = await connection.execute("SELECT name, error FROM pg_file_settings WHERE error IS NOT NULL")
            rows = [f"{name}: {error}" for name, error in await faults.fetchall() if "restart" not in error]
            if rows:
                raise Permanent(f"the engine refuses parameters: {'; '.join(rows)}")
            return Health(ready=True, pending_restart=await _pending_restart(connection))

    async def apply_accounts(self, spec: NodeSpec, files: NodeFiles) -> None:
        async with _answering(spec, files) as connection:
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


async def _pending_restart(connection: psycopg.AsyncConnection[TupleRow]) -> tuple[str, ...]:
    rows = await connection.execute("SELECT name FROM pg_settings WHERE pending_restart ORDER BY name")
    return tuple(row[0] for row in await rows.fetchall())


async def _value(connection: psycopg.AsyncConnection[TupleRow], query: str) -> object:
    row = await (await connection.execute(query.encode())).fetchone()
    return None if row is None else row[0]


@asynccontextmanager
async def _answering(spec: NodeSpec, files: NodeFiles) -> AsyncIterator[psycopg.AsyncConnection[TupleRow]]:
    """As `_connect`; an engine that does not answer, or ends meanwhile, is `Transient`."""
    try:
        async with _connect(spec, files) as connection:
            yield connection
    except psycopg.OperationalError as error:
        raise Transient(f"the engine does not answer: {str(error).strip()}") from error


@asynccontextmanager
async def _connect(spec: NodeSpec, files: NodeFiles) -> AsyncIterator[psycopg.AsyncConnection[TupleRow]]:
    """A session of rdsadmin over the node's own Unix socket (peer authentication), out of reach of the master user.

    Never in a database that the master user owns: its owner could set a search_path there that makes rdsadmin, a
    superuser, call his functions, or could drop it. Until `apply_accounts` made our own there is only template1.
    """
    try:
        connection = await _open(spec, files, configuration.ADMIN_ROLE)
    except psycopg.OperationalError as error:
        if f'database "{configuration.ADMIN_ROLE}" does not exist' not in str(error):
            raise
        connection = await _open(spec, files, "template1")
    try:
        yield connection
    finally:
        await connection.close()


async def _open(spec: NodeSpec, files: NodeFiles, database: str) -> psycopg.AsyncConnection[TupleRow]:
    return await psycopg.AsyncConnection.connect(
        host=str(files.sockets),
        port=spec.port,
        user=configuration.ADMIN_ROLE,
        dbname=database,
        autocommit=True,
        connect_timeout=CONNECT_TIMEOUT_S,
        application_name="mainstay-agent",
        options=f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c search_path=pg_catalog,pg_temp",
    )
