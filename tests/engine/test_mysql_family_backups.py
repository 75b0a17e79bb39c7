"""What backups of MariaDB and MySQL must show beyond the conformance suite: what a log does not say by itself."""

from __future__ import annotations

import json
import os
import pwd
import random
import secrets
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pymysql
import pytest

from harness.backups import kill_one
from harness.dialects import MARIADB, MYSQL, ClientError, EngineUnderTest, newest_of
from harness.mysql_family_pairs import as_operator
from harness.pairs import MultiAZ
from harness.service import Service, eventually
from harness.shop import TABLE, Shop, made, snapshot, snapshot_status, whole_second
from harness.volumes import why_not
from mainstay.engines.builds import Builds
from mainstay.engines.mariadb import bootstrap as mariadb
from mainstay.engines.mysql import bootstrap as mysql
from mainstay.engines.mysql_family.layout import place_options

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]

BOOTSTRAPS: dict[str, Any] = {"mariadb": mariadb, "mysql": mysql}
EVENTS = "SELECT EVENT_NAME, STATUS, DEFINER, LAST_ALTERED FROM information_schema.EVENTS ORDER BY 1"
DEFAULT_SCHEDULER = {"mariadb": "OFF", "mysql": "ON"}


@pytest.fixture(scope="module", params=[*newest_of(MARIADB), *newest_of(MYSQL)], ids=lambda one: one.dialect.engine)
def engine(request: pytest.FixtureRequest) -> EngineUnderTest:
    found: EngineUnderTest = request.param
    return found


@pytest.fixture
def own() -> Iterator[Service]:
    """A service that a test has for itself."""
    with Service() as service:
        yield service


def begin_from_snapshot(service: Service, name: str, target: str) -> None:
    rds = service.client("rds")
    rds.restore_db_instance_from_db_snapshot(DBInstanceIdentifier=target, DBSnapshotIdentifier=name)


def from_snapshot(shop: Shop, name: str, target: str) -> Shop:
    begin_from_snapshot(shop.service, name, target)
    shop.service.await_status(target, "available")
    return Shop(shop.service, shop.engine, target)


def noted_events(shop: Shop) -> dict[str, str]:
    """What the log says of the events until now."""
    try:
        [(noted,)] = shop.run("SELECT noted FROM mysql.rds_events")
    except ClientError:  # the first note makes the table
        return {}
    return {event["name"]: event["status"] for event in json.loads(noted)}


def test_whatever_is_in_the_log_is_replayed(own: Service, engine: EngineUnderTest) -> None:
    """Events, users, routines, other storage engines, a transaction that is longer than a segment of the archive."""
    shop, name = made(own, engine), engine.dialect.engine
    other = "CREATE TABLE old_style (a int) ENGINE=MyISAM"
    if name == "mysql":  # no copy would have its rows
        with pytest.raises(ClientError, match="disabled"):
            shop.run(other)
        other = "CREATE TABLE old_style (a int) ENGINE=MEMORY"
    shop.run(
        "CREATE TABLE big (a int PRIMARY KEY AUTO_INCREMENT, b longtext)",
        other,
        "INSERT INTO old_style VALUES (1), (2)",
        "CREATE USER clerk@'%' IDENTIFIED BY 'clerk-password-1'",
        "GRANT SELECT ON shop.* TO clerk@'%'",
        "CREATE PROCEDURE twice(IN x int) INSERT INTO kept VALUES (2 * x)",
        "CREATE EVENT tidy ON SCHEDULE EVERY 1 DAY DO DELETE FROM shop.kept WHERE a > 1000",
        "BEGIN",
        *("INSERT INTO big (b) VALUES (REPEAT(SHA2(UUID(), 256), 16384))" for _ in range(40)),
        "COMMIT",
        "CALL twice(21)",
    )
    shop.run("CREATE EVENT resting ON SCHEDULE EVERY 1 DAY DO SELECT 1", "ALTER EVENT resting DISABLE")
    events = shop.run(EVENTS)
    assert [event[:3] for event in events] == [("resting", "DISABLED", "app@%"), ("tidy", "ENABLED", "app@%")]
    eventually(lambda: noted_events(shop) == {"resting": "DISABLED", "tidy": "ENABLED"})
    total = shop.run("SELECT COUNT(*), SUM(CRC32(b)) FROM big")
    moment = whole_second()
    shop.run("DROP DATABASE shop", "CREATE DATABASE shop")
    shop.restorable(moment)
    back = shop.restored("back", moment)
    assert back.run("SELECT COUNT(*), SUM(CRC32(b)) FROM big") == total
    assert back.numbers() == [42] and back.run("SELECT COUNT(*) FROM old_style") == [(2,)]
    assert back.run(EVENTS) == events
    instance = own.describe("back")
    with engine.connect(own, instance, user="clerk", password="clerk-password-1", database="shop") as clerk:
        assert clerk.value("SELECT COUNT(*) FROM kept") == 1
    settings = "SELECT @@GLOBAL.read_only, @@GLOBAL.event_scheduler, @@GLOBAL.innodb_flush_log_at_trx_commit"
    assert back.run(settings) == [(0, DEFAULT_SCHEDULER[name], 1)]


