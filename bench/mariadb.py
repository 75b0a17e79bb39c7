"""MariaDB: Multi-AZ writes beside a bare semi-synchronous pair, replay of binary logs."""

from __future__ import annotations

from collections.abc import Callable

from bench.binlog_replay import replay
from bench.report import Table
from bench.semi_sync_writes import writes_beside_a_bare_pair, writes_over_a_link
from harness.dialects import MARIADB, newest_of
from harness.service import Service

HEADING = "MariaDB: Multi-AZ, restores to a moment"


def run(say: Callable[[str], None]) -> list[Table]:
    """Three tables, one of them of clients over a link (see `bench.link`); none where MariaDB is not installed."""
    tables = []
    for engine in newest_of(MARIADB):
        with Service() as service:
            tables += writes_beside_a_bare_pair(service, engine, say)
            tables.append(replay(service, engine, say))
        tables += writes_over_a_link(engine, say)
    return tables
