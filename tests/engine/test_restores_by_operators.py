"""Restores that the API of RDS does not have, on a real engine: paused for a look, in place, from foreign backups."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from botocore.exceptions import BotoCoreError, ClientError

from harness.pairs import MultiAZ
from harness.service import HOMES, Service, eventually
from mainstay.engines.builds import Builds
from mainstay.model.engine import EngineBuild

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """One for all tests, each of which has instances of its own."""
    with Service() as service:
        yield service


@contextmanager
def source_of(service: Service, name: str, **members: Any) -> Iterator[dict[str, Any]]:
    """An instance with backups and an empty table `steps`."""
    made = service.create_instance(name, BackupRetentionPeriod=7, **members)
    try:
        with service.connect(made) as session:
            session.execute("CREATE TABLE steps (n int)")
        eventually(lambda: "LatestRestorableTime" in service.describe(name))
        yield service.await_status(name, "available")
    finally:
        service.delete_instance(name)


def step(service: Service, instance: dict[str, Any], n: int) -> str:
    """Inserts it; a moment at which it is there and nothing later, which can be restored when this returns."""
    with service.connect(instance) as session:
        session.execute("INSERT INTO steps VALUES (%s)", (n,))
        row = session.execute("SELECT clock_timestamp()").fetchone()
        session.execute("SELECT pg_sleep(1.1)")
    assert row is not None
    moment: datetime = row[0].astimezone(UTC)
    name = instance["DBInstanceIdentifier"]
    eventually(lambda: (latest := service.describe(name).get("LatestRestorableTime")) and latest > moment)
    return moment.isoformat()


def steps(service: Service, instance: dict[str, Any]) -> list[int]:
    with service.connect(instance) as session:
        return [row[0] for row in session.execute("SELECT n FROM steps ORDER BY n").fetchall()]


def paused(service: Service, name: str, shown: list[int]) -> dict[str, Any]:
    """The restore once it waits and shows these steps."""

    def waits() -> Any:
        restore = service.node(name)["restore"]
        return restore is not None and restore["phase"] == "paused"

    def shows() -> Any:
        try:
            return waits() and steps(service, service.describe(name)) == shown and service.describe(name)
        except (psycopg.OperationalError, KeyError):  # it is going on
            return False

    found: dict[str, Any] = eventually(shows)
    return found


def kill(service: Service, *names: str) -> None:
    """kill -9; returns when their successors answer."""
    for name in names:
        service.kill(name)

    def answers() -> bool:
        try:
            service.client("rds").describe_db_instances()
        except (BotoCoreError, ClientError):
            return False
        return service.cli("nodes", check=False).returncode == 0

    eventually(answers)


def messages(service: Service, name: str) -> list[str]:
    events = service.client("rds").describe_events(SourceIdentifier=name, SourceType="db-instance", Duration=60)
    return [event["Message"] for event in events["Events"]]


def test_a_restore_is_looked_at_moved_on_and_opened(service: Service) -> None:
    """The source has more connections than the copy's class: a server that takes queries must have as many."""
    with source_of(service, "looked-at", DBInstanceClass="db.t3.medium") as source:
        first, second, third = (step(service, source, n) for n in (1, 2, 3))
        service.cli("backups", "restore", "looked-at", "look", "--to-time", first, "--paused", "--class", "db.t3.micro")
        looking = paused(service, "look", [1])
        assert looking["DBInstanceStatus"] == "creating"
        assert "paused for a look at" in service.cli("status").stdout
        assert any("paused for a look at" in one for one in messages(service, "look"))
        with service.connect(looking) as session, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            session.execute("INSERT INTO steps VALUES (99)")
        back = service.cli("backups", "move", "look", "--to-time", first, check=False)
        assert back.returncode == 1 and "a recovery goes forward only" in back.stderr
        service.cli("backups", "move", "look", "--to-time", second)
        kill(service, "agent", "control")
        paused(service, "look", [1, 2])
        kill(service, "agent")
        paused(service, "look", [1, 2])
        os.kill(service.node("look")["pid"], 9)  # the engine is told the same again
        paused(service, "look", [1, 2])
        service.cli("backups", "open", "look")
        opened = service.await_status("look", "available")
        assert steps(service, opened) == [1, 2]
        with service.connect(opened) as session:
            session.execute("INSERT INTO steps VALUES (4)")
        again = service.cli("backups", "open", "look", check=False)
        assert again.returncode == 1 and "is no restore that is paused" in again.stderr
        assert steps(service, source) == [1, 2, 3] and third
        service.delete_instance("look")


def kept(service: Service, name: str) -> list[str]:
    rows = json.loads(service.cli("backups", "kept", name, "--json").stdout)
    return [row["name"] for row in rows]