def test_whoever_could_log_in_can_log_in_to_what_is_restored(own: Service, engine: EngineUnderTest) -> None:
    """By every way that the engine knows, made before the backup or after it."""
    shop = made(own, engine)
    plugins = "SELECT PLUGIN_NAME FROM information_schema.PLUGINS WHERE PLUGIN_TYPE = 'AUTHENTICATION'"
    known = {row[0] for row in shop.run(plugins)}
    methods = sorted(known & {"ed25519", "parsec", "mysql_native_password", "caching_sha2_password"})
    assert {"mariadb": "ed25519", "mysql": "caching_sha2_password"}[engine.dialect.engine] in methods
    words = {"mariadb": "VIA {} USING PASSWORD('first-1')", "mysql": "WITH {} BY 'first-1'"}[engine.dialect.engine]
    for method in methods:
        shop.run(f"CREATE USER before_{method} IDENTIFIED {words.format(method)}")
    snapshot(own, "source", "shot")
    for method in methods:
        shop.run(f"CREATE USER after_{method} IDENTIFIED {words.format(method)}")
    shop.insert(1)
    moment = whole_second()
    shop.run(*(f"DROP USER {when}_{method}" for when in ("before", "after") for method in methods))
    shop.restorable(moment)
    back = shop.restored("back", moment)
    for method in methods:
        for user in (f"before_{method}", f"after_{method}"):
            assert logged_in(back, user, "first-1") == f"{user}@%"
            assert logged_in(back, user, "first-2") == ""


def logged_in(shop: Shop, user: str, password: str) -> str:
    """Whom the engine's own command line client logs in as, "" if it is refused."""
    engine, instance = shop.engine.dialect.engine, shop.service.describe(shop.identifier)
    build = Builds(shop.service.settings).resolve(engine, shop.engine.version)
    plugins = [*build.prefix.glob("usr/lib/*/libmariadb3/plugin"), build.library_directory][0]
    verify = {"mariadb": "--ssl-verify-server-cert", "mysql": "--ssl-mode=VERIFY_IDENTITY"}[engine]
    done = subprocess.run(
        [
            str(build.bin_directory / engine), "--no-defaults", f"--plugin-dir={plugins}", verify,
            f"--ssl-ca={shop.service.variables['MAINSTAY_CA_BUNDLE']}", f"--user={user}", f"--password={password}",
            f"--host={instance['Endpoint']['Address']}", f"--port={instance['Endpoint']['Port']}",
            "--batch", "-N", "-e", "SELECT CURRENT_USER()",
        ],
        capture_output=True, text=True, check=False, timeout=60, env=os.environ | build.environment,
    )  # fmt: skip
    assert done.returncode == 0 or "Access denied" in done.stderr, done.stderr
    return done.stdout.strip()


