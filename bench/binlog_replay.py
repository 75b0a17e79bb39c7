"""How fast a restore to a moment replays single-row transactions: what so many of them add to the time of a restore.

Two restores, to the moments before and after them, within one minute: the second takes longer by what is replayed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from bench.report import Table, spread
from bench.semi_sync_writes import NAMES
from harness.dialects import EngineUnderTest
from harness.service import Service
from harness.shop import Shop, whole_second

TRANSACTIONS, CLIENTS, ROUNDS = 60_000, 8, 2
TIMEOUT_S = 300.0
PROCEDURE = """CREATE PROCEDURE fill(first int, count int) BEGIN
 WHILE count > 0 DO
  INSERT INTO kept VALUES (first, LPAD(first, 32, 'x'));
  SET first = first + 1, count = count - 1;
 END WHILE;
END"""


def replay(service: Service, engine: EngineUnderTest, say: Callable[[str], None]) -> Table:
    """One table."""
    engine.create(service, "replayed", DBName="shop", BackupRetentionPeriod=1, DBInstanceClass="db.t3.medium")
    shop = Shop(service, engine, "replayed")
    shop.run("CREATE TABLE kept (a int PRIMARY KEY, b char(32))", PROCEDURE)
    before = whole_second()
    shop.restorable(before)
    _write(shop)
    after = whole_second()
    shop.restorable(after)
    found: dict[str, list[float]] = {"without": [], "with": []}
    for number in range(ROUNDS):
        for name, moment, rows in (("without", before, 0), ("with", after, TRANSACTIONS)):
            say(f"{engine.dialect.engine}: restore {number + 1} of {ROUNDS}, {name} {TRANSACTIONS} transactions")
            started = time.monotonic()
            restored = shop.restored(f"{name}{number}", moment)
            found[name].append(time.monotonic() - started)
            [(count,)] = restored.run("SELECT COUNT(*) FROM kept")
            assert count == rows, f"{count} rows of {rows}"
            service.delete_instance(f"{name}{number}")
    service.delete_instance("replayed")
    rates = [TRANSACTIONS / (more - less) for more, less in zip(found["with"], found["without"], strict=True)]
    return Table(
        title=f"Replay of {TRANSACTIONS} transactions of one row each, {NAMES[engine.dialect.engine]} {engine.version}",
        columns=("restore to before them, s", "to after them, s", "transactions replayed a second"),
        rows=((spread(found["without"], 1), spread(found["with"], 1), spread(rates)),),
        notes=(f"Written by {CLIENTS} sessions at once; seconds from the call until the instance is available.",),
    )


def _write(shop: Shop) -> None:
    share = TRANSACTIONS // CLIENTS
    instance = shop.service.describe(shop.identifier)

    def call(number: int) -> None:
        with shop.engine.connect(shop.service, instance, database="shop", read_timeout=TIMEOUT_S) as session:
            session.rows(f"CALL fill({number * share}, {share})")

    with ThreadPoolExecutor(CLIENTS) as pool:
        for _ in pool.map(call, range(CLIENTS)):
            pass  # what failed is raised here
