"""What users of a Multi-AZ MariaDB or MySQL do to the engine's own things, by mistake or not: the pair stays whole."""

from __future__ import annotations

import os
import pwd
import signal
import time
from collections.abc import Iterator
from contextlib import suppress

import pymysql
import pytest

from harness.dialects import MARIADB, MYSQL, EngineUnderTest, newest_of
from harness.mysql_family_pairs import Lost, MysqlFamilyMultiAZ, Told
from harness.service import Service, eventually

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.timeout(600),
]

ENGINES = [*newest_of(MARIADB), *newest_of(MYSQL)]
LOCKS = {"mariadb": "LOCK TABLES mysql.rds_heartbeat2 READ", "mysql": "FLUSH TABLES WITH READ LOCK"}
"""As dumps of everything take them; the master user of MariaDB has no RELOAD."""

LOCKED_S = 15.0
"""A primary that does not answer is replaced, and a standby that says nothing is given up, after 5 s."""


@pytest.fixture(scope="module", params=ENGINES, ids=lambda one: one.dialect.engine)
def pair(request: pytest.FixtureRequest) -> Iterator[MysqlFamilyMultiAZ]:
    with Service() as service:
        instance = request.param.create(service, "m1", MultiAZ=True, DBName="shop")
        yield MysqlFamilyMultiAZ(service, request.param, instance)


def test_lock_of_a_user_is_neither_a_dead_primary_nor_a_lost_standby(pair: MysqlFamilyMultiAZ) -> None:
    """Nobody can write while it is held, and that is what its session asked for."""
    before = pair.await_in_sync()
    with pair.connect() as session:
        session.execute(LOCKS[pair.name])
        deadline = time.monotonic() + LOCKED_S
        while time.monotonic() < deadline:
            session.execute("SELECT 1")
            assert pair.record == before
            time.sleep(0.2)
        session.execute("UNLOCK TABLES")
    pair.make_table()
    assert pair.await_in_sync() == before


def test_what_the_standby_cannot_apply_is_not_lost_with_the_primary(pair: MysqlFamilyMultiAZ) -> None:
    """It has acknowledged these commits. MariaDB, told to apply again what it has, discards what it has received."""
    pair.make_table()
    before = pair.await_in_sync()
    pair.as_operator(before.standby, "SET sql_log_bin = 0", "INSERT INTO shop.kept (session, sequence) VALUES (1, 2)")
    with pair.connect() as session:
        for sequence in (1, 2, 3):
            session.execute(f"INSERT INTO kept (session, sequence) VALUES (1, {sequence})")
        pair.kill(before.primary)

    rows: list[tuple[int, ...]] = []
    deadline = time.monotonic() + 90.0
    while not rows and time.monotonic() < deadline:
        with suppress(Lost, pymysql.err.MySQLError), pair.connect() as session:
            rows = session.execute("SELECT session, sequence FROM kept ORDER BY 2").fetchall()
    assert [tuple(row) for row in rows] == [(1, 1), (1, 2), (1, 3)]
    after = pair.await_in_sync()  # the standby is copied anew
    assert pair.rows_of(after.standby) == [(1, 1), (1, 2), (1, 3)]


def test_rows_of_a_memory_table_that_the_standby_has_lost_do_not_keep_it_from_following(
    pair: MysqlFamilyMultiAZ,
) -> None:
    """It has such tables empty once it was started; copying it anew never ended, and commits took seconds meanwhile."""
    pair.make_table()
    with pair.connect() as session:
        session.execute("CREATE TABLE fleeting (id int PRIMARY KEY, value char(36)) ENGINE=MEMORY")
        session.execute("INSERT INTO fleeting VALUES (1, ''), (2, '')")
        pair.kill(pair.await_in_sync().standby)
        eventually(lambda: not pair.record.standby)
        standby = pair.await_in_sync().standby
        for row in (1, 2):
            session.execute(f"UPDATE fleeting SET value = UUID() WHERE id = {row}")  # replicated as a row by both
        session.execute("INSERT INTO kept (session, sequence) VALUES (1, 1)")
    eventually(lambda: pair.rows_of(standby) == [(1, 1)], timeout_s=30.0)
    before = pair.await_in_sync()
    pair.kill(before.primary)
    after = pair.await_epoch(before.epoch + 1)
    assert after.primary == standby and pair.rows_of(standby) == [(1, 1)]
    pair.await_in_sync()  # by then clients are let in again
    with pair.connect() as session:
        session.execute("DROP TABLE fleeting")


# MariaDB lets one who has CREATE USER change every account, ours too. MySQL does not: tests/engine/test_mysql.py.


