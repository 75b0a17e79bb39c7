"""Read replicas on the real engine: made, read, left behind, cut off, promoted, orphaned."""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from botocore.exceptions import ClientError

from harness.service import PASSWORD, Service, eventually

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]

REGION, ELSEWHERE = "us-west-2", "eu-west-1"
Instance = dict[str, Any]


@pytest.fixture(scope="module")
def replicated() -> Iterator[Service]:
    """A service for this file: its instances take more memory than the shared one may give out."""
    with Service(memory_overcommit="8") as running:
        yield running


def name(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(3)}"


def describe(service: Service, identifier: str, region: str = REGION) -> Instance:
    found: Instance = service.client("rds", region=region).describe_db_instances(DBInstanceIdentifier=identifier)[
        "DBInstances"
    ][0]
    return found


def available(service: Service, identifier: str, region: str = REGION) -> Instance:
    found: Instance = eventually(
        lambda: (one := describe(service, identifier, region))["DBInstanceStatus"] == "available" and one
    )
    return found


def replicate(service: Service, source: str, *, wait: bool = True, region: str = REGION, **members: Any) -> Instance:
    """A read replica, available unless it is not to be waited for."""
    identifier = members.pop("DBInstanceIdentifier", "") or name("replica")
    made: Instance = service.client("rds", region=region).create_db_instance_read_replica(
        DBInstanceIdentifier=identifier, SourceDBInstanceIdentifier=source, **members
    )["DBInstance"]
    assert made["DBInstanceStatus"] == "creating"
    return available(service, identifier, region) if wait else made


def delete(service: Service, *identifiers: str, region: str = REGION) -> None:
    rds = service.client("rds", region=region)
    for identifier in identifiers:
        rds.delete_db_instance(DBInstanceIdentifier=identifier, SkipFinalSnapshot=True)
    eventually(
        lambda: (
            not {one["DBInstanceIdentifier"] for one in rds.describe_db_instances()["DBInstances"]} & set(identifiers)
        )
    )


def events_of(service: Service, identifier: str, region: str = REGION) -> list[str]:
    found = service.client("rds", region=region).describe_events(
        SourceType="db-instance", SourceIdentifier=identifier, EventCategories=["read replica"]
    )["Events"]
    return [event["Message"] for event in found]


def node(service: Service, identifier: str) -> dict[str, Any]:
    """The node that leads the instance."""
    return next(one for one in service.nodes() if one["instance"] == identifier and one["role"] != "standby")


def restart_control(service: Service) -> None:
    """kill -9; returns when the API answers again."""
    service.kill("control")
    eventually(lambda: service.cli("status", check=False).returncode == 0)


@contextmanager
def rdsadmin(service: Service, identifier: str) -> Iterator[psycopg.Connection[Any]]:
    """The service's own superuser, over the node's own socket: only the host's root gets there."""
    one = node(service, identifier)
    sockets = service.settings.runtime / "nodes" / one["node"]
    with psycopg.connect(
        host=str(sockets), port=one["port"], user="rdsadmin", dbname="rdsadmin", autocommit=True
    ) as connection:
        yield connection


def value(connection: psycopg.Connection[Any], query: str) -> Any:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def reads(service: Service, instance: Instance, query: str, **options: Any) -> Callable[[], Any]:
    """The value of a query in a session of its own, None while it cannot be had."""

    def read() -> Any:
        try:
            with service.connect(instance, **options) as connection:
                return value(connection, query)
        except psycopg.Error:
            return None

    return read


def follows_within(service: Service, source: Instance, replica: Instance) -> float:
    """Seconds until a row committed now at the source is read at the replica."""
    table = "t" + secrets.token_hex(4)
    with service.connect(source) as connection:
        connection.execute(f"CREATE TABLE {table} AS SELECT 1".encode())
    started = time.monotonic()
    eventually(reads(service, replica, f"SELECT count(*) FROM {table}"), interval_s=0.02)
    return time.monotonic() - started