def test_an_instance_is_restored_in_place_and_taken_back(service: Service) -> None:
    with source_of(service, "placed") as before:
        good = step(service, before, 1)
        with service.connect(before) as session:
            session.execute("INSERT INTO steps VALUES (2)")
            session.execute("CREATE TABLE mistake ()")
        service.cli("backups", "restore-in-place", "placed", "--to-time", good)
        kill(service, "agent", "control")
        after = service.await_status("placed", "available")
        assert steps(service, after) == [1]
        same = ("DbiResourceId", "DBInstanceArn", "Endpoint", "DBInstanceClass", "DBParameterGroups", "TagList")
        assert {name: after.get(name) for name in same} == {name: before.get(name) for name in same}
        (old,) = kept(service, "placed")
        assert f"placed keeps {old}" in service.cli("status").stdout
        assert any("was restored in place" in one for one in messages(service, "placed"))

        # Its new history is backed up: what is written now is proven to be restorable.
        step(service, after, 3)
        eventually(lambda: service.cli("backups", "list", "placed", "--json").stdout.count('"status": "available"') > 1)
        eventually(lambda: service.cli("backups", "restore-test", "placed", check=False).returncode == 0)

        service.cli("backups", "go-back", "placed", old)
        back = service.await_status("placed", "available")
        assert steps(service, back) == [1, 2]
        (new,) = kept(service, "placed")
        service.cli("backups", "discard", "placed", new)
        volume = Path(service.node("placed")["data_directory"]).parent
        eventually(lambda: not list(volume.glob("data.kept-*")))
        assert kept(service, "placed") == [] and steps(service, back) == [1, 2]


def test_a_pair_is_restored_in_place_taken_back_and_is_a_pair_again(service: Service) -> None:
    """Its old standby, which has the other history, never leads; what was set aside is on the node that stayed."""
    with source_of(service, "paired", MultiAZ=True) as before:
        pair = MultiAZ(service, before)
        pair.await_in_sync()
        first_leader, old_standby = pair.primary, pair.standby
        good = step(service, before, 1)
        with service.connect(before) as session:
            session.execute("INSERT INTO steps VALUES (2)")
        service.cli("backups", "restore-in-place", "paired", "--to-time", good)
        kill(service, "agent", "control")

        def formed() -> dict[str, Any]:
            found: dict[str, Any] = eventually(
                lambda: (
                    (one := service.describe("paired"))["DBInstanceStatus"] == "available" and one["MultiAZ"] and one
                )
            )
            pair.await_in_sync(timeout_s=120.0)
            return found

        after = formed()
        assert after["Endpoint"] == before["Endpoint"] and steps(service, after) == [1]
        assert pair.primary == first_leader and pair.standby != old_standby
        assert old_standby not in [node["node"] for node in service.nodes()]
        (old,) = kept(service, "paired")

        def fail_over() -> None:
            zone = service.describe("paired")["AvailabilityZone"]
            service.client("rds").reboot_db_instance(DBInstanceIdentifier="paired", ForceFailover=True)
            eventually(lambda: service.describe("paired")["AvailabilityZone"] != zone)
            formed()

        fail_over()
        assert steps(service, after) == [1], "the standby has what was restored"
        refused = service.cli("backups", "go-back", "paired", old, check=False)
        assert refused.returncode == 1 and "which follows now" in refused.stderr
        fail_over()
        service.cli("backups", "go-back", "paired", old)
        assert steps(service, formed()) == [1, 2]
        fail_over()
        assert steps(service, after) == [1, 2]


def test_what_cannot_be_restored_in_place_leaves_everything_as_it_was(service: Service) -> None:
    with source_of(service, "stays") as before:
        moment = step(service, before, 1)
        objects = [one for one in (service.home / "objects").rglob("*") if one.is_file() and "packs" in one.parts]
        contents = {one: one.read_bytes() for one in objects}
        try:
            for path, content in contents.items():
                path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            service.cli("backups", "restore-in-place", "stays", "--to-time", moment)
            eventually(lambda: any("could not be exchanged" in one for one in messages(service, "stays")))
        finally:
            for path, content in contents.items():
                path.write_bytes(content)
        after = service.await_status("stays", "available")
        assert steps(service, after) == [1] and kept(service, "stays") == []
        refused = service.cli("backups", "restore-in-place", "stays", "--to-time", "2030-01-01T00:00:00Z", check=False)
        assert refused.returncode == 1 and "It must be between" in refused.stderr