def only_mariadb(pair: MysqlFamilyMultiAZ) -> None:
    if pair.name != "mariadb":
        pytest.skip("this engine keeps its administrators' accounts itself")


def is_operated(pair: MysqlFamilyMultiAZ) -> bool:
    """Whether both nodes can be administered, and procedures run with our rights."""
    with suppress(pymysql.err.MySQLError, Lost, Told):
        for node_id in pair.node_ids:
            [(count,)] = pair.as_operator(node_id, "SELECT COUNT(*) FROM mysql.user WHERE User = 'rdsadmin'")
            if count != 1:
                return False
        with pair.connect() as session:
            session.execute("CALL mysql.rds_show_configuration()")
        return True
    return False


def test_rdsadmin_that_was_dropped_comes_back_without_a_restart(pair: MysqlFamilyMultiAZ) -> None:
    only_mariadb(pair)
    before = pair.await_in_sync()
    with pair.connect() as session:
        session.execute("DROP USER rdsadmin@localhost")
        assert not is_operated(pair), "nothing was taken away"
        eventually(lambda: is_operated(pair), timeout_s=30.0)
        session.execute("SELECT 1")
    assert pair.record == before


@pytest.mark.parametrize(
    "attack",
    [
        "ALTER USER {own} IDENTIFIED BY 'Secret-123'",
        "DROP USER {own}",
        "REVOKE ALL PRIVILEGES, GRANT OPTION FROM {own}",
    ],
)
def test_who_is_shut_out_of_both_nodes_gets_in_again(pair: MysqlFamilyMultiAZ, attack: str) -> None:
    """Nothing could be asked of the instance any more: not a backup, not a change, not a failover."""
    only_mariadb(pair)
    pair.await_in_sync()
    own = f"{pwd.getpwuid(os.geteuid()).pw_name}@localhost"
    with pair.connect() as session:
        session.execute(attack.format(own=own))
    eventually(lambda: is_operated(pair), timeout_s=60.0)
    pair.await_in_sync()
    pair.make_table()
    eventually(lambda: is_operated(pair), timeout_s=60.0)  # the standby has applied the statement by now


def test_an_account_of_ours_under_another_name_has_no_more_than_users_have(pair: MysqlFamilyMultiAZ) -> None:
    only_mariadb(pair)
    with pair.connect() as session:
        session.execute("RENAME USER rdsadmin@localhost TO thief@'%'")
        session.execute("ALTER USER thief@'%' IDENTIFIED BY 'Secret-123' ACCOUNT UNLOCK")
    try:
        eventually(lambda: not may_set_a_variable(pair, "thief"), timeout_s=30.0)
    finally:
        with pair.connect() as session:
            session.execute("DROP USER thief@'%'")
    eventually(lambda: is_operated(pair), timeout_s=30.0)


def test_a_name_that_reads_like_two_accounts_is_one(pair: MysqlFamilyMultiAZ) -> None:
    """It is written by users, and what cuts it back is SQL."""
    only_mariadb(pair)
    before, name = pair.await_in_sync(), "thief'@'%',rdsadmin@localhost,'x"
    quoted = "'" + name.replace("'", "''") + "'@'%'"
    with pair.connect() as session:
        session.execute(f"RENAME USER rdsadmin@localhost TO {quoted}")
        session.execute(f"ALTER USER {quoted} IDENTIFIED BY 'Secret-123' ACCOUNT UNLOCK")
    try:
        eventually(lambda: not may_set_a_variable(pair, name), timeout_s=30.0)
        eventually(lambda: is_operated(pair), timeout_s=30.0)
    finally:
        with pair.connect() as session:
            session.execute(f"DROP USER {quoted}")
    assert pair.await_in_sync() == before


def may_set_a_variable(pair: MysqlFamilyMultiAZ, user: str) -> bool:
    try:
        with pair.connect(user=user, password="Secret-123", database=None) as session:
            session.execute("SET GLOBAL sync_binlog = 1")
    except Told:
        return False
    except Lost:  # its sessions are ended when it loses what it had: the next one is told
        return True
    return True


def test_what_the_standby_follows_by_is_not_a_users_to_end(pair: MysqlFamilyMultiAZ) -> None:
    pair.await_in_sync()
    following = "SELECT ID FROM information_schema.PROCESSLIST WHERE COMMAND LIKE 'Binlog Dump%'"
    [(thread,)] = pair.as_operator(pair.primary, following)
    with pair.connect() as session:
        for procedure in ("rds_kill", "rds_kill_query"):
            with pytest.raises(Told, match=r"not one of a user|not owner"):
                session.execute(f"CALL mysql.{procedure}({thread})")
    assert pair.as_operator(pair.primary, following) == [(thread,)]


