"""What users of a Multi-AZ MariaDB or MySQL may do to the engine's own things, by mistake or not: the pair stays whole."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from harness.dialects import MARIADB, MYSQL, newest_of
from harness.mysql_family_pairs import MysqlFamilyMultiAZ
from harness.service import Service

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]

ENGINES = [*newest_of(MARIADB), *newest_of(MYSQL)]
LOCKS = {"mariadb": "LOCK TABLES mysql.rds_heartbeat2 READ", "mysql": "FLUSH TABLES WITH READ LOCK"}
"""As dumps of everything take them; the master user of MariaDB has no RELOAD."""

LOCKED_S = 15.0
"""A primary that does not answer is replaced after 5 s, a standby that says nothing is given up after 8 s."""


@pytest.fixture(scope="module", params=ENGINES, ids=lambda one: one.dialect.engine)
def pair(request: pytest.FixtureRequest) -> Iterator[MysqlFamilyMultiAZ]:
    with Service() as service:
        instance = request.param.create(service, "m1", MultiAZ=True, DBName="shop")
        yield MysqlFamilyMultiAZ(service, request.param, instance)


def test_lock_of_a_user_is_neither_a_dead_primary_nor_a_lost_standby(pair: MysqlFamilyMultiAZ) -> None:
    """Nobody can write while it is held, and that is what its session asked for."""
    before = pair.await_in_sync()
    with pair.connect() as session:
        session.execute(LOCKS[pair.name])
        deadline = time.monotonic() + LOCKED_S
        while time.monotonic() < deadline:
            session.execute("SELECT 1")
            assert pair.record == before
            time.sleep(0.2)
        session.execute("UNLOCK TABLES")
    pair.make_table()
    assert pair.await_in_sync() == before
