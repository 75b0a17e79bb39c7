"""Automated backups, restores to a second, snapshots and failovers in between, the same for every engine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from harness.dialects import ClientError, EngineUnderTest
from harness.pairs import MultiAZ
from harness.service import Service, eventually
from harness.shop import Shop, whole_second

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def made(service: Service) -> Iterator[list[str]]:
    """Identifiers of instances, which are deleted in the end."""
    names: list[str] = []
    yield names
    for name in names:
        service.delete_instance(name)


def test_any_second_comes_back_and_so_does_what_was_dropped(
    service: Service, engine: EngineUnderTest, made: list[str]
) -> None:
    made.append(engine.create(service, DBName="shop", BackupRetentionPeriod=1)["DBInstanceIdentifier"])
    shop = Shop(service, engine, made[0])
    shop.run("CREATE TABLE kept (a int PRIMARY KEY)")
    shop.restorable(whole_second())
    shop.insert(*range(1, 21))
    first = whole_second()
    shop.insert(*range(21, 31))
    shop.run("CREATE TABLE other (a int)", "INSERT INTO other SELECT a FROM kept")
    second = whole_second()
    shop.run("DROP TABLE kept")
    shop.restorable(whole_second())
    for moment, expected in ((first, range(1, 21)), (second, range(1, 31))):
        name = f"{made[0]}-{expected.stop}"
        restored = shop.restored(name, moment)
        made.append(name)
        assert restored.numbers() == list(expected)
    assert restored.run("SELECT COUNT(*) FROM other") == [(30,)]
    restored.insert(99)
    latest = shop.restored(f"{made[0]}-latest")
    made.append(latest.identifier)
    assert latest.run("SELECT COUNT(*) FROM other") == [(30,)]
    with pytest.raises(ClientError):
        latest.numbers()
    # What was restored is backed up like any other, and can be restored in its turn.
    restored.restorable(whole_second())
    again = restored.restored(f"{made[0]}-again")
    made.append(again.identifier)
    assert again.numbers() == [*range(1, 31), 99]


def test_snapshots_stay_until_they_are_deleted(service: Service, engine: EngineUnderTest, made: list[str]) -> None:
    rds = service.client("rds")
    source = engine.create(service, DBName="shop", BackupRetentionPeriod=0)["DBInstanceIdentifier"]
    shop = Shop(service, engine, source)
    shop.run("CREATE TABLE kept (a int PRIMARY KEY)")
    shop.insert(7)
    shot, final = f"{source}-shot", f"{source}-final"
    rds.create_db_snapshot(DBInstanceIdentifier=source, DBSnapshotIdentifier=shot)
    service.await_status(source, "available")
    shop.insert(8)
    rds.delete_db_instance(DBInstanceIdentifier=source, SkipFinalSnapshot=False, FinalDBSnapshotIdentifier=final)
    for name, expected in ((shot, [7]), (final, [7, 8])):
        rds.get_waiter("db_snapshot_available").wait(
            DBSnapshotIdentifier=name, WaiterConfig={"Delay": 1, "MaxAttempts": 120}
        )
        rds.restore_db_instance_from_db_snapshot(DBInstanceIdentifier=f"{name}-r", DBSnapshotIdentifier=name)
        service.await_status(f"{name}-r", "available")
        made.append(f"{name}-r")
        assert Shop(service, engine, f"{name}-r").numbers() == expected
        rds.delete_db_snapshot(DBSnapshotIdentifier=name)


@pytest.mark.every_version
def test_the_log_goes_on_after_kills_and_a_failover(service: Service, engine: EngineUnderTest, made: list[str]) -> None:
    source = engine.create(service, DBName="shop", BackupRetentionPeriod=1, MultiAZ=True)
    made.append(source["DBInstanceIdentifier"])
    shop = Shop(service, engine, made[0])
    shop.run("CREATE TABLE kept (a int PRIMARY KEY)")
    shop.restorable(whole_second())
    shop.insert(1)
    before_kill = whole_second()
    pair = MultiAZ(service, source)
    before = pair.await_in_sync()
    shop.insert(2)
    leader = next(node for node in service.nodes() if node["node"] == before.primary)
    os.kill(leader["pid"], signal.SIGKILL)
    service.kill("agent")
    pair.await_epoch(before.epoch + 1)

    def written() -> bool:
        try:
            shop.insert(3)
        except ClientError:
            return False
        return True

    eventually(written)
    after_failover = whole_second()
    shop.insert(4)
    shop.restorable(whole_second())
    for moment, expected in ((before_kill, [1]), (after_failover, [1, 2, 3])):
        name = f"{made[0]}-{len(expected)}"
        restored = shop.restored(name, moment)
        made.append(name)
        assert restored.numbers() == expected
    told = service.cli("backups", "verify", made[0])
    assert told.returncode == 0, told.stdout
