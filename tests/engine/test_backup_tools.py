"""`mainstay backups` on a real engine: what it lists, finds, proves and exports, with positive controls."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from harness.files import files_below
from harness.service import HOMES, Service, eventually
from mainstay.engines.builds import Builds

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(300)]


@contextmanager
def backed_up() -> Iterator[Service]:
    """A service with one instance `source`, backed up, with a table of 20,000 rows and a second database."""
    with Service() as service:
        made = service.create_instance("source", BackupRetentionPeriod=7)
        with service.connect(made) as session:
            session.execute(
                "CREATE TABLE bulk AS SELECT g AS id, md5(g::text) AS value FROM generate_series(1, 20000) g"
            )
            session.execute("CREATE INDEX ON bulk (id)")
            session.execute("CREATE DATABASE second")
        eventually(lambda: automated(service)["latest_at"])
        service.client("rds").create_db_snapshot(DBInstanceIdentifier="source", DBSnapshotIdentifier="shot")
        eventually(lambda: listed(service)["shot"]["status"] == "available")
        service.await_status("source", "available")
        yield service


@pytest.fixture(scope="module")
def kept() -> Iterator[Service]:
    """A service that these tests share; each leaves its backups as they were."""
    with backed_up() as service:
        yield service


@pytest.fixture
def losing() -> Iterator[Service]:
    """A service for a test that loses something for good."""
    with backed_up() as service:
        yield service


def listed(service: Service) -> dict[str, dict[str, Any]]:
    """`mainstay backups list --json` by name, an instance's automated backups by its identifier."""
    rows = json.loads(service.cli("backups", "list", "--json").stdout)
    return {row["instance"] if row["kind"] == "automated" else row["name"]: row for row in rows}


def automated(service: Service) -> dict[str, Any]:
    return listed(service)["source"]


def switch_log(service: Service, count: int = 1) -> None:
    """Ends this many segments of the log, each with something in it, and waits until all of it can be restored."""
    with service.connect(service.describe("source")) as session:
        for _ in range(count):
            session.execute(
                "CREATE TABLE filler AS SELECT g, repeat(md5(g::text), 30) FROM generate_series(1, 16000) g"
            )
            session.execute("DROP TABLE filler")
        row = session.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
        assert row is not None
    eventually(lambda: (automated(service)["latest_at"] or 0) >= int(row[0]) + 1)


def messages(service: Service) -> list[str]:
    return [event["Message"] for event in service.client("rds").describe_events(Duration=60)["Events"]]


@contextmanager
def harmed(path: Path) -> Iterator[None]:
    """Afterwards the object is as it was."""
    content = path.read_bytes()
    try:
        yield
    finally:
        path.write_bytes(content)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def objects(service: Service, part: str) -> list[Path]:
    return [path for path in files_below(service.home / "objects") if part in path.parts]


def test_list_shows_what_there_is_and_how_old_it_is(kept: Service) -> None:
    row, shot = automated(kept), listed(kept)["shot"]
    assert row["backups"] == 1 and row["size_bytes"] > 20 << 20 and 0 < row["stored_bytes"] < row["size_bytes"]
    assert row["earliest_at"] <= row["latest_at"] and 0 <= row["lag_s"] < 60 and row["gap_at"] is None
    shown = kept.describe("source")["LatestRestorableTime"].timestamp()
    assert abs(shown - row["latest_at"]) < 30 and row["region"] == "us-west-2"
    assert shot["kind"] == "manual snapshot" and shot["size_bytes"] > 20 << 20 and "verified" in shot
    assert 'mainstay_backup_count{instance="source"' in kept.cli("backups", "list", "--prometheus").stdout
    text = kept.cli("backups", "list", "source").stdout
    assert "Automated backups" in text and "shot" in text
    assert "backups of source  restorable to 20" in kept.cli("status").stdout
    assert kept.cli("backups", "list", "nobody").stdout.strip() == "There are no backups."


def test_verify_finds_nothing_where_nothing_is_wrong_and_says_so(kept: Service) -> None:
    switch_log(kept, 2)
    done = kept.cli("backups", "verify", "source")
    assert done.stdout.startswith("Good: ")
    assert listed(kept)["shot"]["verified"]["good"] and automated(kept)["verified"]["good"]
    assert any("The verification of the backups read back" in message for message in messages(kept))
    assert kept.cli("backups", "verify", "shot").stdout.startswith("Good: ")


def test_verify_names_a_flipped_byte_and_its_files(kept: Service) -> None:
    pack = max(objects(kept, "packs"), key=lambda path: path.stat().st_size)
    with harmed(pack):
        flip(pack)
        done = kept.cli("backups", "verify", "source", check=False)
    assert done.returncode == 1 and "DAMAGE" in done.stdout
    key = str(pack.relative_to(kept.home / "objects"))
    assert key in done.stdout and "it holds parts of base/" in done.stdout
    assert automated(kept)["verified"]["damages"] and "DAMAGE" in kept.cli("status").stdout
    assert any(key in message for message in messages(kept))
    assert kept.cli("backups", "verify", "source").returncode == 0