def test_a_replica_is_read_not_written_and_an_instance_of_its_own(replicated: Service) -> None:
    source = replicated.create_instance(name("source"), BackupRetentionPeriod=1, DBName="shop")
    with replicated.connect(source, dbname="shop") as connection:
        connection.execute("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS number")
    identifier = source["DBInstanceIdentifier"]
    started = time.monotonic()
    replica = replicate(replicated, identifier, Tags=[{"Key": "for", "Value": "reports"}])
    print(f"\nreplica available after {time.monotonic() - started:.1f} s")
    for same in ("Engine", "EngineVersion", "MasterUsername", "DBName", "AllocatedStorage", "StorageType",
                 "DBInstanceClass", "PreferredMaintenanceWindow"):  # fmt: skip
        assert replica[same] == source[same], same
    assert (
        replica["DBParameterGroups"][0]["DBParameterGroupName"]
        == (source["DBParameterGroups"][0]["DBParameterGroupName"])
    )
    assert replica["Endpoint"] != source["Endpoint"] and replica["DbiResourceId"] != source["DbiResourceId"]
    assert replica["ReadReplicaSourceDBInstanceIdentifier"] == identifier
    assert replica["StatusInfos"] == [{"StatusType": "read replication", "Normal": True, "Status": "replicating"}]
    assert replica["TagList"] == [{"Key": "for", "Value": "reports"}] and replica["BackupRetentionPeriod"] == 0
    assert replicated.describe(identifier)["ReadReplicaDBInstanceIdentifiers"] == [replica["DBInstanceIdentifier"]]
    with replicated.connect(replica, dbname="shop") as connection:
        assert value(connection, "SELECT count(*) FROM kept") == 1000
        for statement in ("INSERT INTO kept VALUES (0)", "CREATE TABLE mine (a int)", "CREATE ROLE mine"):
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                connection.execute(statement.encode())
        with pytest.raises(psycopg.Error):
            connection.execute("SELECT pg_promote()")
    print(f"row seen after {follows_within(replicated, source, replica):.3f} s")
    rds = replicated.client("rds")
    rds.modify_db_instance(
        DBInstanceIdentifier=identifier, MasterUserPassword="another-" + PASSWORD, ApplyImmediately=True
    )
    eventually(reads(replicated, replica, "SELECT 1", password="another-" + PASSWORD))
    delete(replicated, replica["DBInstanceIdentifier"])
    assert replicated.describe(identifier)["ReadReplicaDBInstanceIdentifiers"] == []
    delete(replicated, identifier)


def test_what_cannot_be_done_with_replicas_is_refused(replicated: Service) -> None:
    source = replicated.create_instance(name("source"), BackupRetentionPeriod=1)["DBInstanceIdentifier"]
    replica = replicate(replicated, source)["DBInstanceIdentifier"]
    rds = replicated.client("rds")
    refusals: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
        (rds.stop_db_instance, {"DBInstanceIdentifier": replica}, "Cannot stop or start a Read-Replica instance"),
        (rds.stop_db_instance, {"DBInstanceIdentifier": source}, "InvalidDBInstanceState.*Read-Replicas"),
        (rds.promote_read_replica, {"DBInstanceIdentifier": source}, "DB Instance is not a read replica"),
        (rds.promote_read_replica, {"DBInstanceIdentifier": replica, "BackupRetentionPeriod": 36}, "backup retention"),
        (
            rds.modify_db_instance,
            {"DBInstanceIdentifier": replica, "MasterUserPassword": "another-" + PASSWORD},
            "InvalidParameterCombination.*Cannot change master user password on an RDS postgres Read Replica",
        ),
        (
            rds.delete_db_instance,
            {"DBInstanceIdentifier": replica, "FinalDBSnapshotIdentifier": "last"},
            "FinalDBSnapshotIdentifier can not be specified when deleting a replica instance",
        ),
    ]
    for operation, members, words in refusals:
        with pytest.raises(ClientError, match=words):
            operation(**members)
    delete(replicated, replica, source)


