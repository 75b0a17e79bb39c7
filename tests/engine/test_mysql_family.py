"""What MariaDB and MySQL have and PostgreSQL has not: their procedures, their users, their logs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from botocore.exceptions import ClientError as ApiError

from harness.dialects import MARIADB, MYSQL, Client, ClientError, EngineUnderTest, newest_of
from harness.mysql_family_pairs import MysqlFamilyMultiAZ, as_operator
from harness.pairs import MultiAZ
from harness.service import PASSWORD, Service, eventually
from mainstay.engines.builds import Builds
from mainstay.engines.logins import logins as logins_of
from mainstay.engines.registry import engines
from mainstay.model.errors import Permanent, Transient
from mainstay.model.login_place import LoginPlace
from mainstay.model.secret import Secret

pytestmark = pytest.mark.engine

NEWEST = [*newest_of(MARIADB), *newest_of(MYSQL)]


@pytest.fixture(scope="module", params=NEWEST, ids=lambda one: one.dialect.engine)
def engine(request: pytest.FixtureRequest) -> EngineUnderTest:
    found: EngineUnderTest = request.param
    return found


def test_a_user_ends_sessions_and_statements_of_others_but_not_ours(
    service: Service, engine: EngineUnderTest, shop: dict[str, Any], master: Client
) -> None:
    with engine.connect(service, shop) as other:
        master.rows(f"CALL mysql.rds_kill_query({other.value('SELECT CONNECTION_ID()')})")
        number = other.value("SELECT CONNECTION_ID()")
        master.rows(f"CALL mysql.rds_kill({number})")
        with pytest.raises(ClientError):
            other.rows("SELECT 1")
    there = "SELECT ID FROM information_schema.PROCESSLIST"
    eventually(lambda: number not in [row[0] for row in master.rows(there)])  # its thread has an end of its own
    for theirs in (1, 999_999_999):
        with pytest.raises(ClientError, match="no such thread"):
            master.rows(f"CALL mysql.rds_kill({theirs})")


def test_retention_of_binary_logs_is_set_shown_and_kept_over_a_restart(
    service: Service, engine: EngineUnderTest, shop: dict[str, Any], master: Client
) -> None:
    seconds = "SELECT @@GLOBAL.binlog_expire_logs_seconds"
    assert master.value(seconds) == 24 * 3600
    assert master.rows("CALL mysql.rds_show_configuration()")[0][:2] == ("binlog retention hours", None)
    master.rows("CALL mysql.rds_set_configuration('binlog retention hours', 48)")
    assert master.rows("CALL mysql.rds_show_configuration()")[0][:2] == ("binlog retention hours", "48")
    for wrong in ("'binlog retention hours', 169", "'binlog retention hours', 0", "'source delay', 1", "NULL, 1"):
        with pytest.raises(ClientError, match="binlog retention hours"):
            master.rows(f"CALL mysql.rds_set_configuration({wrong})")
    service.client("rds").reboot_db_instance(DBInstanceIdentifier=shop["DBInstanceIdentifier"])
    service.await_status(shop["DBInstanceIdentifier"], "available")
    with engine.connect(service, shop) as client:
        assert client.value(seconds) == 48 * 3600


def test_retention_of_binary_logs_is_kept_over_a_change_of_roles(service: Service, engine: EngineUnderTest) -> None:
    name = f"paired-{engine.dialect.engine}"
    pair = MysqlFamilyMultiAZ(service, engine, engine.create(service, name, MultiAZ=True))
    before = pair.await_in_sync()
    with engine.connect(service, pair.instance) as client:
        client.rows("CALL mysql.rds_set_configuration('binlog retention hours', 48)")
    service.await_status(name, "available")
    service.client("rds").reboot_db_instance(DBInstanceIdentifier=name, ForceFailover=True)
    pair.await_epoch(before.epoch + 1)
    service.await_status(name, "available")
    with engine.connect(service, pair.instance) as client:
        assert client.rows("CALL mysql.rds_show_configuration()")[0][1] == "48"
        assert client.value("SELECT @@GLOBAL.binlog_expire_logs_seconds") == 48 * 3600


def test_the_log_is_shipped_whatever_is_set_of_it_for_users(service: Service, engine: EngineUnderTest) -> None:
    """InnoDB takes no statement then that is to be logged as one: our marks in the log neither."""
    rds, name = service.client("rds"), f"worded-{engine.dialect.engine}"
    family = f"{engine.dialect.engine}{'.'.join(engine.version.split('.')[:2])}"
    rds.create_db_parameter_group(DBParameterGroupName=name, DBParameterGroupFamily=family, Description="-")
    wanted = {"binlog_format": "STATEMENT", "tx_isolation": "READ-COMMITTED", "transaction_isolation": "READ-COMMITTED"}
    known = {one["ParameterName"] for page in rds.get_paginator("describe_db_parameters").paginate(
        DBParameterGroupName=name) for one in page["Parameters"]}  # fmt: skip
    parameters = [
        {"ParameterName": one, "ParameterValue": value, "ApplyMethod": "immediate"}
        for one, value in wanted.items()
        if one in known
    ]
    rds.modify_db_parameter_group(DBParameterGroupName=name, Parameters=parameters)
    engine.create(service, name, DBParameterGroupName=name, BackupRetentionPeriod=1)

    def restorable() -> float:
        (shown,) = rds.describe_db_instances(DBInstanceIdentifier=name)["DBInstances"]
        return shown["LatestRestorableTime"].timestamp() if "LatestRestorableTime" in shown else 0.0

    eventually(lambda: restorable() > 0.0)
    since = time.time()
    eventually(lambda: restorable() > since)
    rds.delete_db_instance(DBInstanceIdentifier=name, SkipFinalSnapshot=True)


def test_time_zones_have_names(service: Service, engine: EngineUnderTest, master: Client) -> None:
    converted = "SELECT CONVERT_TZ('2026-07-01 12:00:00', 'Europe/Berlin', 'America/New_York')"
    assert str(master.value(converted)) == "2026-07-01 06:00:00"
    master.rows("SET time_zone = 'Asia/Kolkata'")
    assert str(master.value("SELECT FROM_UNIXTIME(86400)")) == "1970-01-02 05:30:00"
    master.rows("SET time_zone = 'SYSTEM'")


def test_log_tables_are_rotated(master: Client) -> None:
    for log in ("slow", "general"):
        for _time in range(2):
            master.rows(f"CALL mysql.rds_rotate_{log}_log()")
        assert master.value(f"SELECT COUNT(*) FROM mysql.{log}_log_backup") == 0


def test_the_buffer_pool_is_saved_and_read_again(master: Client) -> None:
    for done, status in (("dump", "Buffer pool(s) dump completed"), ("load", "Buffer pool(s) load completed")):
        master.rows(f"CALL mysql.rds_innodb_buffer_pool_{done}_now()")
        shown = f"SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_{done}_status'"
        eventually(lambda shown=shown, status=status: master.rows(shown)[0][1].startswith(status))
    master.rows("CALL mysql.rds_innodb_buffer_pool_load_abort()")


def test_the_master_user_makes_users_who_log_in(
    service: Service, engine: EngineUnderTest, shop: dict[str, Any], master: Client
) -> None:
    master.rows("CREATE USER clerk@'%' IDENTIFIED BY 'clerk-password-1' REQUIRE SSL")
    master.rows("GRANT ALL PRIVILEGES ON shop.* TO clerk@'%'")
    master.rows("REVOKE ALL PRIVILEGES ON shop.* FROM clerk@'%'")
    master.rows("GRANT SELECT ON shop.* TO clerk@'%'")
    with engine.connect(service, shop, user="clerk", password="clerk-password-1", database="shop") as clerk:
        assert clerk.value("SELECT CURRENT_USER()") == "clerk@%"
        with pytest.raises(ClientError, match="denied"):
            clerk.rows("CREATE TABLE not_mine (a int)")
    with pytest.raises(ClientError, match="denied"):
        engine.connect(service, shop, tls=False, user="clerk", password="clerk-password-1")
    with pytest.raises(ClientError, match="denied"):
        master.rows("GRANT SUPER ON *.* TO clerk@'%'")
    master.rows("DROP USER clerk@'%'")


async def test_logins_of_users_are_checked_and_changed_over_verified_tls(
    service: Service, engine: EngineUnderTest, shop: dict[str, Any], master: Client
) -> None:
    master.rows("CREATE USER rotated@'%' IDENTIFIED BY 'first-password'")
    logins, node = logins_of(engine.dialect.engine), service.node(shop["DBInstanceIdentifier"])
    rules = engines(Builds(service.settings)).rules(engine.dialect.engine)
    place = LoginPlace(
        address=node["address"],
        host=shop["Endpoint"]["Address"],
        port=node["port"],
        database="shop",
        authorities=Path(service.variables["MAINSTAY_CA_BUNDLE"]),
    )
    first, second, third = Secret("first-password"), Secret("second-password"), Secret("third-password")
    assert await logins.may_log_in(place, "rotated", first)
    assert not await logins.may_log_in(place, "rotated", second)
    assert not await logins.may_log_in(place, "nobody", first)
    verifier = rules.password_verifier("rotated", second.reveal(), b"0123456789abcdef")
    await logins.set_password(place, "rotated", first, target="rotated", new=second, verifier=verifier)
    assert await logins.may_log_in(place, "rotated", second) and not await logins.may_log_in(place, "rotated", first)
    verifier = rules.password_verifier("rotated", third.reveal(), b"0123456789abcdef")
    await logins.set_password(place, "app", Secret(PASSWORD), target="rotated", new=third, verifier=verifier)
    assert await logins.may_log_in(place, "rotated", third)
    with pytest.raises(Permanent, match="refuses"):
        await logins.set_password(place, "rotated", third, target="app", new=third, verifier=verifier)
    with pytest.raises(Permanent, match="no user"):
        await logins.set_password(place, "app", Secret(PASSWORD), target="nobody", new=third, verifier=verifier)
    elsewhere = msgspec.structs.replace(place, host="another.name")
    with pytest.raises(Transient):
        await logins.may_log_in(elsewhere, "rotated", third)
    master.rows("DROP USER rotated@'%'")


def test_a_full_engine_is_not_taken_for_a_dead_one(
    service: Service, engine: EngineUnderTest, shop: dict[str, Any], master: Client
) -> None:
    name = shop["DBInstanceIdentifier"]
    pid = service.node(name)["pid"]
    clients = [master]
    try:
        with pytest.raises(ClientError, match="Too many connections"):
            while True:
                clients.append(engine.connect(service, shop))
        # Longer than a settled engine is left unasked.
        deadline = time.monotonic() + 12
        while time.monotonic() < deadline:
            assert service.describe(name)["DBInstanceStatus"] == "available"
            time.sleep(0.5)
        assert clients[-1].value("SELECT 1") == 1
    finally:
        for client in clients[1:]:
            client.close()
    assert service.node(name)["pid"] == pid


def test_slow_and_general_logs_are_files_when_asked_for(service: Service, engine: EngineUnderTest) -> None:
    rds = service.client("rds")
    versions = rds.describe_db_engine_versions(Engine=engine.dialect.engine, EngineVersion=engine.version)[
        "DBEngineVersions"
    ]
    rds.create_db_parameter_group(
        DBParameterGroupName="logs", DBParameterGroupFamily=versions[0]["DBParameterGroupFamily"], Description="d"
    )
    wanted = {"log_output": "FILE", "general_log": "1", "slow_query_log": "1", "long_query_time": "0"}
    rds.modify_db_parameter_group(
        DBParameterGroupName="logs",
        Parameters=[
            {"ParameterName": name, "ParameterValue": value, "ApplyMethod": "immediate"}
            for name, value in wanted.items()
        ],
    )
    instance = engine.create(service, DBParameterGroupName="logs")
    name = instance["DBInstanceIdentifier"]
    try:
        with engine.connect(service, instance) as client:
            client.rows("SELECT 'a statement of the general log'")

        def text(log: str) -> str:
            portion = rds.download_db_log_file_portion(DBInstanceIdentifier=name, LogFileName=log, Marker="0")
            return str(portion.get("LogFileData", ""))

        for log in ("general/mysql-general.log", "slowquery/mysql-slowquery.log"):
            eventually(lambda log=log: "a statement of the general log" in text(log))
            # Nothing that could be a password, or stands for one, is in a log.
            assert "IDENTIFIED" not in text(log)
    finally:
        service.delete_instance(name)
        rds.delete_db_parameter_group(DBParameterGroupName="logs")


def test_a_replicas_standby_forces_what_it_receives_only_when_commits_wait_for_it(
    service: Service, engine: EngineUnderTest
) -> None:
    """Where nobody waits for it, it must keep up with a busy source; that is gone, it is the standby of an instance."""
    rds = service.client("rds")
    source = engine.create(service, BackupRetentionPeriod=1)["DBInstanceIdentifier"]
    replica = f"{source}-az"
    made = [source]
    try:
        rds.create_db_instance_read_replica(
            DBInstanceIdentifier=replica, SourceDBInstanceIdentifier=source, MultiAZ=True
        )
        made.append(replica)
        pair = MultiAZ(service, service.await_status(replica, "available"))

        def forces() -> bool:
            return as_operator(service, pair.standby, "SELECT @@GLOBAL.sync_relay_log") == [(1,)]

        pair.await_in_sync()
        assert not forces()
        service.delete_instance(made.pop(0))
        eventually(lambda: "ReadReplicaSourceDBInstanceIdentifier" not in service.describe(replica))
        service.await_status(replica, "available")
        pair.await_in_sync()
        assert forces()
    finally:
        for one in reversed(made):
            service.delete_instance(one)


def test_a_value_that_only_the_engine_refuses_is_told_in_its_words_and_a_reset_and_a_reboot_get_out_of_it(
    service: Service, engine: EngineUnderTest
) -> None:
    rds, name = service.client("rds"), f"bad-{engine.dialect.engine}"
    versions = rds.describe_db_engine_versions(Engine=engine.dialect.engine, EngineVersion=engine.version)
    family = versions["DBEngineVersions"][0]["DBParameterGroupFamily"]
    rds.create_db_parameter_group(DBParameterGroupName=name, DBParameterGroupFamily=family, Description="d")

    def change(parameter: str, value: str) -> None:
        wanted = {"ParameterName": parameter, "ParameterValue": value, "ApplyMethod": "pending-reboot"}
        rds.modify_db_parameter_group(DBParameterGroupName=name, Parameters=[wanted])

    def told() -> list[str]:
        found = rds.describe_events(SourceIdentifier=name, SourceType="db-instance", Duration=60)["Events"]
        return [str(event["Message"]) for event in found]

    try:
        with pytest.raises(ApiError, match="InvalidParameterValue"):
            change("optimizer_switch", "nonsense")
        with pytest.raises(ApiError, match="InvalidParameterValue"):
            change("session_track_system_variables", "nonsense")
        change("session_track_system_variables", "*")
        change("character_set_server", "latin1")  # each is right, together they are not
        change("collation_server", "utf8mb4_bin")
        rds.create_db_instance(
            DBInstanceIdentifier=name, Engine=engine.dialect.engine, EngineVersion=engine.version,
            DBInstanceClass="db.t3.micro", AllocatedStorage=20, MasterUsername="app", MasterUserPassword=PASSWORD,
            BackupRetentionPeriod=0, DBParameterGroupName=name,
        )  # fmt: skip
        service.await_status(name, "incompatible-parameters")
        [said] = [one for one in told() if "incompatible-parameters" in one]
        assert "utf8mb4_bin" in said and "latin1" in said and name in said
        assert str(service.settings.home) not in said and "startup.log" not in said
        rds.reset_db_parameter_group(DBParameterGroupName=name, ResetAllParameters=True)
        rds.reboot_db_instance(DBInstanceIdentifier=name)
        with engine.connect(service, service.await_status(name, "available")) as client:
            assert client.value("SELECT 1") == 1
    finally:
        service.delete_instance(name)
        rds.delete_db_parameter_group(DBParameterGroupName=name)
