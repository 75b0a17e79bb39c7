"""Unmodified clients through RDS Proxy: psql, pg_dump, pgbench in all its protocols, asyncpg."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from harness.proxy import ProxyUnderTest
from harness.service import PASSWORD, Service, eventually
from mainstay.engines.builds import Builds

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def proxy(service: Service) -> Iterator[ProxyUnderTest]:
    instance = service.create_instance()
    with ProxyUnderTest(service, instance, pool={"max_connections_percent": 10}) as proxy:
        yield proxy
    service.delete_instance(instance["DBInstanceIdentifier"])


@pytest.fixture(scope="module")
def programs(service: Service) -> Path:
    """Where the programs of the engine's own build are."""
    builds = Builds(service.settings).installed()
    return next(build.bin_directory for build in builds if build.version == service.engine_version)


def run(proxy: ProxyUnderTest, program: Path, *arguments: str, stdin: str = "") -> str:
    options = proxy.tls_parameters()
    environment = {
        "PGHOST": options["host"], "PGPORT": str(options["port"]), "PGUSER": "app", "PGPASSWORD": PASSWORD,
        "PGDATABASE": "postgres", "PGSSLMODE": "verify-ca", "PGSSLROOTCERT": options["sslrootcert"],
        "LC_ALL": "C.UTF-8",
    }  # fmt: skip
    done = subprocess.run(
        [str(program), *arguments],
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_psql(proxy: ProxyUnderTest, programs: Path) -> None:
    script = r"""
\set ON_ERROR_STOP on
CREATE TABLE scripted (i int, t text);
\copy scripted from stdin
1	one
2	zwölf
\.
BEGIN;
SET LOCAL statement_timeout = '10s';
SAVEPOINT a;
INSERT INTO scripted VALUES (3, 'gone');
ROLLBACK TO a;
COMMIT;
\d scripted
SELECT * FROM scripted ORDER BY i \gx
\copy scripted to stdout
DROP TABLE scripted;
"""
    found = run(proxy, programs / "psql", "-X", "-f", "-", stdin=script)
    assert "zwölf" in found and "gone" not in found


def test_pg_dump_leaves_nothing(proxy: ProxyUnderTest, programs: Path) -> None:
    """It sets a dozen parameters, which used to poison whoever came next behind other poolers."""
    with proxy.connect() as session:
        session.execute("CREATE TABLE IF NOT EXISTS dumped AS SELECT generate_series(1, 1000) AS i")
        before = session.execute("SHOW search_path").fetchone()
    assert "COPY public.dumped" in run(proxy, programs / "pg_dump")
    for _ in range(5):
        with proxy.connect() as session:
            assert session.execute("SHOW search_path").fetchone() == before
            assert session.execute("SELECT count(*) FROM dumped").fetchone() == (1000,)
            session.execute("INSERT INTO dumped VALUES (0)")
            session.execute("DELETE FROM dumped WHERE i = 0")


@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
def test_pgbench(proxy: ProxyUnderTest, programs: Path, mode: str) -> None:
    run(proxy, programs / "pgbench", "-i", "-q", "-s", "1")
    # A thread for each client: pgbench waits for PQprepare, and would so hold up those that have a connection.
    found = run(proxy, programs / "pgbench", "-n", "-M", mode, "-c", "20", "-j", "20", "-t", "30")
    assert "number of transactions actually processed: 600/600" in found
    assert proxy.pins() == []
    assert proxy.stats()["DatabaseConnections"] <= proxy.stats()["MaxDatabaseConnectionsAllowed"] < 20


async def test_asyncpg(proxy: ProxyUnderTest) -> None:
    """It prepares everything, introspects types, and resets its sessions with a statement of its own."""

    async def client(pool: asyncpg.Pool[Any], number: int) -> None:
        for turn in range(20):
            async with pool.acquire() as session, session.transaction():
                assert await session.fetchval("SELECT $1::int + $2::int", number, turn) == number + turn
                rows = [row async for row in session.cursor("SELECT generate_series(1, 120)")]
                assert len(rows) == 120
        async with pool.acquire() as session:
            assert await session.fetchval("SELECT array_agg(x) FROM unnest($1::text[]) x", ["a", "b"]) == ["a", "b"]

    async with asyncpg.create_pool(
        host="127.0.0.1", port=proxy.port, user="app", password=PASSWORD, database="postgres", ssl=False, max_size=10
    ) as pool:
        await asyncio.gather(*(client(pool, number) for number in range(20)))
    await asyncio.to_thread(eventually, lambda: proxy.stats()["DatabaseConnectionsCurrentlyBorrowed"] == 0)