def test_verify_names_a_log_segment_that_was_deleted(losing: Service) -> None:
    """What needs it is promised no more, and said so; a new backup, begun at once, begins a new window."""
    switch_log(losing, 4)  # so that the snapshot needs none of the last two
    before = automated(losing)
    wholes = [path for path in objects(losing, "log") if path.name.endswith(".whole")]
    victim = wholes[-2]
    segment = victim.name.split(".")[1]
    with harmed(victim):
        victim.unlink()
        done = losing.cli("backups", "verify", "source", "--json", check=False)
        told = json.loads(done.stdout)
        assert done.returncode == 1 and not told["good"]
        assert len(told["damages"]) == 1 and f"the log segment {segment} is missing" in told["damages"][0]
        assert losing.cli("backups", "verify", "shot").returncode == 0, "what the snapshot needs is there"
        assert any("LatestRestorableTime has moved back" in message for message in messages(losing))
        healed = eventually(lambda: not (row := automated(losing))["gap_open"] and row["earliest_at"] and row)
        assert healed["earliest_at"] > before["latest_at"] > healed["gap_at"] and healed["backups"] == 2
        assert losing.cli("backups", "verify", "source").returncode == 0, "no moment of the window needs it"
        eventually(lambda: automated(losing)["latest_at"] > healed["earliest_at"])
        assert losing.cli("backups", "restore-test", "source").returncode == 0


def instances(service: Service) -> list[str]:
    return [one["DBInstanceIdentifier"] for one in service.client("rds").describe_db_instances()["DBInstances"]]


def test_restore_test_proves_the_newest_moment_and_leaves_nothing_behind(kept: Service) -> None:
    before = automated(kept)["latest_at"]
    done = kept.cli("backups", "restore-test", "source", "--json")
    told = json.loads(done.stdout)
    assert told["good"] and told["moment"] >= before - 1 and told["size_bytes"] > 20 << 20
    assert instances(kept) == ["source"] and automated(kept)["restore_tested"]["good"]
    assert "restore test: good" in kept.cli("status").stdout
    assert any("The restore test of the backups restored the newest moment" in message for message in messages(kept))


def test_restore_test_tells_of_a_log_segment_that_was_deleted(kept: Service) -> None:
    switch_log(kept, 2)
    wholes = [path for path in objects(kept, "log") if path.name.endswith(".whole")]
    with harmed(wholes[-1]):
        wholes[-1].unlink()
        done = kept.cli("backups", "restore-test", "source", check=False)
    assert done.returncode == 1 and "The restore failed" in done.stdout, done.stdout + done.stderr
    assert wholes[-1].name.split(".")[1] in done.stdout
    assert instances(kept) == ["source"] and not automated(kept)["restore_tested"]["good"]


def test_restore_test_names_a_flipped_byte(kept: Service) -> None:
    packs = objects(kept, "packs")
    with ExitStack() as harms:
        for pack in packs:
            harms.enter_context(harmed(pack))
            flip(pack)
        done = kept.cli("backups", "restore-test", "source", check=False)
    assert done.returncode == 1 and "The restore failed" in done.stdout, done.stdout + done.stderr
    assert any(str(pack.relative_to(kept.home / "objects")) in done.stdout for pack in packs)
    assert instances(kept) == ["source"] and "restore test: FAILED" in kept.cli("status").stdout


def test_restore_test_survives_the_death_of_control_and_agent(kept: Service) -> None:
    with subprocess.Popen(
        [kept.python, "-c", "from mainstay.cli.main import main; main()", "backups", "restore-test", "source"],
        env=kept.environment, stdout=subprocess.PIPE, text=True,
    ) as asking:  # fmt: skip
        eventually(lambda: len(instances(kept)) == 2)
        kept.kill("agent")
        kept.kill("control")
        said, _ = asking.communicate(timeout=120)
    assert asking.returncode == 0 and said.startswith("Good: "), said
    assert instances(kept) == ["source"]


def test_restore_to_a_position_and_to_a_transaction(kept: Service) -> None:
    with kept.connect(kept.describe("source")) as session:
        session.execute("CREATE TABLE steps (n int)")
        with session.transaction():
            session.execute("INSERT INTO steps VALUES (1)")
            xid = session.execute("SELECT pg_current_xact_id()").fetchone()
        lsn = session.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
        session.execute("INSERT INTO steps VALUES (2)")
    assert lsn is not None and xid is not None
    switch_log(kept)
    kept.cli("backups", "restore", "source", "at-lsn", "--to-lsn", str(lsn[0]), "--class", "db.t3.micro")
    kept.cli("backups", "restore", "source", "at-xid", "--to-xid", str(xid[0]), "--class", "db.t3.micro")
    for name in ("at-lsn", "at-xid"):
        with kept.connect(kept.await_status(name, "available")) as session:
            assert session.execute("SELECT n FROM steps").fetchall() == [(1,)]
        kept.delete_instance(name)
    refused = kept.cli("backups", "restore", "source", "never", "--to-lsn", "FFFF/0", check=False)
    assert refused.returncode == 1 and "is not in the log yet" in refused.stderr