def test_whoever_ends_his_own_session_is_told_that_it_was_ended(pair: MysqlFamilyMultiAZ) -> None:
    with pair.connect() as session, pytest.raises((Told, Lost)) as told:
        session.execute("CALL mysql.rds_kill(CONNECTION_ID())")
    assert "no such thread" not in str(told.value)


HINDRANCES = {
    "mariadb": {"autocommit": "0", "wait_timeout": "1", "max_statement_time": "0.001", "init_connect": "nonsense"},
    "mysql": {"autocommit": "0", "wait_timeout": "1", "max_execution_time": "1", "character_set_server": "latin1",
              "init_connect": "nonsense"},
}  # fmt: skip


@pytest.fixture
def hindered(pair: MysqlFamilyMultiAZ) -> Iterator[MysqlFamilyMultiAZ]:
    """The pair with these parameters, restarted; not any more afterwards."""
    rds, before = pair.service.client("rds"), pair.instance["DBParameterGroups"][0]["DBParameterGroupName"]
    family = before.partition(".")[2]
    rds.create_db_parameter_group(DBParameterGroupName="hinders", DBParameterGroupFamily=family, Description="-")
    wanted = [
        {"ParameterName": name, "ParameterValue": value, "ApplyMethod": "immediate"}
        for name, value in HINDRANCES[pair.name].items()
    ]
    rds.modify_db_parameter_group(DBParameterGroupName="hinders", Parameters=wanted)
    restart_with(pair, "hinders")
    yield pair
    restart_with(pair, before)


def restart_with(pair: MysqlFamilyMultiAZ, group: str) -> None:
    """Both nodes, with the parameters of this group."""
    pair.await_in_sync()
    rds = pair.service.client("rds")
    rds.modify_db_instance(DBInstanceIdentifier="m1", DBParameterGroupName=group, ApplyImmediately=True)
    rds.get_waiter("db_instance_available").wait(DBInstanceIdentifier="m1", WaiterConfig={"Delay": 1})
    before = {node_id: pair.postmaster(node_id) for node_id in pair.node_ids}
    known = pair.record
    rds.reboot_db_instance(DBInstanceIdentifier="m1")
    eventually(lambda: all(pair.postmaster(node_id) not in (0, pid) for node_id, pid in before.items()))
    eventually(lambda: pair.record.incarnation != known.incarnation)
    pair.await_in_sync()


def test_what_users_set_hinders_neither_our_sessions_nor_a_start(hindered: MysqlFamilyMultiAZ) -> None:
    """A standby that starts runs what makes it follow; with these it ended in the middle, and never followed again."""
    epoch = hindered.await_in_sync().epoch
    os.kill(hindered.postmaster(hindered.standby), signal.SIGKILL)
    eventually(lambda: not hindered.record.standby)
    assert hindered.await_in_sync().epoch == epoch
    time.sleep(3.0)
    assert hindered.record.standby, "it does not stay in sync"


@pytest.mark.parametrize("engine", newest_of(MYSQL), ids=lambda one: one.dialect.engine)
def test_a_standby_is_copied_whatever_the_servers_character_set_is(engine: EngineUnderTest) -> None:
    """MySQL refuses to be cloned by a server that has another one, or another collation."""
    with Service() as service:
        rds, family = service.client("rds"), f"mysql{'.'.join(engine.version.split('.')[:2])}"
        rds.create_db_parameter_group(DBParameterGroupName="words", DBParameterGroupFamily=family, Description="-")
        wanted = {"character_set_server": "latin1", "collation_server": "latin1_german2_ci"}
        parameters = [
            {"ParameterName": name, "ParameterValue": value, "ApplyMethod": "immediate"}
            for name, value in wanted.items()
        ]
        rds.modify_db_parameter_group(DBParameterGroupName="words", Parameters=parameters)
        instance = engine.create(service, "m1", MultiAZ=True, DBName="shop", DBParameterGroupName="words")
        pair = MysqlFamilyMultiAZ(service, engine, instance)
        before = pair.await_in_sync()
        pair.make_table()
        pair.kill(before.primary)
        assert pair.await_epoch(before.epoch + 1).primary == before.standby
        assert pair.await_in_sync().standby == before.primary  # copied anew, as every former primary is
        settings = f"SELECT {', '.join(f'@@GLOBAL.{name}' for name in wanted)}"
        for node_id in pair.node_ids:
            assert pair.as_operator(node_id, settings) == [tuple(wanted.values())]
