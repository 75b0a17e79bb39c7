"""A copy of a running engine: a server that lives for the copy alone clones it over TCP (MySQL manual 7.6.7.3).

A clone has its position in its own tables (mysql.gtid_executed) and takes no write lock. The source cannot write it
itself (CLONE LOCAL): an engine writes to its own node's directories only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from mainstay.engines.copy_room import remove
from mainstay.engines.mysql import template
from mainstay.engines.mysql.bootstrap import QUICKLY, SHARE, lock_of, server
from mainstay.engines.mysql.configuration import PLUGIN_LOAD
from mainstay.engines.mysql.followers import FOLLOWERS
from mainstay.engines.mysql_family.accounts import EVERY_HOST
from mainstay.engines.mysql_family.followers import empty_directory
from mainstay.engines.mysql_family.layout import arguments, place_options
from mainstay.engines.mysql_family.local_sessions import answering
from mainstay.engines.mysql_family.quoting import account, literal
from mainstay.engines.mysql_family.sessions import Error, Session, message_of, open_at_socket, silent
from mainstay.host.processes import SAFE_ENVIRONMENT, User
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import Permanent, Transient
from mainstay.model.node import NodeSpec

START_TIMEOUT_S = 60.0
COPY_TIMEOUT_S = 24 * 3600.0
RIGHT = "BACKUP_ADMIN"
ALIKE = ("character_set_server", "character_set_filesystem", "collation_server")
"""What a copier must have as the engine that it clones has it, or it is refused; in this order, as a character set
brings its collation."""

COPIER_SOCKET = "copier.sock"
NOT_CLONED = """SELECT TABLE_SCHEMA, TABLE_NAME, ENGINE FROM information_schema.TABLES
 WHERE TABLE_TYPE = 'BASE TABLE' AND ENGINE IN ('MyISAM', 'MRG_MyISAM', 'ARCHIVE', 'CSV')
 AND TABLE_SCHEMA NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema') LIMIT 1"""
"""A clone has such tables without a single row in them."""


async def copy_running(
    spec: NodeSpec, source: Path, destination: Path, sockets: Path, build: EngineBuild, user: User, *, once: bool
) -> None:
    """Clones the engine whose socket is in `source`; `destination` is not there yet, its parent is the user's.

    The copier has its data in a directory beside, which is gone afterwards, and its socket in `sockets`. It logs in as
    if the node of the `spec` were to follow; that account is removed if it was needed this `once` only. The copy is not
    forced to the disk. Raises `Transient`, and `Permanent` for what a clone would not contain.
    """
    copier = destination.with_name(f"{destination.name}.copier")
    user_name = FOLLOWERS.user_of(spec.node_id)
    follower = account(user_name, EVERY_HOST)
    try:
        async with answering(source) as session:
            await _require_cloneable(session)
            address, port, password = await FOLLOWERS.let_in(session, spec)
            await session.execute(f"GRANT {RIGHT} ON *.* TO {follower}")
            alike = {name: str(await session.value(f"SELECT @@GLOBAL.{name}")) for name in ALIKE}
        try:
            async with _copier(copier, sockets / COPIER_SOCKET, build, user) as session:
                for name, value in alike.items():
                    await session.execute(f"SET GLOBAL {name} = {literal(value)}")
                await session.execute(f"SET GLOBAL clone_valid_donor_list = {literal(f'{address}:{port}')}")
                await session.execute(
                    f"CLONE INSTANCE FROM {account(user_name, address)}:{port} IDENTIFIED BY {literal(password)}"
                    f" DATA DIRECTORY = {literal(str(destination))} REQUIRE SSL"
                )
        finally:
            with suppress(Error, Transient):  # whatever became of the source
                async with answering(source) as session:
                    done = f"DROP USER {follower}" if once else f"REVOKE {RIGHT} ON *.* FROM {follower}"
                    await session.execute(done)
    except Error as error:
        raise Transient(f"copying failed: {message_of(error)}", retry_after_s=2.0) from error
    finally:
        await remove(copier)


async def _require_cloneable(session: Session) -> None:
    for schema, name, engine in await session.execute(NOT_CLONED):
        raise Permanent(
            f"the table {schema}.{name} is kept by the storage engine {engine}, whose rows are in no copy",
            hint=f"ALTER TABLE {schema}.{name} ENGINE = InnoDB",
        )


@asynccontextmanager
async def _copier(directory: Path, socket: Path, build: EngineBuild, user: User) -> AsyncIterator[Session]:
    """A session in a server of its own, which is gone at the end of the block. Raises `Transient`, `Permanent`."""
    await empty_directory(directory, user)
    data = directory / "data"
    await template.make(build, data, user)
    lock_of(socket).unlink(missing_ok=True)
    options = place_options(build, *SHARE) | QUICKLY | {"plugin_load": PLUGIN_LOAD, "mysqlx": "0"}
    credentials: dict[str, Any] = {}
    if user.user_id is not None:
        credentials = {"user": user.user_id, "group": user.group_id, "extra_groups": []}
    process = await asyncio.create_subprocess_exec(
        *[server(build), "--no-defaults", *arguments(options), f"--datadir={data}", f"--socket={socket}"],
        *["--skip-networking", f"--pid-file={directory / 'pid'}", f"--log-error={directory / 'log'}"],
        stdin=asyncio.subprocess.DEVNULL,
        env={**SAFE_ENVIRONMENT, "TZ": "UTC", **build.environment},
        cwd=directory,
        start_new_session=True,
        **credentials,
    )
    try:
        session = await _connected(process, socket)
        try:
            yield session
        finally:
            session.cut()
    finally:
        with suppress(ProcessLookupError):
            process.kill()  # nobody needs what it has
        await process.wait()


async def _connected(process: asyncio.subprocess.Process, socket: Path) -> Session:
    with suppress(TimeoutError):
        async with asyncio.timeout(START_TIMEOUT_S):
            while process.returncode is None:
                try:
                    return await open_at_socket(socket, "root", timeout_s=COPY_TIMEOUT_S, first="SET sql_log_bin = 0")
                except Error as error:
                    if not silent(error):
                        raise
                await asyncio.sleep(0.02)
    raise Transient("the server that makes the copy did not start", retry_after_s=2.0)
