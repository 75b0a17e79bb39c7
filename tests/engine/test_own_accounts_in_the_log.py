"""A user's statements about accounts that are ours: every restore and every follower gets past them.

MariaDB takes them: they are in the binary log, our putting the accounts back is not. MySQL refuses them.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime

import pymysql
import pytest

from harness.dialects import MARIADB, MYSQL, ClientError, EngineUnderTest, newest_of
from harness.mysql_family_pairs import MysqlFamilyMultiAZ, as_operator
from harness.service import Service, eventually
from harness.shop import Shop, made, snapshot, whole_second

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]

OPERATOR = f"{pwd.getpwuid(os.geteuid()).pw_name}@localhost"
RDSADMIN = "rdsadmin@localhost"
CALL = "CALL mysql.rds_show_configuration()"


@pytest.fixture
def own() -> Iterator[Service]:
    """A service that a test has for itself."""
    with Service() as service:
        yield service


@pytest.fixture(params=newest_of(MARIADB), ids=lambda one: one.version)
def mariadb(request: pytest.FixtureRequest) -> EngineUnderTest:
    found: EngineUnderTest = request.param
    return found


@pytest.fixture(params=newest_of(MYSQL), ids=lambda one: one.version)
def mysql(request: pytest.FixtureRequest) -> EngineUnderTest:
    found: EngineUnderTest = request.param
    return found


class Attacked(Shop):
    """A shop whose user does things to our accounts, and writes a number after each."""

    moments: list[datetime]

    def is_whole(self) -> bool:
        """Whether we can administer it, and what is ours runs."""
        with suppress(pymysql.err.MySQLError, *ClientError):
            node = next(one["node"] for one in self.service.nodes() if one["instance"] == self.identifier)
            [(count,)] = as_operator(self.service, node, "SELECT COUNT(*) FROM mysql.user WHERE User = 'rdsadmin'")
            self.run(CALL)
            return bool(count == 1)
        return False

    def attack(self, *statements: str) -> None:
        """Statements, which may fail; when our accounts are as they were, a number is written."""
        with self.engine.connect(self.service, self.service.describe(self.identifier), database="shop") as client:
            for statement in statements:
                with suppress(*ClientError):
                    client.rows(statement)
        eventually(self.is_whole)
        self.insert(len(self.moments))
        self.moments.append(whole_second())


def attacked(shop: Shop) -> Attacked:
    found = Attacked(shop.service, shop.engine, shop.identifier)
    found.moments = []
    return found


def accounts(shop: Shop) -> list[tuple[str, ...]]:
    return shop.run("SELECT User, Host FROM mysql.user WHERE User NOT LIKE 'rdsrepl%' ORDER BY 1, 2")


@pytest.mark.parametrize("own_account", [RDSADMIN, OPERATOR])
def test_a_restore_gets_past_them(own: Service, mariadb: EngineUnderTest, own_account: str) -> None:
    shop = attacked(made(own, mariadb))
    shop.attack("SELECT 1")
    for attack in (
        "DROP USER {own}",
        "ALTER USER {own} IDENTIFIED BY 'Secret-123'",
        "RENAME USER {own} TO `thief'{number}`@'%'",
    ):
        for number in (1, 2):
            shop.attack(attack.format(own=own_account, number=number))
    before = accounts(shop)
    assert len([user for user, _host in before if user.startswith("thief")]) == 2
    shop.restorable(shop.moments[-1])
    for number in (0, 1, 3, len(shop.moments) - 1):
        back = attacked(shop.restored(f"back-{number}", shop.moments[number]))
        assert back.numbers() == list(range(number + 1))
        assert back.is_whole()
    assert accounts(back) == before


def test_other_accounts_of_the_same_statements_are_as_they_were(own: Service, mariadb: EngineUnderTest) -> None:
    """And what succeeded only because one of ours was there, or was not."""
    shop = attacked(made(own, mariadb))
    theirs = RDSADMIN
    shop.attack(f"DROP USER {theirs}")
    shop.attack(f"CREATE USER {theirs}, anna@'%'")  # makes one of them
    shop.attack("CREATE USER bob@'%', carl@'%', dora@'%'", f"DROP USER bob@'%', {theirs}, carl@'%'")
    shop.attack(f"DROP USER {theirs}", f"CREATE USER {theirs} IDENTIFIED BY 'Secret-123', emil@'%'")
    shop.attack(f"DROP USER {theirs}", f"RENAME USER dora@'%' TO {theirs}")
    shop.attack(f"RENAME USER anna@'%' TO anton@'%', {theirs} TO thief@'%'")
    shop.attack("DROP USER thief@'%'", f"DROP USER {theirs}", f"DROP USER {theirs}, emil@'%'")
    shop.attack("DROP TABLE mysql.rds_heartbeat2", f"GRANT SELECT ON shop.* TO {theirs}", "CREATE USER fritz@'%'")
    before = accounts(shop)
    assert [user for user, host in before if host == "%"] == ["anton", "app", "fritz"]
    shop.restorable(shop.moments[-1])
    for number in (3, len(shop.moments) - 1):
        back = attacked(shop.restored(f"back-{number}", shop.moments[number]))
        assert back.numbers() == list(range(number + 1))
        assert back.is_whole()
    assert accounts(back) == before


def test_a_statement_that_fails_for_another_reason_still_ends_the_restore(
    own: Service, mariadb: EngineUnderTest
) -> None:
    """Nothing but what is about our accounts is passed over."""
    shop = made(own, mariadb)
    node = own.node("source")["node"]
    as_operator(own, node, "SET sql_log_bin = 0", "CREATE USER unlogged@'%'")
    shop.run("DROP USER unlogged@'%'")
    shop.insert(1)
    moment = whole_second()
    shop.restorable(moment)
    own.client("rds").restore_db_instance_to_point_in_time(
        SourceDBInstanceIdentifier="source", TargetDBInstanceIdentifier="never", RestoreTime=moment
    )
    own.await_status("never", "incompatible-restore")


def test_followers_get_past_them(own: Service, mariadb: EngineUnderTest) -> None:
    """A standby and a read replica, neither of which is copied anew for it."""
    shop = attacked(made(own, mariadb, MultiAZ=True))
    pair = MysqlFamilyMultiAZ(own, mariadb, own.describe("source"))
    pair.await_in_sync()
    own.client("rds").create_db_instance_read_replica(
        DBInstanceIdentifier="replica", SourceDBInstanceIdentifier="source"
    )
    own.await_status("replica", "available")
    replica, before = Shop(own, mariadb, "replica"), pair.await_in_sync()
    followers = (before.standby, own.node("replica")["node"])
    copies = [data_of(own, node) for node in followers]
    theirs = RDSADMIN
    for _ in range(2):
        shop.attack(f"DROP USER {theirs}")
        shop.attack(f"RENAME USER {theirs} TO thief@'%'", "DROP USER thief@'%'")
    shop.attack(f"CREATE USER {theirs}, anna@'%'")
    for statement in (f"CREATE USER {theirs} IDENTIFIED BY 'Secret-123'", f"RENAME USER anna@'%' TO {theirs}"):
        eventually(lambda statement=statement: comes_first(shop, followers, statement))
        shop.attack("SELECT 1")
    for user, host in shop.run("SELECT User, Host FROM mysql.user WHERE User LIKE 'rdsrepl%'"):
        shop.attack(f"DROP USER `{user}`@`{host}`")
    eventually(lambda: replica.numbers() == shop.numbers())
    eventually(lambda: len(pair.as_operator(before.standby, "SELECT a FROM shop.kept")) == len(shop.moments))
    after = pair.await_in_sync()
    assert (after.epoch, after.standby) == (before.epoch, before.standby)
    assert [data_of(own, node) for node in followers] == copies


def comes_first(shop: Attacked, followers: tuple[str, ...], statement: str) -> bool:
    """Drops rdsadmin and runs the statement when the followers have it again; False if the primary had it before."""
    with shop.engine.connect(shop.service, shop.service.describe(shop.identifier)) as client:
        client.rows(f"DROP USER {RDSADMIN}")
        for node in followers:
            eventually(lambda node=node: is_there(shop.service, node, "rdsadmin"))
        try:
            client.rows(statement)
        except ClientError:
            eventually(shop.is_whole)
            return False
    return True


def data_of(service: Service, node_id: str) -> int:
    """Which copy of its source's data a node has: another one is in another directory."""
    return (service.home / "agent" / "nodes" / node_id / "volume" / "data").stat().st_ino