class Foreign:
    """A PostgreSQL that knows nothing of us, and base backups of it by its own tools."""

    def __init__(self, directory: Path, build: EngineBuild, user: pwd.struct_passwd) -> None:
        self._directory, self._build, self._user = directory, build, user

    def run(self, program: str, *arguments: str) -> None:
        as_user: dict[str, Any] = {"user": self._user.pw_uid, "group": self._user.pw_gid} if os.geteuid() == 0 else {}
        environment = {"PATH": "/usr/bin:/bin", "TZ": "UTC", **self._build.environment}
        command = [str(self._build.bin_directory / program), *arguments]
        subprocess.run(command, env=environment, check=True, cwd="/", stdout=subprocess.DEVNULL, **as_user)

    def back_up(self) -> None:
        """Into `plain` and `tar`, below the directory."""
        data, where = self._directory / "data", str(self._directory)
        self.run("initdb", "-D", str(data), "-U", "postgres", "-A", "trust", "--locale=C.UTF-8", "-E", "UTF8", "-N")
        self.run("pg_ctl", "start", "-w", "-D", str(data), "-l", f"{where}/log", "-o", f"-k {where} -h ''")
        try:
            with psycopg.connect(host=where, user="postgres", dbname="postgres", autocommit=True) as session:
                session.execute("CREATE ROLE chief SUPERUSER LOGIN PASSWORD 'chief-secret'")
                session.execute("CREATE DATABASE shop")
            with psycopg.connect(host=where, user="postgres", dbname="shop", autocommit=True) as session:
                session.execute("CREATE SCHEMA stock CREATE TABLE things (id serial PRIMARY KEY, word text)")
                session.execute("INSERT INTO stock.things (word) SELECT md5(g::text) FROM generate_series(1, 5000) g")
                session.execute("CREATE VIEW stock.some AS SELECT * FROM stock.things WHERE id < 10")
                session.execute("CREATE TYPE stock.colour AS ENUM ('red')")
                session.execute("CREATE DOMAIN stock.short AS text CHECK (length(VALUE) < 9)")
                session.execute("CREATE FUNCTION stock.one(int) RETURNS int LANGUAGE sql AS 'SELECT 1'")
                session.execute("CREATE EXTENSION hstore")
                session.execute("SELECT lo_create(77001)")
            for target, words in (("plain", ()), ("tar", ("-Ft", "-z"))):
                self.run(
                    "pg_basebackup", "-h", where, "-U", "postgres", "-D", f"{where}/{target}", "-c", "fast", *words
                )
        finally:
            self.run("pg_ctl", "stop", "-w", "-m", "fast", "-D", str(data))


@pytest.fixture(scope="module")
def foreign(service: Service) -> Iterator[Path]:
    """Base backups of another PostgreSQL; a test that changes one takes a copy."""
    directory = Path(tempfile.mkdtemp(dir=HOMES))
    us = pwd.getpwuid(os.geteuid())
    user = pwd.getpwnam(service.settings.engine_user) if us.pw_uid == 0 else us
    os.chown(directory, user.pw_uid, user.pw_gid)
    Foreign(directory, Builds(service.settings).resolve("postgres", service.engine_version), user).back_up()
    yield directory
    shutil.rmtree(directory)


def test_a_base_backup_of_stock_tools_becomes_an_instance(service: Service, foreign: Path) -> None:
    service.create_instance("imported")
    for form in ("plain", "tar"):
        service.cli("backups", "import", str(foreign / form), "imported")
        instance = service.await_status("imported", "available")
        with service.connect(instance, dbname="shop") as session:
            assert session.execute("SELECT count(*), min(length(word)) FROM stock.things").fetchone() == (5000, 32)
            session.execute("INSERT INTO stock.things (word) VALUES ('ours')")
            for statement in ("ALTER TABLE stock.things ADD more int", "DROP VIEW stock.some", "DROP TYPE stock.colour",
                              "DROP DOMAIN stock.short", "DROP FUNCTION stock.one(int)", "SELECT lo_unlink(77001)",
                              "ALTER SCHEMA stock RENAME TO store", "SELECT 'a=>1'::hstore"):  # fmt: skip
                session.execute(statement)
            supers = session.execute("SELECT rolname FROM pg_roles WHERE rolsuper").fetchall()
            assert supers == [("rdsadmin",)], "nobody but the service is a superuser"
        with service.connect(instance, user="chief", password="chief-secret") as session:
            assert session.execute("SELECT current_user").fetchone() == ("chief",)
        (before,) = kept(service, "imported")
        service.cli("backups", "discard", "imported", before)
    service.client("rds").modify_db_instance(
        DBInstanceIdentifier="imported", BackupRetentionPeriod=1, ApplyImmediately=True
    )
    eventually(lambda: "LatestRestorableTime" in service.describe("imported"))
    service.delete_instance("imported")