def test_lag_is_zero_when_idle_and_grows_while_replay_is_paused(replicated: Service) -> None:
    source = replicated.create_instance(name("source"), BackupRetentionPeriod=1)
    replica = replicate(replicated, source["DBInstanceIdentifier"])["DBInstanceIdentifier"]

    def lag() -> dict[str, Any]:
        found: dict[str, Any] = node(replicated, replica)["replication"]
        return found

    eventually(lambda: lag().get("lag_bytes") == 0)
    time.sleep(5)
    idle = lag()
    assert idle["streaming"] and idle["lag_s"] == 0 and idle["lag_bytes"] == 0, idle
    with rdsadmin(replicated, replica) as session:
        session.execute("SELECT pg_wal_replay_pause()")
        paused_at = time.monotonic()
        with replicated.connect(source) as connection:
            connection.execute("CREATE TABLE much AS SELECT generate_series(1, 100000)")
        first = eventually(lambda: (seen := lag()).get("lag_bytes", 0) > 1 << 20 and seen["lag_s"] > 1 and seen)
        later = eventually(lambda: (seen := lag())["lag_s"] > first["lag_s"] + 3 and seen)
        assert later["lag_s"] <= time.monotonic() - paused_at + 5 and later["streaming"] and later["paused"]
        assert "paused, lag" in replicated.cli("status").stdout
        pid = node(replicated, replica)["pid"]
        session.execute("SELECT pg_wal_replay_resume()")
    eventually(lambda: lag().get("lag_bytes") == lag().get("lag_s") == 0)
    assert node(replicated, replica)["pid"] == pid, "a pause that somebody asked for is no reason to restart"
    delete(replicated, replica, source["DBInstanceIdentifier"])


def test_a_chain_and_the_promotion_of_its_middle(replicated: Service) -> None:
    source = replicated.create_instance(name("source"), BackupRetentionPeriod=1)
    middle = replicate(replicated, source["DBInstanceIdentifier"])
    sibling = replicate(replicated, source["DBInstanceIdentifier"])
    # A replica that feeds others has backups of its own, as on RDS.
    replicated.client("rds").modify_db_instance(
        DBInstanceIdentifier=middle["DBInstanceIdentifier"], BackupRetentionPeriod=1, ApplyImmediately=True
    )
    available(replicated, middle["DBInstanceIdentifier"])
    last = replicate(replicated, middle["DBInstanceIdentifier"])
    assert follows_within(replicated, source, last) < 30
    rds = replicated.client("rds")
    started = time.monotonic()
    promoting = rds.promote_read_replica(DBInstanceIdentifier=middle["DBInstanceIdentifier"])["DBInstance"]
    assert promoting["DBInstanceStatus"] == "modifying" and "StatusInfos" not in promoting

    def written() -> bool:
        try:
            with replicated.connect(middle) as connection:
                connection.execute("CREATE TABLE own AS SELECT 1")
        except psycopg.Error:
            return False
        return True

    eventually(written, interval_s=0.02)
    print(f"\npromotion to first write: {time.monotonic() - started:.3f} s")
    promoted = available(replicated, middle["DBInstanceIdentifier"])
    assert "ReadReplicaSourceDBInstanceIdentifier" not in promoted
    assert promoted["ReadReplicaDBInstanceIdentifiers"] == [last["DBInstanceIdentifier"]]
    assert replicated.describe(source["DBInstanceIdentifier"])["ReadReplicaDBInstanceIdentifiers"] == [
        sibling["DBInstanceIdentifier"]
    ]
    eventually(reads(replicated, last, "SELECT count(*) FROM own"))
    follows_within(replicated, source, sibling)
    with replicated.connect(sibling) as connection:
        assert value(connection, "SELECT to_regclass('own')") is None
    rds.modify_db_instance(
        DBInstanceIdentifier=middle["DBInstanceIdentifier"],
        MasterUserPassword="mine-" + PASSWORD,
        ApplyImmediately=True,
    )
    eventually(reads(replicated, promoted, "SELECT 1", password="mine-" + PASSWORD))
    eventually(reads(replicated, last, "SELECT 1", password="mine-" + PASSWORD))
    assert reads(replicated, source, "SELECT 1")() == 1, "the former source keeps its own password"
    delete(replicated, *(one["DBInstanceIdentifier"] for one in (last, sibling, middle, source)))