def test_what_users_say_of_the_time_moves_nothing(own: Service, engine: EngineUnderTest) -> None:
    shop = made(own, engine)
    shop.run("SET timestamp = 2145916800", "INSERT INTO kept VALUES (1)")
    time.sleep(2.5)
    shop.insert(2)
    moment = whole_second()
    shop.run("SET timestamp = 946684800", "INSERT INTO kept VALUES (3)")
    time.sleep(2.5)
    shop.run("SET timestamp = 946684800", "INSERT INTO kept VALUES (4)")
    shop.restorable(whole_second())
    restored = shop.restored("back", moment).numbers()
    exact = engine.dialect.engine == "mysql"
    assert restored == [1, 2] or (restored == [1, 2, 3] and not exact), (
        "of MariaDB's, what is logged less than a second after it may say that it was before"
    )


def test_a_missing_binary_log_is_named_and_a_restore_test_and_a_verification_prove_the_rest(
    own: Service, engine: EngineUnderTest
) -> None:
    shop = made(own, engine)
    for number in range(3):
        shop.insert(number)
        as_operator(own, own.node("source")["node"], "FLUSH BINARY LOGS")
    shop.insert(9)
    moment = whole_second()
    shop.restorable(moment)
    assert own.cli("backups", "verify", "source").returncode == 0
    assert own.cli("backups", "restore-test", "source").returncode == 0
    wholes = sorted(path for path in (own.home / "objects").rglob("*.whole") if "log" in path.parts)
    gone = wholes[1]
    kept, name = gone.read_bytes(), gone.name.partition(".mysql-bin-changelog")[2]
    gone.unlink()
    own.client("rds").restore_db_instance_to_point_in_time(
        SourceDBInstanceIdentifier="source", TargetDBInstanceIdentifier="never", RestoreTime=moment
    )
    own.await_status("never", "incompatible-restore")
    told = own.cli("backups", "verify", "source", check=False)
    binary_log = f"mysql-bin-changelog{name[:7]}"
    assert told.returncode == 1 and binary_log in told.stdout, told.stdout
    gone.write_bytes(kept)