@contextmanager
def started(service: Service, data: Path, user: pwd.struct_passwd) -> Iterator[psycopg.Connection[Any]]:
    """The exported directory, served by PostgreSQL's own programs, as that user; a session of its superuser."""
    build = Builds(service.settings).resolve("postgres", service.engine_version)
    sockets = Path(tempfile.mkdtemp(dir=HOMES))
    as_user: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid} if os.geteuid() == 0 else {}
    os.chown(sockets, user.pw_uid, user.pw_gid)
    environment = {"PATH": "/usr/bin:/bin", "TZ": "UTC", **build.environment}

    def control(*words: str) -> None:
        command = [str(build.bin_directory / "pg_ctl"), *words, "-D", str(data), "-w"]
        subprocess.run(command, env=environment, check=True, cwd="/", stdout=subprocess.DEVNULL, **as_user)

    control("start", "-o", f"-k {sockets} -c listen_addresses=''", "-l", str(sockets / "log"))
    try:
        with psycopg.connect(host=str(sockets), user="rdsadmin", dbname="postgres", autocommit=True) as session:
            yield session
    finally:
        control("stop", "-m", "fast")
        shutil.rmtree(sockets)


def test_export_is_a_directory_that_stock_postgresql_starts(kept: Service) -> None:
    us = pwd.getpwuid(os.geteuid())
    user = pwd.getpwnam(kept.settings.engine_user) if us.pw_uid == 0 else us
    parent = Path(tempfile.mkdtemp(dir=HOMES))
    parent.chmod(0o711)
    try:
        given = ("--owner", user.pw_name) if us.pw_uid == 0 else ()
        target = parent / "exported"
        target.mkdir(mode=0o700)
        os.chown(target, user.pw_uid, user.pw_gid)
        kept.cli("backups", "export", "shot", str(target), *given)
        assert "pg_ctl start" in (target / "README-MAINSTAY.txt").read_text()
        if us.pw_uid == 0:  # we are to look at it from the same machine as another user
            (target / "pg_ident.conf").write_text("exported root rdsadmin\n")
        with started(kept, target, user) as session:
            assert session.execute("SELECT count(*), md5(string_agg(value, '' ORDER BY id)) FROM bulk").fetchone() == (
                20000,
                checksum(kept),
            )
        again = kept.cli("backups", "export", "shot", str(target), *given, check=False)
        assert again.returncode == 1 and "is not empty" in again.stderr
        pack = max(objects(kept, "packs"), key=lambda path: path.stat().st_size)
        with harmed(pack):
            flip(pack)
            refused = kept.cli("backups", "export", "shot", str(parent / "bad"), check=False)
        assert refused.returncode == 1 and pack.name in refused.stderr
        assert not (parent / "bad" / "README-MAINSTAY.txt").exists()
    finally:
        shutil.rmtree(parent)


def checksum(service: Service) -> str:
    with service.connect(service.describe("source")) as session:
        row = session.execute("SELECT md5(string_agg(value, '' ORDER BY id)) FROM bulk").fetchone()
    assert row is not None
    return str(row[0])


def test_a_restore_shows_how_far_it_is(kept: Service) -> None:
    kept.client("rds").restore_db_instance_from_db_snapshot(
        DBInstanceIdentifier="watched", DBSnapshotIdentifier="shot", DBInstanceClass="db.t3.micro"
    )
    seen: list[str] = []

    def over() -> bool:
        shown = kept.describe("watched")
        if "PercentProgress" in shown:
            seen.append(shown["PercentProgress"])
        return bool(shown["DBInstanceStatus"] == "available")

    eventually(over, interval_s=0.01)
    assert seen and all(0 <= int(one) <= 99 for one in seen) and seen == sorted(seen, key=int)
    assert "PercentProgress" not in kept.describe("watched")
    kept.delete_instance("watched")


def test_mistakes_are_explained(kept: Service) -> None:
    for words, expected in (
        (("verify", "nobody"), "no automated backups of a DB instance 'nobody'"),
        (("restore-test", "shot"), "is a DB snapshot"),
        (("export", "source", "/dev/shm/nowhere"), "is no DB snapshot"),
        (("restore", "source", "x"), "Exactly one of"),
        (("restore", "source", "x", "--to-lsn", "abc"), "Invalid log sequence number"),
        (("restore", "source", "x", "--to-xid", "1"), "Invalid transaction id"),
    ):
        done = kept.cli("backups", *words, check=False)
        assert done.returncode == 1 and expected in done.stderr and "Traceback" not in done.stderr, done.stderr
