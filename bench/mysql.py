"""MySQL: Multi-AZ writes beside a bare semi-synchronous pair."""

from __future__ import annotations

from collections.abc import Callable

from bench.report import Table
from bench.semi_sync_writes import writes_beside_a_bare_pair
from harness.dialects import MYSQL, newest_of
from harness.service import Service

HEADING = "MySQL: Multi-AZ"


def run(say: Callable[[str], None]) -> list[Table]:
    """One table; none where MySQL is not installed."""
    tables = []
    for engine in newest_of(MYSQL):
        with Service() as service:
            tables += writes_beside_a_bare_pair(service, engine, say)
    return tables