def test_kills_in_the_middle_of_a_backup_and_of_a_restore(own: Service, engine: EngineUnderTest) -> None:
    seed = secrets.randbits(30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    shop = made(own, engine)
    shop.run("CREATE TABLE heavy (a int PRIMARY KEY AUTO_INCREMENT, b longtext)")
    shop.run(*("INSERT INTO heavy (b) VALUES (REPEAT(SHA2(UUID(), 256), 16384))" for _ in range(30)))
    before = shop.run("SELECT COUNT(*), SUM(CRC32(b)) FROM heavy")
    own.client("rds").create_db_snapshot(DBInstanceIdentifier="source", DBSnapshotIdentifier="shot")
    for who in ("worker", "agent"):
        time.sleep(chance.uniform(0.0, 1.5))
        kill_one(own, who)
    eventually(lambda: snapshot_status(own, "shot") == "available")
    shop.insert(*range(200))
    moment = whole_second()
    shop.restorable(moment)
    own.client("rds").restore_db_instance_to_point_in_time(
        SourceDBInstanceIdentifier="source", TargetDBInstanceIdentifier="back", RestoreTime=moment
    )
    begin_from_snapshot(own, "shot", "of-shot")
    for who in ("agent", "worker", "agent"):
        time.sleep(chance.uniform(0.0, 1.0))
        kill_one(own, who)
    for name, numbers in (("back", list(range(200))), ("of-shot", [])):
        own.await_status(name, "available")
        restored = Shop(own, engine, name)
        assert restored.run("SELECT COUNT(*), SUM(CRC32(b)) FROM heavy") == before and restored.numbers() == numbers
    assert not list((own.home / "agent" / "nodes").glob("*/data.backing-up-*")), "nothing is left of the killed attempt"


def test_an_exported_snapshot_is_started_by_a_stock_server(own: Service, engine: EngineUnderTest) -> None:
    shop = made(own, engine, BackupRetentionPeriod=1)
    shop.insert(5)
    snapshot(own, "source", "shot")
    user = pwd.getpwnam(own.settings.engine_user) if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    build = Builds(own.settings).resolve(engine.dialect.engine, engine.version)
    bootstrap = BOOTSTRAPS[engine.dialect.engine]
    with tempfile.TemporaryDirectory() as parent:
        os.chmod(parent, 0o711)  # noqa: S103 - the engine's user is to get through
        target = Path(parent) / "exported"
        target.mkdir(mode=0o700)
        os.chown(target, user.pw_uid, user.pw_gid)
        owner = ["--owner", user.pw_name] if os.geteuid() == 0 else []
        own.cli("backups", "export", "shot", str(target), *owner)
        assert (target / "README-MAINSTAY.txt").exists()
        options = [
            f"--{name.replace('_', '-')}={value}" for name, value in place_options(build, *bootstrap.SHARE).items()
        ]
        process = subprocess.Popen(
            [bootstrap.server(build), f"--defaults-file={target}/my.cnf", f"--datadir={target}", *options],
            user=user.pw_uid, group=user.pw_gid, env=build.environment, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            eventually((target / "mysqld.sock").exists)
            session = pymysql.connect(unix_socket=str(target / "mysqld.sock"), user=pwd.getpwuid(os.geteuid()).pw_name)
            with session, session.cursor() as cursor:
                cursor.execute("SELECT a FROM shop.kept")
                assert cursor.fetchall() == ((5,),)
        finally:
            process.terminate()
            process.wait(60)


def test_what_was_written_while_the_copy_was_made_is_in_what_is_restored_once(
    own: Service, engine: EngineUnderTest
) -> None:
    """The log is replayed from before the copy: a copy that did not know what it has would be given it twice.

    That fails for an account, while MariaDB replays CREATE TABLE as CREATE OR REPLACE TABLE.
    """
    engine.create(own, "source", DBName="shop", BackupRetentionPeriod=0)
    shop, written, enough = Shop(own, engine, "source"), list[int](), threading.Event()
    shop.run(TABLE, "CREATE USER clerk@'%' IDENTIFIED BY 'clerk-password-1'")

    def write() -> None:
        with engine.connect(own, own.describe("source"), database="shop") as client:
            while not enough.is_set():
                client.rows(f"INSERT INTO kept VALUES ({len(written)})")
                written.append(len(written))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        own.client("rds").modify_db_instance(
            DBInstanceIdentifier="source", BackupRetentionPeriod=1, ApplyImmediately=True
        )
        shop.restorable(whole_second())
        snapshot(own, "source", "shot")
    finally:
        enough.set()
        writer.join()
    moment = whole_second()
    shop.insert(-1)
    shop.restorable(whole_second())
    assert shop.restored("back", moment).numbers() == written
    of_shot = from_snapshot(shop, "shot", "of-shot").numbers()
    assert of_shot and of_shot == written[: len(of_shot)]


def test_a_place_and_a_transaction_are_targets_too(own: Service, engine: EngineUnderTest) -> None:
    shop = made(own, engine)
    shop.insert(1)
    name, offset, *_ = shop.run("SHOW BINARY LOGS")[-1]
    shop.insert(2)
    if engine.dialect.engine == "mysql":
        [(executed,)] = shop.run("SELECT @@GLOBAL.gtid_executed")
        server, _, numbers = executed.partition(":")
        gtid, never = f"{server}:{numbers.rpartition('-')[2]}", f"{server}:999999999"
    else:
        [(gtid,)], never = shop.run("SELECT @@GLOBAL.gtid_binlog_pos"), "0-1-999999999"
    shop.insert(3)
    shop.restorable(whole_second())
    place = f"1/{int(name.rpartition('.')[2])}:{offset}"
    own.cli("backups", "restore", "source", "at-place", "--to-lsn", place)
    own.cli("backups", "restore", "source", "at-gtid", "--to-xid", gtid)
    for target, expected in (("at-place", [1]), ("at-gtid", [1, 2])):
        own.await_status(target, "available")
        assert Shop(own, engine, target).numbers() == expected
    own.cli("backups", "restore", "source", "never", "--to-xid", never)
    own.await_status("never", "incompatible-restore")


@pytest.mark.skipif(bool(why_not("image", True)), reason=why_not("image", True))
def test_a_plain_instance_becomes_an_encrypted_one_that_is_backed_up_like_any_other(
    own: Service, engine: EngineUnderTest
) -> None:
    rds = own.client("rds")
    key = str(own.client("kms").create_key()["KeyMetadata"]["Arn"])
    shop = made(own, engine)
    shop.insert(1)
    snapshot(own, "source", "plain")
    rds.copy_db_snapshot(SourceDBSnapshotIdentifier="plain", TargetDBSnapshotIdentifier="sealed", KmsKeyId=key)
    eventually(lambda: snapshot_status(own, "sealed") == "available")
    encrypted = from_snapshot(shop, "sealed", "encrypted")
    assert own.describe("encrypted")["StorageEncrypted"] and encrypted.numbers() == [1]
    encrypted.restorable(whole_second())
    encrypted.insert(2)
    moment = whole_second()
    encrypted.insert(3)
    encrypted.restorable(whole_second())
    again = encrypted.restored("again", moment)
    assert again.numbers() == [1, 2] and own.describe("again")["StorageEncrypted"]
    for name in ("again", "encrypted"):
        own.delete_instance(name)
    own.cli("down")


def test_the_files_of_a_pair_are_the_standbys(own: Service, engine: EngineUnderTest) -> None:
    shop = made(own, engine, MultiAZ=True)
    pair = MultiAZ(own, own.describe("source"))
    pair.await_in_sync()
    shop.insert(1, 2, 3)
    shop.run("CREATE EVENT `ti'dy` ON SCHEDULE EVERY 1 DAY DO DELETE FROM shop.kept WHERE a > 1000")
    shop.run("CREATE EVENT resting ON SCHEDULE EVERY 1 DAY DISABLE DO DELETE FROM shop.kept")
    snapshot(own, "source", "shot")
    rows = json.loads(own.cli("backups", "list", "--json").stdout)
    assert [row["from_standby"] for row in rows if row["name"] == "shot"] == [True]
    shop.insert(4)
    moment = whole_second()
    shop.insert(5)
    shop.restorable(whole_second())
    of_shot = from_snapshot(shop, "shot", "of-shot")
    assert of_shot.numbers() == [1, 2, 3]
    events = of_shot.run("SELECT EVENT_NAME, STATUS FROM information_schema.EVENTS ORDER BY 1")
    assert events == [("resting", "DISABLED"), ("ti'dy", "ENABLED")]
    assert shop.restored("back", moment).numbers() == [1, 2, 3, 4]


def test_what_was_restored_has_a_standby_a_replica_and_backups_of_its_own(
    own: Service, engine: EngineUnderTest
) -> None:
    """They follow it though most of what it has is in no binary log of its own, and so is its log after a failover."""
    rds, shop = own.client("rds"), made(own, engine)
    shop.insert(1, 2)
    back = shop.restored("back", whole_second_of(shop))
    rds.modify_db_instance(DBInstanceIdentifier="back", MultiAZ=True, ApplyImmediately=True)
    eventually(lambda: own.describe("back")["MultiAZ"])
    own.await_status("back", "available")
    pair = MultiAZ(own, own.describe("back"))
    before = pair.await_in_sync()
    rds.create_db_instance_read_replica(DBInstanceIdentifier="replica", SourceDBInstanceIdentifier="back")
    own.await_status("replica", "available")
    back.insert(3)
    back.restorable(whole_second())
    pair.kill(before.primary)
    pair.await_epoch(before.epoch + 1)
    eventually(lambda: inserted(back, 4))
    moment = whole_second_of(back)
    back.insert(5)
    assert back.numbers() == [1, 2, 3, 4, 5]
    eventually(lambda: Shop(own, engine, "replica").numbers() == [1, 2, 3, 4, 5])
    pair.await_in_sync()
    assert back.restored("again", moment).numbers() == [1, 2, 3, 4]
    assert own.cli("backups", "verify", "back").returncode == 0


def whole_second_of(shop: Shop) -> datetime:
    """The next second, as soon as it can be restored."""
    moment = whole_second()
    shop.restorable(moment)
    return moment


def inserted(shop: Shop, number: int) -> bool:
    """Whether it is in the table, now or before; not while there is nobody to ask."""
    try:
        shop.run(f"INSERT IGNORE INTO kept VALUES ({number})")
    except ClientError:
        return False
    return True
