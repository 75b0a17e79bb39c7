"""psql, psycopg and asyncpg as users have them, over TLS that checks the server's name and authority."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Iterator
from typing import Any

import asyncpg
import psycopg
import pytest

from harness.service import PASSWORD, Service

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def instance(service: Service) -> Iterator[dict[str, Any]]:
    yield service.create_instance("drivers", DBName="shop")
    service.delete_instance("drivers")


def test_psql_verifies_the_server_and_runs_a_script(service: Service, instance: dict[str, Any]) -> None:
    psql = shutil.which("psql")
    if psql is None:
        pytest.skip("no psql on the PATH")
    endpoint = instance["Endpoint"]
    environment = {
        "PATH": service.environment["PATH"],
        "PGHOST": endpoint["Address"],
        "PGPORT": str(endpoint["Port"]),
        "PGUSER": "app",
        "PGDATABASE": "shop",
        "PGPASSWORD": PASSWORD,
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": service.variables["MAINSTAY_CA_BUNDLE"],
    }
    script = "CREATE TABLE p (a int); INSERT INTO p SELECT generate_series(1, 1000);"
    query = "SELECT sum(a), (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()) FROM p"
    done = subprocess.run(
        [psql, "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", script, "-c", query, "-c", "DROP TABLE p"],
        env=environment, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "500500|t"), done.stderr
    system = "/etc/ssl/certs/ca-certificates.crt"
    refused = subprocess.run(
        [psql, "-XAtqc", "SELECT 1"],
        env=environment | {"PGSSLROOTCERT": system}, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert refused.returncode == 2 and "certificate" in refused.stderr


def test_psycopg_prepares_copies_and_pipelines(service: Service, instance: dict[str, Any]) -> None:
    with service.connect(instance, dbname="shop") as connection:
        connection.execute("CREATE TEMP TABLE c (a int, b text)")
        with connection.cursor().copy("COPY c FROM STDIN") as copy:
            for number in range(5000):
                copy.write_row((number, "x" * 100))
        with connection.pipeline():
            cursors = [connection.execute("SELECT b FROM c WHERE a = %s", (n,), prepare=True) for n in range(50)]
        assert all(cursor.fetchone() == ("x" * 100,) for cursor in cursors)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("COPY c TO PROGRAM 'cat'")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        service.connect(instance, password="wrong-" + PASSWORD)


async def test_asyncpg_verifies_the_server_and_listens(service: Service, instance: dict[str, Any]) -> None:
    endpoint = instance["Endpoint"]
    context = ssl.create_default_context(cafile=service.variables["MAINSTAY_CA_BUNDLE"])
    reached: dict[str, Any] = {
        "host": endpoint["Address"], "port": endpoint["Port"], "user": "app", "password": PASSWORD,
        "database": "shop", "timeout": 10,
    }  # fmt: skip
    connection = await asyncpg.connect(**reached, ssl=context)
    try:
        assert await connection.fetchval("SELECT sum(n) FROM unnest($1::int[]) n", list(range(1000))) == 499500
        async with connection.transaction():
            rows = [row["n"] async for row in connection.cursor("SELECT generate_series(1, 500) n")]
        assert rows == list(range(1, 501))
    finally:
        await connection.close()
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncpg.connect(**reached, ssl=ssl.create_default_context())
