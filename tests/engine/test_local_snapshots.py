"""Snapshots that are a clone of an instance's volume, with a real engine under load: there at once, stored later."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pymysql
import pytest

from harness.backups import Kept
from harness.reflink import reflink_directory, why_no_clones
from harness.service import PASSWORD, Service, eventually
from harness.volumes import why_not
from mainstay.engines.builds import Builds
from mainstay.host.volumes.loops import devices_of
from mainstay.host.volumes.mounts import mounts_below

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(why_no_clones()), reason=why_no_clones()),
]


@pytest.fixture
def cloning() -> Iterator[Service]:
    """A service on a file system that shares blocks; nothing of its volumes may be left at the end."""
    with reflink_directory() as directory, Service(below=directory, volumes="image") as service:
        yield service
        service.cli("down")
        assert not mounts_below(service.home / "agent")
        images = [*service.home.glob("agent/nodes/*/volume.img*"), *service.home.glob("agent/clones/*/*.img*")]
        assert not [device for image in images for device in devices_of(image)]


class Writer:
    """Commits one row after the other, 1, 2, 3 …, until told to end; how many were acknowledged."""

    def __init__(self, service: Service, instance: dict[str, Any]) -> None:
        self.acknowledged = 0
        self._ended = threading.Event()
        self._session = service.connect(instance)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with self._session as session:
            while not self._ended.is_set():
                session.execute("INSERT INTO ticks VALUES (%s, repeat('x', 500))", (self.acknowledged + 1,))
                self.acknowledged += 1

    def goes_on(self) -> None:
        """Returns when something more was acknowledged."""
        there = self.acknowledged
        eventually(lambda: self.acknowledged > there + 20)

    def end(self) -> None:
        self._ended.set()
        self._thread.join(60)
        assert not self._thread.is_alive()


def lost(rows: list[int], acknowledged: int) -> list[int]:
    """What is missing of 1 … `acknowledged`, and what is there without all that was committed before it."""
    return sorted(set(range(1, max([acknowledged, *rows]) + 1)) - set(rows))


def rows(service: Service, identifier: str) -> list[int]:
    with service.connect(service.describe(identifier)) as session:
        return [row[0] for row in session.execute("SELECT id FROM ticks ORDER BY id").fetchall()]


def restored(service: Service, snapshot: str, target: str) -> list[int]:
    service.client("rds").restore_db_instance_from_db_snapshot(
        DBSnapshotIdentifier=snapshot, DBInstanceIdentifier=target, BackupRetentionPeriod=0
    )
    service.await_status(target, "available")
    return rows(service, target)


def shown(service: Service, snapshot: str) -> dict[str, Any]:
    found: dict[str, Any] = service.client("rds").describe_db_snapshots(DBSnapshotIdentifier=snapshot)["DBSnapshots"][0]
    return found


def listed(service: Service, snapshot: str) -> dict[str, Any]:
    return next(row for row in json.loads(service.cli("backups", "list", "--json").stdout) if row["name"] == snapshot)


def test_a_snapshot_is_there_at_once_and_is_one_moment_from_wherever_it_is_restored(cloning: Service) -> None:
    rds, clones = cloning.client("rds"), cloning.home / "agent" / "clones"
    encrypted = {"StorageEncrypted": True} if not why_not("image", True) else {}
    instance = cloning.create_instance(
        "source", AllocatedStorage=5, StorageType="standard", BackupRetentionPeriod=1, **encrypted
    )
    kept = Kept(cloning, "source")
    kept.await_window()
    packs = kept.directory / "packs"
    with cloning.connect(instance) as session:
        session.execute("CREATE TABLE ticks (id bigint PRIMARY KEY, filler text)")
    writer = Writer(cloning, instance)
    writer.goes_on()
    packs.rename(packs.with_name("packs.away"))  # nothing can be stored, for a while
    packs.touch()
    before = writer.acknowledged
    rds.create_db_snapshot(DBInstanceIdentifier="source", DBSnapshotIdentifier="one")
    eventually(lambda: shown(cloning, "one")["Status"] == "available")
    writer.goes_on()
    assert shown(cloning, "one")["PercentProgress"] < 100, "it is on this host only"
    row = listed(cloning, "one")
    assert row["way"] == "clone" and row["local"] and not row["copied_because"]
    refused = cloning.cli("backups", "verify", "one", check=False)
    assert refused.returncode and "not in the object storage yet" in refused.stdout + refused.stderr
    rds.copy_db_snapshot(SourceDBSnapshotIdentifier="one", TargetDBSnapshotIdentifier="two")
    assert shown(cloning, "two")["Status"] == "available"
    cloning.kill("agent")

    from_clone = restored(cloning, "one", "from-clone")
    assert lost(from_clone, before) == []
    assert lost(from_clone, writer.acknowledged), "the check finds what is not there"

    packs.unlink()
    packs.with_name("packs.away").rename(packs)
    eventually(lambda: shown(cloning, "one")["PercentProgress"] == shown(cloning, "two")["PercentProgress"] == 100)
    assert not listed(cloning, "one")["local"]
    writer.end()
    assert lost(rows(cloning, "source"), writer.acknowledged) == []
    messages = [one["Message"] for one in rds.describe_events(SourceType="db-snapshot", Duration=60)["Events"]]
    assert "The DB snapshot one is in the object storage" in messages
    (clone,) = clones.glob("*/*.img")
    shutil.rmtree(clone.parent)  # as on another host
    assert restored(cloning, "two", "from-storage") == from_clone
    assert "Good" in cloning.cli("backups", "verify", "one").stdout


def test_of_mariadb_too_and_the_clone_goes_with_the_last_snapshot_that_needs_it(cloning: Service) -> None:
    rds, clones = cloning.client("rds"), cloning.home / "agent" / "clones"
    versions = [build.version for build in Builds(cloning.settings).of("mariadb")]
    made = cloning.create_instance(
        "source", Engine="mariadb", EngineVersion=max(versions), AllocatedStorage=5, StorageType="standard", DBName="d"
    )
    with session(cloning, made) as source:
        source.execute("CREATE TABLE kept (id INT PRIMARY KEY)")
        for number in range(1, 101):
            source.execute("INSERT INTO kept VALUES (%s)", (number,))
        rds.create_db_snapshot(DBInstanceIdentifier="source", DBSnapshotIdentifier="one")
        eventually(lambda: shown(cloning, "one")["PercentProgress"] == 100)
        assert listed(cloning, "one")["way"] == "clone" and len(list(clones.glob("*/*.img"))) == 1
        rds.copy_db_snapshot(SourceDBSnapshotIdentifier="one", TargetDBSnapshotIdentifier="two")
        source.execute("CREATE TABLE unsafe (id INT) ENGINE=MyISAM")
        rds.create_db_snapshot(DBInstanceIdentifier="source", DBSnapshotIdentifier="three")
        eventually(lambda: shown(cloning, "three")["Status"] == "available")
        row = listed(cloning, "three")
        assert row["way"] == "copy" and "does not survive a power cut: d.unsafe" in row["copied_because"]
    rds.delete_db_snapshot(DBSnapshotIdentifier="one")
    cloning.delete_instance("source")
    rds.restore_db_instance_from_db_snapshot(
        DBSnapshotIdentifier="two", DBInstanceIdentifier="restored", BackupRetentionPeriod=0
    )
    with session(cloning, cloning.await_status("restored", "available")) as restored:
        restored.execute("SELECT count(*) FROM kept")
        assert restored.fetchone() == (100,)
        restored.execute("INSERT INTO kept VALUES (101)")
    rds.delete_db_snapshot(DBSnapshotIdentifier="two")
    eventually(lambda: not [path for path in clones.rglob("*") if path.is_file()])


@contextmanager
def session(service: Service, instance: dict[str, Any]) -> Iterator[Any]:
    place, trust = instance["Endpoint"], {"ca": service.variables["MAINSTAY_CA_BUNDLE"]}
    connection = pymysql.connect(host=place["Address"], port=place["Port"], user="app", password=PASSWORD,
                                 database="d", autocommit=True, ssl=trust)  # fmt: skip
    with connection, connection.cursor() as cursor:
        yield cursor
