"""What only MySQL has: a master user from whom our accounts and schema mysql are safe."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from harness.dialects import MYSQL, Client, ClientError, EngineUnderTest, newest_of
from harness.service import Service, eventually
from mainstay.engines.builds import Builds
from mainstay.engines.mysql import bootstrap
from mainstay.engines.mysql_family.layout import arguments, place_options
from mainstay.engines.mysql_family.scratch import Scratch, ask

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module", params=newest_of(MYSQL), ids=lambda one: one.version)
def engine(request: pytest.FixtureRequest) -> EngineUnderTest:
    found: EngineUnderTest = request.param
    return found


def refused(client: Client, statement: str) -> bool:
    try:
        client.rows(statement)
    except ClientError:
        return True
    return False


def test_the_master_user_has_the_role_that_rds_gives(master: Client) -> None:
    assert master.value("SELECT CURRENT_ROLE()") == "`rds_superuser_role`@`%`"
    assert not [row for row in master.rows("SHOW GRANTS") if "SYSTEM_USER" in row[0] or "SUPER," in row[0]]
    assert master.value("SELECT plugin FROM mysql.user WHERE user = 'app'") == "caching_sha2_password"


@pytest.mark.parametrize("ours", ["rdsadmin", "the operator"])
def test_our_accounts_are_out_of_the_master_users_reach(master: Client, ours: str) -> None:
    admins = [row[0] for row in master.rows("SELECT user FROM mysql.user WHERE plugin = 'auth_socket'")]
    assert "rdsadmin" in admins and len(admins) >= 2
    name = "rdsadmin" if ours == "rdsadmin" else next(admin for admin in admins if admin != "rdsadmin")
    account = f"'{name}'@'localhost'"
    for statement in (
        f"ALTER USER {account} IDENTIFIED BY 'mine-now-1' ACCOUNT UNLOCK",
        f"DROP USER {account}",
        f"RENAME USER {account} TO x@'%'",
        f"GRANT {account} TO app@'%'",
        f"REVOKE SELECT ON *.* FROM {account}",
        f"GRANT SELECT ON shop.* TO {account}",
        f"CREATE DEFINER = {account} PROCEDURE shop.mine() SELECT 1",
        f"CREATE DEFINER = {account} SQL SECURITY DEFINER VIEW shop.mine AS SELECT 1",
        f"CREATE DEFINER = {account} EVENT shop.mine ON SCHEDULE AT NOW() DO SELECT 1",
    ):
        assert refused(master, statement), statement
    assert name in [row[0] for row in master.rows("SELECT user FROM mysql.user WHERE plugin = 'auth_socket'")]


def test_nobody_whom_the_master_user_makes_can_write_schema_mysql(
    service: Service, engine: EngineUnderTest, shop: dict[str, Any], master: Client
) -> None:
    for statement in (
        "GRANT INSERT, UPDATE, DELETE ON mysql.* TO app@'%'",
        "REVOKE rds_superuser_role FROM rdsadmin@localhost",
        "DELETE FROM mysql.db",
        "INSERT INTO mysql.plugin VALUES ('a', 'b')",
        "CREATE TABLE mysql.mine (a int)",
        "CREATE PROCEDURE mysql.mine() SELECT 1",
        "ALTER PROCEDURE mysql.rds_kill COMMENT 'mine'",
        "DROP PROCEDURE mysql.rds_kill",
        "CREATE TRIGGER mysql.mine BEFORE UPDATE ON mysql.rds_configuration FOR EACH ROW SET @a = 1",
        "LOCK TABLES mysql.user WRITE",
        "SET GLOBAL partial_revokes = 0",
        "SET SESSION sql_log_bin = 0",
    ):
        assert refused(master, statement), statement
    master.rows("CREATE USER made@'%' IDENTIFIED BY 'made-password-1'")
    try:
        master.rows("GRANT SELECT, INSERT, UPDATE, DELETE, DROP, CREATE ON *.* TO made@'%'")
        with engine.connect(service, shop, user="made", password="made-password-1") as made:
            made.rows("CREATE TABLE shop.of_made (a int)")
            made.rows("DROP TABLE shop.of_made")
            for statement in (
                "UPDATE mysql.user SET Super_priv = 'Y' WHERE User = 'made'",
                "INSERT INTO mysql.func VALUES ('a', 0, 'b', 'function')",
                "DROP TABLE mysql.rds_configuration",
            ):
                assert refused(made, statement), statement
        master.rows("GRANT rds_superuser_role TO made@'%'")
        with engine.connect(service, shop, user="made", password="made-password-1") as made:
            made.rows("SET ROLE ALL")
            assert refused(made, "UPDATE mysql.user SET Super_priv = 'Y' WHERE User = 'made'")
    finally:
        master.rows("DROP USER made@'%'")


def test_what_programs_do_who_dump_a_database(master: Client) -> None:
    master.rows("CREATE TABLE dumped (a int PRIMARY KEY)")
    for statement in (
        "FLUSH TABLES",
        "FLUSH TABLES WITH READ LOCK",
        "UNLOCK TABLES",
        "FLUSH PRIVILEGES",
        "SHOW BINARY LOG STATUS",
        "LOCK TABLES dumped READ",
        "UNLOCK TABLES",
        "DROP TABLE dumped",
    ):
        master.rows(statement)


def test_a_start_removes_the_servers_root_and_not_a_users(service: Service, engine: EngineUnderTest) -> None:
    """Where somebody else operates the node, root is a name as any other."""
    build = Builds(service.settings).resolve("mysql", engine.version)
    places = [
        *arguments(place_options(build, *bootstrap.SHARE)),
        "--skip-networking",
        "--mysqlx=0",
        "--secure-file-priv=NULL",
    ]
    server = Scratch(make=bootstrap.bootstrap_command(build), serve=[bootstrap.server(build), "--no-defaults", *places])

    def roots(cursor: Any) -> list[int]:
        """How many there are after a start, and after one more when a user has made one."""
        found = []
        for made in ("DO 0", "CREATE USER root@localhost IDENTIFIED BY 'a-users-own-1'"):
            for statement in (made, *bootstrap.DROP_ROOT):
                cursor.execute(statement)
            cursor.execute("SELECT COUNT(*) FROM mysql.user WHERE User = 'root'")
            found.append(cursor.fetchone()[0])
        return found

    assert ask(build, service.settings.engine_user, server, roots) == [0, 1]


def test_a_number_that_another_process_has_by_now_keeps_no_server_from_starting(
    own_service: Service, engine: EngineUnderTest
) -> None:
    """MySQL believes what a killed server has left beside its socket: a process of that number has the socket."""
    engine.create(own_service, "other")
    shop = engine.create(own_service, "shop")
    node, another = own_service.node("shop"), str(own_service.node("other")["pid"])
    sockets = own_service.settings.runtime / "nodes" / node["node"]
    with own_service.stopped("agent"):
        os.kill(node["pid"], signal.SIGKILL)
        eventually(lambda: not Path(f"/proc/{node['pid']}").exists())
        for server in ("mysqld", "copier"):
            (sockets / f"{server}.sock.lock").write_text(f"{another}\n")

    def answers() -> bool:
        try:
            engine.connect(own_service, shop).close()
        except ClientError:
            return False
        return True

    eventually(answers, timeout_s=30.0)
    own_service.await_status("shop", "available")
    rds = own_service.client("rds")
    rds.create_db_snapshot(DBInstanceIdentifier="shop", DBSnapshotIdentifier="copied")
    states = ("available", "failed")
    found = eventually(
        lambda: (
            (one := rds.describe_db_snapshots(DBSnapshotIdentifier="copied")["DBSnapshots"][0])["Status"] in states
            and one
        ),
        timeout_s=30.0,
    )
    assert found["Status"] == "available"