def is_there(service: Service, node_id: str, user: str) -> bool:
    with suppress(pymysql.err.MySQLError):
        return bool(as_operator(service, node_id, f"SELECT 1 FROM mysql.user WHERE User = '{user}'"))
    return False


def test_mysql_refuses_them_and_restores_what_only_looks_like_them(own: Service, mysql: EngineUnderTest) -> None:
    """Accounts of users whose names begin as those of our followers do are as safe as any other."""
    shop = attacked(made(own, mysql))
    shop.run("CREATE USER anna@'%', `rdsrepl-mine`@'%'")
    snapshot(own, "source", "shot")
    before = accounts(shop)
    for account in (RDSADMIN, OPERATOR):
        for statement in (
            f"DROP USER {account}, anna@'%'",
            f"RENAME USER anna@'%' TO anton@'%', {account} TO thief@'%'",
            f"ALTER USER {account} IDENTIFIED BY 'Secret-123'",
            f"CREATE USER IF NOT EXISTS {account}, bob@'%'",
        ):
            with pytest.raises(ClientError):
                shop.run(statement)
    assert accounts(shop) == before
    shop.attack("DROP USER `rdsrepl-mine`@'%'", "RENAME USER anna@'%' TO anton@'%'")
    before = accounts(shop)
    shop.restorable(shop.moments[-1])
    back = attacked(shop.restored("back", shop.moments[-1]))
    assert back.numbers() == [0] and accounts(back) == before and back.is_whole()
