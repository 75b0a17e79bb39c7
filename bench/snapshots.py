"""Snapshots of a running instance as clones of its volume beside copies, under load, and restores of both.

`MAINSTAY_BENCH_MIB` (2560) is the size of the database. Both services are on the same XFS, one after the other, in one
file on this disk; the load is TPC-B at half the rate that 8 clients reach. A snapshot is timed from the API call until
it is `available`, a restore until the new instance is; every restored database is checked against what was acknowledged
before the call, and against what TPC-B keeps equal.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from bench.report import Table, percentile, spread
from harness.reflink import reflink_directory, why_no_clones
from harness.service import PASSWORD, Service, eventually
from mainstay.engines.builds import Builds

HEADING = "Snapshots by clones"
MIB = int(os.environ.get("MAINSTAY_BENCH_MIB", "2560"))
PGBENCH_MIB_PER_SCALE = 15
DISK_BYTES = 48 << 30
ROUNDS = 5
CLIENTS = 8
PROBE_PAUSE_S = 0.005
TIMEOUT_S = 1800.0
BALANCES = """SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) FROM pgbench_branches),
 (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT sum(delta) FROM pgbench_history)"""


class Found(msgspec.Struct, kw_only=True):
    """What was measured of one way, in seconds."""

    available: list[float] = []
    silent: list[float] = []
    stored: list[float] = []
    frozen: list[float] = []
    restored: list[float] = []


class Subject:
    """A running instance of that size."""

    def __init__(self, service: Service, say: Callable[[str], None]) -> None:
        self.service, self.rds = service, service.client("rds")
        self.instance = service.create_instance(
            "bench", DBInstanceClass="db.t3.medium", AllocatedStorage=10, StorageType="standard"
        )
        build = next(one for one in Builds(service.settings).installed() if one.version == service.engine_version)
        self._pgbench = str(build.bin_directory / "pgbench")
        self._environment = {**os.environ, **build.environment, "PGPASSWORD": PASSWORD, "PGSSLMODE": "require"}
        started = time.monotonic()
        self._run("-i", "-q", "-s", str(max(1, MIB // PGBENCH_MIB_PER_SCALE)))
        with service.connect(self.instance) as session:
            session.execute("CREATE TABLE ticks (id bigint PRIMARY KEY)")
        say(f"snapshots: {MIB} MiB made in {time.monotonic() - started:.0f} s")
        found = re.search(r"^tps = ([\d.]+)", self._run("-n", "-c", str(CLIENTS), "-j", "2", "-T", "5"), re.MULTILINE)
        assert found is not None
        self.rate = max(1.0, float(found[1]) / 2)

    def _argv(self, *arguments: str) -> list[str]:
        place = self.instance["Endpoint"]
        return [self._pgbench, "-h", place["Address"], "-p", str(place["Port"]), "-U", "app", *arguments, "postgres"]

    def _run(self, *arguments: str) -> str:
        done = subprocess.run(self._argv(*arguments), env=self._environment, capture_output=True, text=True,
                              timeout=TIMEOUT_S, check=True)  # fmt: skip
        return done.stdout

    @contextmanager
    def loaded(self) -> Iterator[Probe]:
        """TPC-B for the block, and a client of our own beside it."""
        load = subprocess.Popen(
            self._argv("-n", "-c", str(CLIENTS), "-j", "2", "-T", "3600", "-R", f"{self.rate:.0f}"),
            env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        probe = Probe(self.service, self.instance)
        try:
            yield probe
            assert load.poll() is None, "the load goes on to the end"
        finally:
            load.terminate()
            load.wait(60)
            probe.end()

    def snapshot(self, name: str) -> dict[str, Any]:
        """As it is shown."""
        found: dict[str, Any] = self.rds.describe_db_snapshots(DBSnapshotIdentifier=name)["DBSnapshots"][0]
        return found

    def restore(self, name: str, acknowledged: int) -> float:
        """How long it took; the instance is removed again."""
        started = time.monotonic()
        self.rds.restore_db_instance_from_db_snapshot(
            DBSnapshotIdentifier=name, DBInstanceIdentifier="restored", BackupRetentionPeriod=0
        )
        made = self.service.await_status("restored", "available")
        seconds = time.monotonic() - started
        with self.service.connect(made) as session:
            row, ticks = session.execute(BALANCES).fetchone(), session.execute("SELECT id FROM ticks").fetchall()
        assert row is not None and len(set(row)) == 1, row
        there = {one for (one,) in ticks}
        assert there == set(range(1, len(there) + 1)) and len(there) >= acknowledged, "a commit is missing"
        self.service.delete_instance("restored")
        return seconds


class Probe:
    """A client that commits one row after the other, 1, 2, 3 …; when each was acknowledged."""

    def __init__(self, service: Service, instance: dict[str, Any]) -> None:
        self.acknowledged = service.connect(instance).execute("SELECT count(*) FROM ticks").fetchone()[0]  # type: ignore[index]
        self.times: list[float] = []
        self._ended = threading.Event()
        self._session = service.connect(instance)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with self._session as session:
            while not self._ended.wait(PROBE_PAUSE_S):
                session.execute("INSERT INTO ticks VALUES (%s)", (self.acknowledged + 1,))
                self.acknowledged += 1
                self.times.append(time.monotonic())

    def silence_s(self, since: float) -> float:
        """The longest time without any acknowledgement."""
        times = [one for one in self.times if one >= since - 1.0]
        return max((later - earlier for earlier, later in pairwise(times)), default=0.0)

    def end(self) -> None:
        """It has ended when this returns."""
        self._ended.set()
        self._thread.join(60)


def run(say: Callable[[str], None]) -> list[Table]:
    """The one table."""
    if reason := why_no_clones():
        say(f"snapshots: {reason}")
        return []
    found = {}
    for way, volumes in (("clone", "image"), ("copy", "directory")):
        with reflink_directory(DISK_BYTES) as directory, Service(below=directory, volumes=volumes) as service:
            found[way] = _measure(Subject(service, say), way, say)
    return [_table(found)]


def _measure(subject: Subject, way: str, say: Callable[[str], None]) -> Found:
    found, promised = Found(), {}
    for number in range(ROUNDS):
        name = f"{way}{number}"
        with subject.loaded() as probe:
            time.sleep(3.0)
            promised[name], started = probe.acknowledged, time.monotonic()
            subject.rds.create_db_snapshot(DBInstanceIdentifier="bench", DBSnapshotIdentifier=name)
            eventually(lambda n=name: subject.snapshot(n)["Status"] == "available", timeout_s=TIMEOUT_S,
                       interval_s=0.01)  # fmt: skip
            found.available.append(time.monotonic() - started)
            eventually(lambda n=name: subject.snapshot(n)["PercentProgress"] == 100, timeout_s=TIMEOUT_S)
            found.stored.append(time.monotonic() - started)
            found.silent.append(probe.silence_s(started))
        found.restored.append(subject.restore(name, promised[name]))
        say(
            f"snapshots: {name}: available in {found.available[-1]:.2f} s, stored in {found.stored[-1]:.1f} s,"
            f" restored in {found.restored[-1]:.1f} s, longest silence {found.silent[-1]:.2f} s"
        )
    found.frozen = _frozen(subject.service.home)
    return found


def _frozen(home: Path) -> list[float]:
    """How long each clone's file system was frozen, as the agent has logged it."""
    lines = (home / "logs" / "agent.log").read_text().splitlines()
    return [float(json.loads(line)["frozen_s"]) for line in lines if '"snapshot.cloned"' in line]


def _table(found: dict[str, Found]) -> Table:
    rows = tuple(
        (
            way,
            spread(one.available, 2),
            f"{percentile(one.available, 100):.2f}",
            spread(one.frozen, 2) if one.frozen else "-",
            spread(one.silent, 2),
            spread(one.stored, 1),
            spread(one.restored, 1),
        )
        for way, one in found.items()
    )
    return Table(
        title=f"PostgreSQL of {MIB} MiB under TPC-B, on XFS, {ROUNDS} snapshots each",
        columns=("way", "available, s", "worst, s", "frozen, s", "longest silence of a client, s",
                 "in object storage, s", "restored, s"),
        rows=rows,
        notes=("Every restored database had every commit that was acknowledged before the call, and TPC-B's sums.",),
    )  # fmt: skip
