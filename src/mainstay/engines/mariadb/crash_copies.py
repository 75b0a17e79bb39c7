"""A copy of MariaDB's data directory as it is at one moment, as after a power cut: InnoDB and the Aria tables of the
system recover from their own logs, and the last binary log says which prepared transactions were committed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mainstay.backups.sources import walk
from mainstay.engines.mysql_family.layout import BINLOG
from mainstay.engines.mysql_family.lineages import HISTORY, LEADS_FROM, LINEAGE, as_owner
from mainstay.engines.mysql_family.local_sessions import answering
from mainstay.engines.mysql_family.sessions import Error, message_of
from mainstay.engines.node_files import NodeFiles
from mainstay.host.files import fsync_directory, write_atomically
from mainstay.host.processes import User
from mainstay.model.backup import SourceFile
from mainstay.model.errors import Permanent, Transient
from mainstay.model.node import NodeSpec

LEFT_OUT = frozenset({LINEAGE, HISTORY, LEADS_FROM, "mysqld.pid", "ibtmp1", "ddl_recovery-backup.log", "tc.log"})
INDEX = f"{BINLOG}.index"
UNSAFE = """SELECT CONCAT(TABLE_SCHEMA, '.', TABLE_NAME, ' (', ENGINE, ')') FROM information_schema.TABLES
 WHERE TABLE_TYPE = 'BASE TABLE' AND ENGINE NOT IN ('InnoDB', 'SEQUENCE', 'MEMORY')
 AND TABLE_SCHEMA NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema') LIMIT 1"""


class MariadbCrashCopies:
    """`CrashCopies` for MariaDB."""

    async def flush(self, spec: NodeSpec, files: NodeFiles) -> None:
        """Also what parameters let be acknowledged before it is durable. Raises `Permanent` for unsafe tables."""
        try:
            async with answering(files.sockets) as session:
                unsafe = await session.execute(UNSAFE)
                if unsafe:
                    raise Permanent(f"a table does not survive a power cut: {unsafe[0][0]}")
                await session.execute("FLUSH ENGINE LOGS")
        except Error as error:
            raise Transient(f"the engine does not answer: {message_of(error)}") from error

    def refusal(self, data: Path) -> str:
        """Nothing that its directory says stands in the way."""
        return ""

    def files(self, data: Path) -> Iterator[SourceFile]:
        yield from walk(data, (LEFT_OUT | {INDEX}).__contains__)
        yield SourceFile(path=INDEX, mode=0o600, content=_index(data))

    def prepare(self, data: Path, user: User) -> None:
        with as_owner(data):
            for name in LEFT_OUT:
                (data / name).unlink(missing_ok=True)
            write_atomically(data / INDEX, _index(data))
            data.chmod(0o700)
            fsync_directory(data)


def _index(data: Path) -> bytes:
    """The engine's own names the files where they were. The last one is read to recover."""
    logs = sorted(path.name for path in data.glob(f"{BINLOG}.*") if path.suffix[1:].isdigit())
    return "".join(f"./{name}\n" for name in logs).encode()
