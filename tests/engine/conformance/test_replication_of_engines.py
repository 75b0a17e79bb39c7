"""Multi-AZ and read replicas through the API, the same for every engine that has them."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from harness.dialects import ClientError, EngineUnderTest
from harness.pairs import MultiAZ
from harness.service import Service, eventually
from mainstay.engines.base import Feature
from mainstay.engines.builds import Builds
from mainstay.engines.registry import engines

pytestmark = [pytest.mark.engine, pytest.mark.timeout(180)]


@pytest.fixture(autouse=True)
def has_it(service: Service, engine: EngineUnderTest, request: pytest.FixtureRequest) -> None:
    if engine.dialect.engine == "postgres" and not request.config.getoption("--faults-full"):
        pytest.skip("tests/engine/test_read_replicas.py and tests/faults do this with PostgreSQL, and more")
    built = engines(Builds(service.settings)).rules(engine.dialect.engine).features
    if not {Feature.MULTI_AZ, Feature.READ_REPLICAS} <= built:
        pytest.skip(f"{engine.dialect.engine} has no replication yet")


def test_a_multi_az_instance_with_replicas_keeps_every_commit_and_they_follow_on(
    service: Service, engine: EngineUnderTest
) -> None:
    rds = service.client("rds")
    backups: dict[str, Any] = {"BackupRetentionPeriod": 1}
    source = engine.create(service, MultiAZ=True, DBName="shop", **backups)
    name = source["DBInstanceIdentifier"]
    first, second = f"{name}-r1", f"{name}-r2"
    made = [name]

    def rows(instance: dict[str, Any]) -> list[int]:
        try:
            with engine.connect(service, instance, database="shop") as client:
                return sorted(row[0] for row in client.rows("SELECT a FROM kept"))
        except ClientError:
            return []

    def write(instance: dict[str, Any], number: int) -> bool:
        try:
            with engine.connect(service, instance, database="shop") as client:
                client.rows(f"INSERT INTO kept VALUES ({number})")
        except ClientError:
            return False
        return True

    try:
        with engine.connect(service, source, database="shop") as client:
            client.rows("CREATE TABLE kept (a int PRIMARY KEY)")
        assert write(source, 1)
        replicas = []
        for replica, of in ((first, name), (second, first)):
            rds.create_db_instance_read_replica(DBInstanceIdentifier=replica, SourceDBInstanceIdentifier=of)
            made.append(replica)
            replicas.append(service.await_status(replica, "available"))
            rds.modify_db_instance(DBInstanceIdentifier=replica, ApplyImmediately=True, **backups)
            service.await_status(replica, "available")
        eventually(lambda: [rows(one) for one in replicas] == [[1], [1]])
        assert not write(replicas[0], 99) and not write(replicas[1], 99)

        pair = MultiAZ(service, source)
        before = pair.await_in_sync()
        leader = next(node for node in service.nodes() if node["node"] == before.primary)
        assert write(source, 2)
        os.kill(leader["pid"], signal.SIGKILL)
        after = pair.await_epoch(before.epoch + 1)
        assert after.primary == before.standby
        eventually(lambda: write(source, 3))
        assert rows(source) == [1, 2, 3]
        eventually(lambda: [rows(one) for one in replicas] == [[1, 2, 3], [1, 2, 3]])
        assert pair.await_in_sync().standby == before.primary
        seen = {node["instance"]: node["replication"] for node in service.nodes() if node["role"] == "replica"}
        assert seen[first]["streaming"] and seen[second]["streaming"]

        rds.promote_read_replica(DBInstanceIdentifier=first)
        eventually(lambda: "ReadReplicaSourceDBInstanceIdentifier" not in service.describe(first))
        service.await_status(first, "available")
        assert eventually(lambda: write(replicas[0], 4))
        eventually(lambda: rows(replicas[1]) == [1, 2, 3, 4])
        assert write(source, 5)
        assert rows(source) == [1, 2, 3, 5] and rows(replicas[0]) == [1, 2, 3, 4]
    finally:
        for one in reversed(made):
            service.delete_instance(one)


def test_a_forced_failover_and_a_larger_class_change_roles(service: Service, engine: EngineUnderTest) -> None:
    rds = service.client("rds")
    instance = engine.create(service, MultiAZ=True, DBName="shop")
    name = instance["DBInstanceIdentifier"]
    pair = MultiAZ(service, instance)
    try:
        before = pair.await_in_sync()
        made = make_events(service, engine, pair)
        rds.reboot_db_instance(DBInstanceIdentifier=name, ForceFailover=True)
        after = pair.await_epoch(before.epoch + 1)
        assert after.primary == before.standby
        pair.await_in_sync()
        service.await_status(name, "available")
        assert events(service, engine, instance) == made
        rds.modify_db_instance(DBInstanceIdentifier=name, DBInstanceClass="db.t3.small", ApplyImmediately=True)
        pair.await_epoch(after.epoch + 1)
        service.await_status(name, "available")
        with engine.connect(service, instance) as client:
            assert int(client.value(engine.dialect.show.format(name="max_connections"))) > 100
        rds.modify_db_instance(DBInstanceIdentifier=name, MultiAZ=False, ApplyImmediately=True)
        eventually(lambda: not service.describe(name)["MultiAZ"])
        service.await_status(name, "available")
        with engine.connect(service, instance) as client:
            assert client.value("SELECT 1") == 1
    finally:
        service.delete_instance(name)


EVENTS = "SELECT EVENT_NAME, STATUS, DEFINER, LAST_ALTERED FROM information_schema.EVENTS ORDER BY 1"


def make_events(service: Service, engine: EngineUnderTest, pair: MultiAZ) -> list[tuple[Any, ...]]:
    """Makes them if the engine has any, and waits until the standby has taken note; as they are now."""
    if not engine.dialect.make_events:
        return []
    with engine.connect(service, pair.instance, database="shop") as client:
        for statement in engine.dialect.make_events:
            client.rows(statement)
    noted = pair.volume(pair.standby).with_name("conf") / "events.json"
    eventually(lambda: noted.exists() and "resting" in noted.read_text())
    made = events(service, engine, pair.instance)
    assert [event[:3] for event in made] == [("daily", "ENABLED", "app@%"), ("resting", "DISABLED", "app@%")]
    return made


def events(service: Service, engine: EngineUnderTest, instance: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Name, status, definer and last change of each."""
    if not engine.dialect.make_events:
        return []
    with engine.connect(service, instance, database="shop") as client:
        return client.rows(EVENTS)
