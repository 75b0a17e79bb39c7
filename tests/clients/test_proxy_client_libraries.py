"""SQLAlchemy, Django, JDBC, node-postgres and pgx through RDS Proxy, over TLS that checks the server's name.

Sixteen clients each on four connections, none of which leaves before the others are done: whatever pinned them for
good would stop the rest. The libraries are fetched once; where they cannot be, the skip says why.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator

import pytest

from harness.client_libraries import Command, NotInstallable, go, go_is_here, java, node, python
from harness.proxy import ProxyUnderTest
from harness.service import PASSWORD, Service, eventually

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

CONNECTIONS = 4
RUN_TIMEOUT_S = 120
LISTENED = "Pinned: SQL registered the session as a listener."
HELD = "Pinned: SQL declared a cursor that outlives its transaction."


@pytest.fixture(scope="module")
def proxy(service: Service) -> Iterator[ProxyUnderTest]:
    instance = service.create_instance()
    with ProxyUnderTest(service, instance, pool={"max_connections_percent": 5}) as proxy:
        yield proxy
    service.delete_instance(instance["DBInstanceIdentifier"])


@pytest.fixture
def pgx(pytestconfig: pytest.Config) -> Callable[[str], Command]:
    """Its compiler is large, and builds for a minute."""

    def found(program: str) -> Command:
        if not go_is_here() and not pytestconfig.getoption("--faults-full"):
            raise NotInstallable("pgx and its compiler are fetched with --faults-full only")
        return go(program)

    return found


@pytest.mark.parametrize(
    ("found", "program", "pins"),
    [
        pytest.param(lambda p: python(p, "psycopg"), "sqlalchemy_orm.py", set(), id="sqlalchemy-psycopg"),
        pytest.param(lambda p: python(p, "asyncpg"), "sqlalchemy_orm.py", set(), id="sqlalchemy-asyncpg"),
        # Outside of a transaction its server-side cursor is one WITH HOLD, until it is closed.
        pytest.param(python, "django_orm.py", {HELD}, id="django"),
        pytest.param(java, "JdbcClient.java", {LISTENED}, id="jdbc"),
        pytest.param(node, "node_postgres.js", {LISTENED}, id="node-postgres"),
        pytest.param(None, "pgx_client.go", {LISTENED}, id="pgx"),
    ],
)
def test_a_library_shares_four_connections_among_sixteen_clients(
    proxy: ProxyUnderTest,
    pgx: Callable[[str], Command],
    found: Callable[[str], Command] | None,
    program: str,
    pins: set[str],
) -> None:
    try:
        command, variables = (found or pgx)(program)
    except NotInstallable as reason:
        pytest.skip(str(reason))
    before = proxy.stats()
    done = subprocess.run(
        command,
        env={
            "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "PGHOST": "127.0.0.1", "PGPORT": str(proxy.port),
            "PGUSER": "app", "PGPASSWORD": PASSWORD, "PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(proxy.ca_bundle),
            **variables,
        },
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-1000:]
    after = eventually(lambda: (stats := proxy.stats())["ClientConnections"] == 0 and stats)
    assert after["ClientConnectionsSetupSucceeded"] - before.get("ClientConnectionsSetupSucceeded", 0) >= 16
    assert after["DatabaseConnections"] <= after["MaxDatabaseConnectionsAllowed"] == CONNECTIONS
    assert after["DatabaseConnectionsCurrentlySessionPinned"] == 0
    new = {name for name, count in after.items() if name.startswith("Pinned: ") and count > before.get(name, 0)}
    assert new == pins
