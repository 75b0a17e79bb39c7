"""Copying MySQL followers: a server that lives for the copy alone clones the source over TCP (MySQL manual 7.6.7.3).

A clone has its position in its own tables (mysql.gtid_executed) and takes no write lock. The source cannot write it
itself (CLONE LOCAL): an engine writes to its own node's directories only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from mainstay.engines.mysql import template
from mainstay.engines.mysql.bootstrap import QUICKLY, SHARE, server
from mainstay.engines.mysql.configuration import PLUGIN_LOAD
from mainstay.engines.mysql.words import FOLLOWERS
from mainstay.engines.mysql_family.accounts import EVERY_HOST
from mainstay.engines.mysql_family.followers import copied, empty_directory, put_in_place, remove
from mainstay.engines.mysql_family.layout import arguments, place_options
from mainstay.engines.mysql_family.local_sessions import answering
from mainstay.engines.mysql_family.quoting import account, literal
from mainstay.engines.mysql_family.sessions import Error, Session, message_of, open_at_socket, silent
from mainstay.engines.node_files import NodeFiles
from mainstay.host.fencing import fence
from mainstay.host.processes import SAFE_ENVIRONMENT, User
from mainstay.model.assignment import Upstream
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import Transient
from mainstay.model.node import NodeSpec

START_TIMEOUT_S = 60.0
COPY_TIMEOUT_S = 24 * 3600.0
RIGHT = "BACKUP_ADMIN"
COPIER_SOCKET = "copier.sock"


async def clone(spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User, upstream: Upstream) -> None:
    """A clone into a directory beside, put in place when it is complete and on disk. Raises `Transient`."""
    await copied(lambda: _clone(spec, files, build, user, upstream))


async def _clone(spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User, upstream: Upstream) -> None:
    unfinished, copier = files.volume / "data.cloning", files.volume / "data.copier"
    await fence(files.volume)  # a copier that an agent has left which was killed
    await remove(unfinished)
    follower = account(FOLLOWERS.user_of(spec.node_id), EVERY_HOST)
    try:
        async with answering(Path(upstream.host)) as source:
            address, port, password = await FOLLOWERS.let_in(source, spec)
            await source.execute(f"GRANT {RIGHT} ON *.* TO {follower}")
        async with _copier(copier, files.sockets / COPIER_SOCKET, build, user) as session:
            await session.execute(f"SET GLOBAL clone_valid_donor_list = {literal(f'{address}:{port}')}")
            name = account(FOLLOWERS.user_of(spec.node_id), address)
            await session.execute(
                f"CLONE INSTANCE FROM {name}:{port} IDENTIFIED BY {literal(password)}"
                f" DATA DIRECTORY = {literal(str(unfinished))} REQUIRE SSL"
            )
        with suppress(Error, Transient):  # whatever became of the source, the copy is complete
            async with answering(Path(upstream.host)) as source:
                await source.execute(f"REVOKE {RIGHT} ON *.* FROM {follower}")
    except Error as error:
        raise Transient(f"copying failed: {message_of(error)}", retry_after_s=2.0) from error
    finally:
        await remove(copier)
    await put_in_place(unfinished, files, user)


@asynccontextmanager
async def _copier(directory: Path, socket: Path, build: EngineBuild, user: User) -> AsyncIterator[Session]:
    """A session in a server of its own, which is gone at the end of the block. Raises `Transient`, `Permanent`."""
    await empty_directory(directory, user)
    data = directory / "data"
    await template.make(build, data, user)
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
