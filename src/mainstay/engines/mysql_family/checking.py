"""Reading a whole instance, to see that it is sound: CHECK TABLE of every table, all of its indexes."""

from __future__ import annotations

from collections.abc import Callable

from mainstay.engines.mysql_family.local_sessions import asking
from mainstay.engines.mysql_family.quoting import identifier
from mainstay.engines.node_files import NodeFiles

CHECK_TIMEOUT_S = 24 * 3600.0
TABLES = """SELECT TABLE_SCHEMA, TABLE_NAME, COALESCE(DATA_LENGTH + INDEX_LENGTH, 0) FROM information_schema.TABLES
 WHERE TABLE_TYPE = 'BASE TABLE' AND TABLE_SCHEMA NOT IN ('information_schema', 'performance_schema')
 AND ENGINE IS NOT NULL ORDER BY 1, 2"""
BROKEN = """SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_COMMENT FROM information_schema.TABLES
 WHERE TABLE_TYPE = 'BASE TABLE' AND ENGINE IS NULL AND TABLE_SCHEMA NOT IN ('information_schema', 'performance_schema')
"""
NO_FINDING = ("status", "note", "info")
NOT_CHECKABLE = "The storage engine for the table doesn't support check"


async def check_tables(files: NodeFiles, note: Callable[[int, int], None]) -> tuple[str, ...]:
    """What the engine finds wrong, in its own words. Raises `Transient` if it goes away."""
    damages = []
    async with asking(files.sockets, timeout_s=CHECK_TIMEOUT_S) as session:
        for schema, name, reason in await session.execute(BROKEN):
            damages.append(f"{schema}.{name}: {reason or 'cannot be opened'}")
        tables = [(str(row[0]), str(row[1]), int(row[2])) for row in await session.execute(TABLES)]
        total, done = sum(size for *_, size in tables), 0
        for schema, name, size in tables:
            note(done, total)
            rows = await session.execute(f"CHECK TABLE {identifier(schema)}.{identifier(name)} EXTENDED")
            for _table, _operation, kind, text in rows:
                if str(kind).lower() not in NO_FINDING or (
                    kind == "status" and text not in ("OK", "Table is already up to date")
                ):
                    damages.append(f"{schema}.{name}: {text}")
            done += size
        note(total, total)
    return tuple(one for one in damages if NOT_CHECKABLE not in one)
