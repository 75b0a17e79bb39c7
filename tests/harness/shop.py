"""A database with one table of numbers, of any engine, and what became of it in a restore."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from harness.dialects import EngineUnderTest
from harness.service import Service, eventually

TABLE = "CREATE TABLE kept (a int PRIMARY KEY)"
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


def whole_second() -> datetime:
    """Waits for the beginning of the next second, which it returns: what was before is before, what comes is after."""
    moment = int(time.time()) + 1
    while time.time() < moment + 0.01:
        time.sleep(0.005)
    return datetime.fromtimestamp(moment, UTC)


class Shop:
    """A table of numbers in an instance."""

    def __init__(self, service: Service, engine: EngineUnderTest, identifier: str) -> None:
        self.service, self.engine, self.identifier = service, engine, identifier

    def run(self, *statements: str) -> list[tuple[Any, ...]]:
        instance = self.service.describe(self.identifier)
        rows: list[tuple[Any, ...]] = []
        with self.engine.connect(self.service, instance, database="shop") as client:
            for statement in statements:
                rows = client.rows(statement)
        return rows

    def insert(self, *numbers: int) -> None:
        self.run(*(f"INSERT INTO kept VALUES ({number})" for number in numbers))

    def numbers(self) -> list[int]:
        return [row[0] for row in self.run("SELECT a FROM kept ORDER BY a")]

    def restorable(self, moment: datetime) -> None:
        eventually(lambda: self.service.describe(self.identifier).get("LatestRestorableTime", LONG_AGO) >= moment)

    def restored(self, target: str, moment: datetime | None = None) -> Shop:
        wanted = {"UseLatestRestorableTime": True} if moment is None else {"RestoreTime": moment}
        self.service.client("rds").restore_db_instance_to_point_in_time(
            SourceDBInstanceIdentifier=self.identifier, TargetDBInstanceIdentifier=target, **wanted
        )
        self.service.await_status(target, "available")
        return Shop(self.service, self.engine, target)


def made(service: Service, engine: EngineUnderTest, identifier: str = "source", **members: Any) -> Shop:
    """An instance with an empty table, of which everything from now on can be restored."""
    engine.create(service, identifier, **{"DBName": "shop", "BackupRetentionPeriod": 1, **members})
    shop = Shop(service, engine, identifier)
    shop.run(TABLE)
    shop.restorable(whole_second())
    return shop


def snapshot(service: Service, source: str, name: str) -> None:
    rds = service.client("rds")
    rds.create_db_snapshot(DBInstanceIdentifier=source, DBSnapshotIdentifier=name)
    eventually(lambda: snapshot_status(service, name) == "available")


def snapshot_status(service: Service, name: str) -> str:
    found = service.client("rds").describe_db_snapshots(DBSnapshotIdentifier=name)["DBSnapshots"]
    return str(found[0]["Status"])
