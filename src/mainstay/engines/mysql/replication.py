"""Copying MySQL followers: the source clones itself into the follower's directory (MySQL manual 7.6.7.2).

A clone has its position in its own tables (mysql.gtid_executed) and takes no write lock.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from mainstay.engines.mysql_family.followers import copied, put_in_place, remove
from mainstay.engines.mysql_family.local_sessions import answering, session
from mainstay.engines.mysql_family.quoting import literal
from mainstay.engines.mysql_family.sessions import Error, message_of
from mainstay.engines.node_files import NodeFiles
from mainstay.host.processes import User
from mainstay.model.assignment import Upstream
from mainstay.model.errors import Transient

COPY_TIMEOUT_S = 24 * 3600.0


async def clone(files: NodeFiles, user: User, upstream: Upstream) -> None:
    """CLONE LOCAL into a directory beside, put in place when it is complete and on disk. Raises `Transient`."""
    await copied(lambda: _clone(files, user, upstream))


async def _clone(files: NodeFiles, user: User, upstream: Upstream) -> None:
    """The source runs as the same system user, on the same host: it writes the copy itself."""
    unfinished = files.volume / "data.cloning"
    await remove(unfinished)
    source = Path(upstream.host)
    try:
        async with answering(source, timeout_s=COPY_TIMEOUT_S) as connection:
            thread = int(await connection.value("SELECT CONNECTION_ID()"))
            try:
                await connection.execute(f"CLONE LOCAL DATA DIRECTORY = {literal(str(unfinished))}")
            except asyncio.CancelledError:  # the source would go on, into a directory that is another's then
                await _end(source, thread)
                raise
    except Error as error:
        raise Transient(f"copying failed: {message_of(error)}", retry_after_s=2.0) from error
    await put_in_place(unfinished, files, user)


async def _end(source: Path, thread: int) -> None:
    with suppress(Error):
        async with session(source) as connection:
            await connection.execute(f"KILL {thread}")
