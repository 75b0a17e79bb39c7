"""Reading a whole PostgreSQL instance, to see that it is sound: with PostgreSQL's own pg_amcheck, in every database.

It reads every tuple of every table, TOAST table and catalogue, with page checksums, and the structure of every B-tree;
indexes of other kinds it does not look at. No function of a user is called: sessions are rdsadmin's, a superuser's.
"""

from __future__ import annotations

from collections.abc import Callable

from mainstay.engines.node_files import NodeFiles
from mainstay.engines.postgresql.configuration import ADMIN_ROLE
from mainstay.engines.postgresql.sessions import answering, value
from mainstay.host.processes import User, run
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import Permanent
from mainstay.model.node import NodeSpec

CHECK_TIMEOUT_S = 24 * 3600.0
SIZE = "SELECT sum(pg_database_size(oid))::bigint FROM pg_database WHERE datallowconn"
SESSION = " ".join(
    f"-c {setting}"
    for setting in (
        "statement_timeout=0", "lock_timeout=0", "idle_session_timeout=0", "default_transaction_read_only=off",
        "role=none", "search_path=pg_catalog,pg_temp",
    )
)  # fmt: skip
"""What the owner of a database has set for its sessions must not be in the way."""


async def check_databases(
    spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User, note: Callable[[int, int], None]
) -> tuple[str, ...]:
    """What pg_amcheck finds wrong, its own words; nothing if every database can be connected to and read."""
    async with answering(files.sockets, spec.port) as session:
        size = int(str(await value(session, SIZE)))
    note(0, size)
    try:
        await run(
            [
                str(build.bin_directory / "pg_amcheck"),
                f"--host={files.sockets}",
                f"--port={spec.port}",
                f"--username={ADMIN_ROLE}",
                f"--maintenance-db={ADMIN_ROLE}",
                "--no-password",
                "--all",
                "--install-missing",
            ],
            user=user,
            timeout_s=CHECK_TIMEOUT_S,
            env={"TZ": "UTC", "PGOPTIONS": SESSION, **build.environment},
        )
    except Permanent as error:
        async with answering(files.sockets, spec.port):  # what an engine that has gone away said is no finding
            return (error.message,)
    note(size, size)
    return ()
