"""MySQL: Multi-AZ writes beside a bare semi-synchronous pair, and the replay of its binary logs."""

from __future__ import annotations

from collections.abc import Callable

from bench.binlog_replay import replay
from bench.report import Table
from bench.semi_sync_writes import writes_beside_a_bare_pair, writes_over_a_link
from harness.dialects import MYSQL, newest_of
from harness.service import Service

HEADING = "MySQL: Multi-AZ, restores to a moment"


def run(say: Callable[[str], None]) -> list[Table]:
    """Three tables, one of them of clients over a link (see `bench.link`); none where MySQL is not installed."""
    tables = []
    for engine in newest_of(MYSQL):
        with Service() as service:
            tables += writes_beside_a_bare_pair(service, engine, say)
            tables.append(replay(service, engine, say))
        tables += writes_over_a_link(engine, say)
    return tables