def test_five_replicas_at_once_and_none_of_them_holds_wal(replicated: Service) -> None:
    source = replicated.create_instance(name("source"), BackupRetentionPeriod=1)
    identifier = source["DBInstanceIdentifier"]
    started = time.monotonic()
    made = [replicate(replicated, identifier, wait=False)["DBInstanceIdentifier"] for _ in range(5)]
    replicas = [available(replicated, one) for one in made]
    print(f"\nfive replicas available after {time.monotonic() - started:.1f} s")
    assert replicated.describe(identifier)["ReadReplicaDBInstanceIdentifiers"] == sorted(made)
    assert len({one["Endpoint"]["Address"] for one in replicas}) == 5
    for replica in replicas:
        follows_within(replicated, source, replica)
    with rdsadmin(replicated, identifier) as session:
        assert value(session, "SELECT string_agg(slot_name, ' ') FROM pg_replication_slots") == "mainstay_archive"
        assert value(session, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == 5
        assert value(session, "SHOW wal_keep_size") == "512MB"
    delete(replicated, *made)

    def kept() -> str:
        with rdsadmin(replicated, identifier) as session:
            return str(value(session, "SHOW wal_keep_size"))

    eventually(lambda: kept() != "512MB")
    delete(replicated, identifier)


def test_a_killed_replica_comes_back_and_follows(replicated: Service) -> None:
    source = replicated.create_instance(name("source"), BackupRetentionPeriod=1)
    replica = replicate(replicated, source["DBInstanceIdentifier"])
    identifier = replica["DBInstanceIdentifier"]
    pid = node(replicated, identifier)["pid"]
    os.kill(pid, signal.SIGKILL)
    with replicated.connect(source) as connection:
        connection.execute("CREATE TABLE meanwhile AS SELECT 1")
    started = time.monotonic()
    eventually(reads(replicated, replica, "SELECT count(*) FROM meanwhile"), interval_s=0.02)
    print(f"\nkilled replica reads what was written meanwhile after {time.monotonic() - started:.1f} s")
    assert node(replicated, identifier)["pid"] != pid
    replicated.kill("agent")
    restart_control(replicated)
    eventually(lambda: replicated.describe(identifier)["DBInstanceStatus"] == "available")
    follows_within(replicated, source, replica)
    delete(replicated, identifier, source["DBInstanceIdentifier"])


def test_replication_that_stops_and_resumes_is_told_once(replicated: Service) -> None:
    source = replicated.create_instance(name("source"), BackupRetentionPeriod=1)
    identifier = replicate(replicated, source["DBInstanceIdentifier"])["DBInstanceIdentifier"]
    with rdsadmin(replicated, identifier) as session:  # as if its source did not let it in any more
        session.execute("ALTER SYSTEM SET primary_conninfo = 'host=/nowhere'")
        session.execute("SELECT pg_reload_conf()")
        broken = eventually(
            lambda: (one := describe(replicated, identifier))["StatusInfos"][0]["Normal"] is False and one
        )
        assert broken["StatusInfos"][0]["Status"] == "error" and broken["StatusInfos"][0]["Message"]
        assert broken["DBInstanceStatus"] == "available", "it still answers queries"
        lagging = eventually(lambda: (seen := node(replicated, identifier)["replication"]).get("lag_s", 0) > 3 and seen)
        assert not lagging["streaming"] and lagging.get("lag_bytes") is None
        restart_control(replicated)
        session.execute("ALTER SYSTEM RESET primary_conninfo")
        session.execute("SELECT pg_reload_conf()")
    eventually(lambda: describe(replicated, identifier)["StatusInfos"][0]["Status"] == "replicating")
    messages = eventually(lambda: len(found := events_of(replicated, identifier)) >= 2 and found)
    assert [message.split(":")[0] for message in messages] == [
        "Replication has stopped", "Replication for the Read Replica resumed",
    ]  # fmt: skip
    delete(replicated, identifier, source["DBInstanceIdentifier"])


def test_a_replica_that_has_missed_too_much_is_copied_anew(replicated: Service) -> None:
    source = replicated.create_instance(name("source"), BackupRetentionPeriod=1)
    replica = replicate(replicated, source["DBInstanceIdentifier"])
    identifier = replica["DBInstanceIdentifier"]
    with rdsadmin(replicated, identifier) as session:  # the replica is cut off …
        session.execute("ALTER SYSTEM SET primary_conninfo = 'host=/nowhere'")
        session.execute("SELECT pg_reload_conf()")
        eventually(lambda: describe(replicated, identifier)["StatusInfos"][0]["Status"] == "error")
        with rdsadmin(replicated, source["DBInstanceIdentifier"]) as primary:  # … and its source keeps nothing for it
            for statement in ("SET wal_keep_size = 0", "SET min_wal_size = '32MB'", "SET max_wal_size = '32MB'"):
                primary.execute(f"ALTER SYSTEM {statement}".encode())
            primary.execute("SELECT pg_reload_conf()")
            missed = value(primary, "SELECT pg_walfile_name(pg_current_wal_lsn())")
            primary.execute("CREATE TABLE missed AS SELECT generate_series(1, 1000)")

            def removed() -> bool:
                """What its archive has not stored yet is kept a little longer."""
                primary.execute("SELECT pg_logical_emit_message(false, 'test', 'x'), pg_switch_wal()")
                primary.execute("CHECKPOINT")
                return value(primary, f"SELECT count(*) FROM pg_ls_waldir() WHERE name = '{missed}'") == 0

            eventually(removed, interval_s=0.3)
        session.execute("ALTER SYSTEM RESET primary_conninfo")
        session.execute("SELECT pg_reload_conf()")
    started = time.monotonic()
    seen: list[tuple[str, str]] = []

    def follows_again() -> bool:
        state = describe(replicated, identifier)["StatusInfos"][0]
        if (word := (state["Status"], state.get("Message", ""))) not in seen[-1:]:
            seen.append(word)
        return bool(state["Status"] == "replicating")

    eventually(follows_again)
    print(f"\ncopied anew after {time.monotonic() - started:.1f} s")
    assert seen == [
        ("error", "the source is not sending"),
        ("error", "the source has removed WAL that this replica has not received"),
        ("replicating", ""),
    ]  # told from the moment it is known until it follows again, also while its engine does not run
    assert follows_within(replicated, source, replica) < 30
    with rdsadmin(replicated, identifier) as session:
        assert value(session, "SHOW primary_conninfo").startswith("host=/")
    told = events_of(replicated, identifier)
    assert [message.split(":")[0] for message in told] == [
        "Replication has stopped", "Replication for the Read Replica resumed",
    ], told  # fmt: skip
    delete(replicated, identifier, source["DBInstanceIdentifier"])


def test_a_replica_grows_with_its_source(replicated: Service) -> None:
    rds = replicated.client("rds")
    family = rds.describe_db_engine_versions(Engine="postgres", EngineVersion=replicated.engine_version)[
        "DBEngineVersions"
    ][0]["DBParameterGroupFamily"]
    group = name("group")
    rds.create_db_parameter_group(DBParameterGroupName=group, DBParameterGroupFamily=family, Description="d")

    def wants(connections: int) -> None:
        change = {
            "ParameterName": "max_connections",
            "ParameterValue": str(connections),
            "ApplyMethod": "pending-reboot",
        }
        rds.modify_db_parameter_group(DBParameterGroupName=group, Parameters=[change])

    wants(60)
    source = replicated.create_instance(name("source"), BackupRetentionPeriod=1, DBParameterGroupName=group)
    identifier = source["DBInstanceIdentifier"]
    replica = replicate(replicated, identifier)
    assert reads(replicated, replica, "SELECT current_setting('max_connections')")() == "60"
    pid = node(replicated, replica["DBInstanceIdentifier"])["pid"]
    wants(90)
    rds.reboot_db_instance(DBInstanceIdentifier=identifier)
    replicated.await_status(identifier, "available")
    with replicated.connect(source) as connection:
        connection.execute("CREATE TABLE later AS SELECT 1")
    eventually(reads(replicated, replica, "SELECT count(*) FROM later"))
    assert node(replicated, replica["DBInstanceIdentifier"])["pid"] != pid
    assert reads(replicated, replica, "SELECT current_setting('max_connections')")() == "90"
    smaller = replicate(replicated, identifier, DBParameterGroupName=f"default.{family}", DBInstanceClass="db.t3.micro")
    floor = int(reads(replicated, smaller, "SELECT current_setting('max_connections')")())
    assert floor >= 90
    delete(replicated, replica["DBInstanceIdentifier"], smaller["DBInstanceIdentifier"], identifier)
    rds.delete_db_parameter_group(DBParameterGroupName=group)


def test_a_deleted_source_leaves_instances_of_their_own_here_and_terminated_ones_elsewhere(replicated: Service) -> None:
    source = replicated.create_instance(name("source"), BackupRetentionPeriod=1)
    here = replicate(replicated, source["DBInstanceIdentifier"])
    far = replicate(replicated, source["DBInstanceArn"], region=ELSEWHERE, SourceRegion=REGION)
    far_name = far["DBInstanceIdentifier"]
    assert far["AvailabilityZone"].startswith(ELSEWHERE) and far["DBInstanceArn"].split(":")[3] == ELSEWHERE
    assert far["ReadReplicaSourceDBInstanceIdentifier"] == source["DBInstanceArn"]
    assert far["DBParameterGroups"][0]["DBParameterGroupName"].startswith("default.")
    assert set(replicated.describe(source["DBInstanceIdentifier"])["ReadReplicaDBInstanceIdentifiers"]) == {
        here["DBInstanceIdentifier"], far["DBInstanceArn"],
    }  # fmt: skip
    follows_within(replicated, source, far)
    with replicated.connect(source) as connection:
        connection.execute("CREATE TABLE last_words AS SELECT generate_series(1, 50000)")
    delete(replicated, source["DBInstanceIdentifier"])
    promoted = eventually(
        lambda: (
            (one := describe(replicated, here["DBInstanceIdentifier"]))["DBInstanceStatus"] == "available"
            and "ReadReplicaSourceDBInstanceIdentifier" not in one
            and one
        )
    )
    with replicated.connect(promoted) as connection:
        assert value(connection, "SELECT count(*) FROM last_words") == 50000
        connection.execute("INSERT INTO last_words VALUES (0)")
    orphan = eventually(
        lambda: (one := describe(replicated, far_name, ELSEWHERE))["StatusInfos"][0]["Status"] == "terminated" and one
    )
    assert orphan["StatusInfos"][0]["Normal"] is False and orphan["DBInstanceStatus"] == "available"
    assert events_of(replicated, far_name, ELSEWHERE) == ["Replication streaming has been terminated"]
    with replicated.connect(orphan) as connection:
        assert value(connection, "SELECT count(*) FROM last_words") == 50000
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("INSERT INTO last_words VALUES (0)")
    elsewhere = replicated.client("rds", region=ELSEWHERE)
    elsewhere.reboot_db_instance(DBInstanceIdentifier=far_name)
    available(replicated, far_name, ELSEWHERE)
    elsewhere.promote_read_replica(DBInstanceIdentifier=far_name)
    alone = available(replicated, far_name, ELSEWHERE)
    with replicated.connect(alone) as connection:
        connection.execute("INSERT INTO last_words VALUES (0)")
    delete(replicated, far_name, region=ELSEWHERE)
    delete(replicated, here["DBInstanceIdentifier"])


def test_replicas_follow_through_a_failover_of_their_source(replicated: Service) -> None:
    source = replicated.create_instance(name("source"), BackupRetentionPeriod=1, MultiAZ=True)
    identifier = source["DBInstanceIdentifier"]
    replicas = [replicate(replicated, identifier) for _ in range(2)]
    before = node(replicated, identifier)
    with replicated.connect(source) as connection:
        connection.execute("CREATE TABLE kept (number int)")
    acknowledged = 0
    with replicated.connect(source) as connection:
        while acknowledged < 200:
            connection.execute("INSERT INTO kept VALUES (%s)", (acknowledged,))
            acknowledged += 1
        os.kill(before["pid"], signal.SIGKILL)
    eventually(lambda: node(replicated, identifier)["node"] != before["node"])
    for replica in replicas:
        print(f"\nfollows the new primary after {follows_within(replicated, source, replica):.2f} s")
        assert reads(replicated, replica, "SELECT count(*) FROM kept")() == acknowledged
    delete(replicated, *(one["DBInstanceIdentifier"] for one in replicas), identifier)


def test_a_multi_az_replica_fails_over_and_is_promoted(replicated: Service) -> None:
    source = replicated.create_instance(name("source"), BackupRetentionPeriod=1)
    replica = replicate(replicated, source["DBInstanceIdentifier"], MultiAZ=True)
    identifier = replica["DBInstanceIdentifier"]
    assert replica["MultiAZ"] and replica["SecondaryAvailabilityZone"] != replica["AvailabilityZone"]
    before = node(replicated, identifier)
    os.kill(before["pid"], signal.SIGKILL)
    eventually(lambda: node(replicated, identifier)["node"] != before["node"])
    follows_within(replicated, source, replica)
    replicated.client("rds").promote_read_replica(DBInstanceIdentifier=identifier)
    promoted = available(replicated, identifier)
    with replicated.connect(promoted) as connection:
        connection.execute("CREATE TABLE own AS SELECT 1")
        assert value(connection, "SHOW synchronous_standby_names")
    delete(replicated, identifier, source["DBInstanceIdentifier"])