def test_an_import_that_is_killed_changes_nothing_and_can_be_begun_anew(service: Service, foreign: Path) -> None:
    instance = service.create_instance("killed", BackupRetentionPeriod=0)
    volume = Path(service.node("killed")["data_directory"]).parent
    command = [service.python, "-c", "from mainstay.cli.main import main; main()", "backups", "import"]
    with subprocess.Popen(
        [*command, str(foreign / "plain"), "killed"], env=service.environment, stdout=subprocess.DEVNULL
    ) as importing:
        eventually(lambda: list(volume.glob("data.importing-*")), interval_s=0.002)
        importing.kill()
    with service.connect(instance) as session:
        assert session.execute("SELECT 1").fetchone() == (1,)
    (expected,) = kept(service, "killed")
    service.cli("backups", "go-back", "killed", expected)  # what never came
    eventually(lambda: any("could not be exchanged" in one for one in messages(service, "killed")))
    service.await_status("killed", "available")
    service.cli("backups", "discard", "killed", expected)
    service.cli("backups", "import", str(foreign / "plain"), "killed")
    with service.connect(service.await_status("killed", "available"), dbname="shop") as session:
        assert session.execute("SELECT count(*) FROM stock.things").fetchone() == (5000,)
    assert list(volume.glob("data.importing-*")) == []
    service.delete_instance("killed")


def test_what_was_exported_comes_back(service: Service) -> None:
    """Nobody is locked out either: an export has no backup_manifest, because it was checked when it was written."""
    made = service.create_instance("leaving")
    with service.connect(made) as session:
        session.execute("CREATE TABLE steps AS SELECT g AS n FROM generate_series(1, 3) g")
    rds = service.client("rds")
    rds.create_db_snapshot(DBInstanceIdentifier="leaving", DBSnapshotIdentifier="left")
    eventually(
        lambda: rds.describe_db_snapshots(DBSnapshotIdentifier="left")["DBSnapshots"][0]["Status"] == "available"
    )
    directory = Path(tempfile.mkdtemp(dir=HOMES))
    try:
        service.cli("backups", "export", "left", str(directory / "files"))
        service.create_instance("returning")
        service.cli("backups", "import", str(directory / "files"), "returning", "--without-manifest")
    finally:
        shutil.rmtree(directory)
    assert steps(service, service.await_status("returning", "available")) == [1, 2, 3]
    for name in ("leaving", "returning"):
        service.delete_instance(name)


def test_what_cannot_be_imported_is_refused_in_words_and_changes_nothing(service: Service, foreign: Path) -> None:
    service.create_instance("refusing")

    def refused(change: Any, *options: str, form: str = "plain") -> str:
        copied = foreign / "copied"
        shutil.copytree(foreign / form, copied)
        try:
            change(copied)
            done = service.cli("backups", "import", str(copied), "refusing", *options, check=False)
        finally:
            shutil.rmtree(copied)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        return done.stderr

    def flip(copied: Path) -> None:
        victim = max((copied / "base").rglob("[0-9]*"), key=lambda path: path.stat().st_size)
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)

    def lose_log(copied: Path) -> None:
        for path in (copied / "pg_wal").iterdir():
            if path.is_file():
                path.unlink()

    assert "checksum mismatch" in refused(flip)
    assert "no backup_label" in refused(lambda copied: (copied / "backup_label").unlink())
    assert "no backup_manifest" in refused(lambda copied: (copied / "backup_manifest").unlink())
    assert "is of PostgreSQL 12" in refused(lambda copied: (copied / "PG_VERSION").write_text("12\n"))
    assert "postmaster.pid" in refused(lambda copied: (copied / "postmaster.pid").touch())
    tablespaces = "ALTER TABLE ALL IN TABLESPACE"
    assert tablespaces in refused(lambda copied: (copied / "tablespace_map").write_text("16400 /elsewhere\n"))
    assert tablespaces in refused(lambda copied: (copied / "16400.tar.gz").touch(), form="tar")
    assert "is a link to elsewhere" in refused(lambda copied: (copied / "pg_tblspc" / "16400").symlink_to("/tmp"))
    assert "refusing" not in refused(lose_log)
    assert "cannot use it" in refused(lose_log, "--without-manifest")
    assert "cannot be" in refused(lambda copied: os.truncate(copied / "base.tar.gz", 5000), form="tar")
    assert kept(service, "refusing") == [] and service.describe("refusing")["DBInstanceStatus"] == "available"
    volume = Path(service.node("refusing")["data_directory"]).parent
    assert [path.name for path in volume.glob("data.*")] == []
    service.delete_instance("refusing")
