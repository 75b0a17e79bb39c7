"""Backups and restores beside pgBackRest, PITR, the lag of LatestRestorableTime, and what a backup costs a database.

`MAINSTAY_BENCH_MIB` (1024) is the size of the data and of the log that is replayed; 200 takes less than three minutes.
Both tools back up the same running PostgreSQL 15, the newest major version that Debian's pgBackRest knows, alternately:
same compression and level, AES-256, as many processes; everything is on disk when either ends. Ours is timed from the
API call until the snapshot is available; its processor time is the agent's with its workers'.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from bench.pgbackrest import Cost, NotInstallable, PgBackRest, children_cpu_s
from bench.report import Table, percentile, spread
from harness.backups import Kept, workers_of
from harness.service import PASSWORD, Service, eventually
from mainstay.agent.repositories import SystemRepositories
from mainstay.engines.builds import Builds
from mainstay.host.processes import engine_user
from mainstay.host.randomness import SystemRandomness
from mainstay.model.node import RestoreSpec, RestoreTarget

HEADING = "Backups beside pgBackRest"
MIB = int(os.environ.get("MAINSTAY_BENCH_MIB", "1024"))
ROUNDS = 3
PGBENCH_MIB_PER_SCALE = 15
NOISE_ROWS_PER_MIB = 10_500
"""Of 64 hexadecimal digits: they compress to half. What pgbench makes nearly vanishes."""

LAG_S = 20.0
STOPPED_S = 5.0
CLIENTS = 8
MAJOR = "15."
TIMEOUT_S = 1800.0
DISK = Path("/var/tmp")


class Subject:
    """The instance that is backed up, with `pgbench` data of the wanted size."""

    def __init__(self, service: Service, say: Callable[[str], None]) -> None:
        self.service = service
        installed = [build for build in Builds(service.settings).installed() if build.version.startswith(MAJOR)]
        self.comparable = bool(installed)
        version = installed[0].version if installed else service.engine_version
        service.create_instance("bench", DBInstanceClass="db.t3.medium", EngineVersion=version)
        self.version = version
        self.kept = Kept(service, "bench", timeout_s=TIMEOUT_S)
        build = next(one for one in Builds(service.settings).installed() if one.version == version)
        self._pgbench = str(build.bin_directory / "pgbench")
        self._environment = {**os.environ, **build.environment, "PGPASSWORD": PASSWORD, "PGSSLMODE": "require"}
        say(f"backups: making {MIB} MiB of data")
        self.pgbench("-i", "-q", "-s", str(max(1, MIB // 2 // PGBENCH_MIB_PER_SCALE)))
        with self.kept.connect() as session:
            session.execute(
                "CREATE TABLE noise AS SELECT g AS id, md5(g::text) || md5((-g)::text) AS value"
                " FROM generate_series(1, %s) g",
                (MIB // 2 * NOISE_ROWS_PER_MIB,),
            )
        self.kept.rds.modify_db_instance(DBInstanceIdentifier="bench", BackupRetentionPeriod=7, ApplyImmediately=True)
        self.kept.await_window()  # the first automated backup, which moments are restored from

    def pgbench(self, *arguments: str) -> str:
        """Its output."""
        place = self.service.describe("bench")["Endpoint"]
        command = [self._pgbench, "-h", place["Address"], "-p", str(place["Port"]), "-U", "app", *arguments, "postgres"]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=TIMEOUT_S,
                              check=True)  # fmt: skip
        return done.stdout

    def tps(self, seconds: int) -> float:
        """Of TPC-B with so many clients."""
        output = self.pgbench("-n", "-c", str(CLIENTS), "-j", "2", "-T", str(seconds))
        found = re.search(r"^tps = ([\d.]+)", output, re.MULTILINE)
        assert found is not None, output
        return float(found[1])

    def change(self, percent: int) -> None:
        """So much of the largest table is rewritten, in one piece."""
        with self.kept.connect() as session:
            session.execute(
                "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid <="
                " (SELECT max(aid) FROM pgbench_accounts) * %s / 100",
                (percent,),
            )
            session.execute("CHECKPOINT")

    def settle(self) -> None:
        """What the log was made with is frozen and written: else autovacuum comes some minutes later and changes every
        page of it between two rounds, which is what both tools then store."""
        with self.kept.connect() as session:
            session.execute("VACUUM (FREEZE)")
            session.execute("CHECKPOINT")

    def back_up(self, name: str) -> Cost:
        """A manual snapshot, as a user makes it."""
        agent = psutil.Process(self.service.process("agent"))
        before, started = _cpu_s(agent), time.monotonic()
        self.kept.begin_snapshot(name)
        self.kept.await_snapshot(name)
        return Cost(time.monotonic() - started, _cpu_s(agent) - before)

    def restore(self, name: str, destination: Path) -> Cost:
        """The files of the newest snapshot, by the worker of the agent, without an engine."""
        backup_id = max(path.name for path in (self.kept.directory / "manifests").iterdir())
        spec = RestoreSpec(repository=self.kept.ref, backup_id=backup_id, target=RestoreTarget())
        repositories = SystemRepositories(self.service.settings, SystemRandomness())
        user = engine_user(self.service.settings.engine_user)
        before, started = children_cpu_s(), time.monotonic()
        asyncio.run(repositories.restore(spec, destination / name, user, lambda *_: None))
        return Cost(time.monotonic() - started, children_cpu_s() - before)

    @property
    def stored_bytes(self) -> int:
        """Of backups, without the log."""
        return _size(self.kept.directory / "packs") + _size(self.kept.directory / "manifests")


def run(say: Callable[[str], None]) -> Iterator[Table]:
    """Four tables, three without pgBackRest; on a disk, where both tools wait for it."""
    with Service(below=DISK) as service:
        subject = Subject(service, say)
        yield _point_in_time(subject, say)
        scratch = Path(tempfile.mkdtemp(prefix="mainstay-bench-", dir=service.home))
        scratch.chmod(0o711)
        try:
            yield _beside(subject, scratch, say)
        except NotInstallable as error:
            say(str(error))
        finally:
            shutil.rmtree(scratch)
        yield _lag(subject, say)
        yield _cost(subject, say)


def _beside(subject: Subject, scratch: Path, say: Callable[[str], None]) -> Table:
    if not subject.comparable:
        raise NotInstallable(f"Debian's pgBackRest does not know PostgreSQL {subject.version}; {MAJOR} is not here")
    node = subject.service.node("bench")
    sockets = subject.service.settings.runtime / "nodes" / node["node"]
    peer = PgBackRest(scratch / "pgbackrest", Path(node["data_directory"]), sockets, int(node["port"]))
    user = engine_user(subject.service.settings.engine_user)
    places = scratch / "restored"
    places.mkdir(mode=0o711)
    user.give(places)
    subject.settle()
    subject.back_up("begin")  # what the first automated backup has not: the next is no first one
    ours: dict[str, list[Cost]] = {"full": [], "again": [], "restore": []}
    theirs: dict[str, list[Cost]] = {"full": [], "again": [], "restore": []}
    moved: dict[str, list[float]] = {"ours": [], "theirs": []}
    data = Path(node["data_directory"])
    size = _size(data) - _size(data / "pg_wal")
    for number in range(ROUNDS):
        order = [True, False] if number % 2 else [False, True]
        for mine in order:
            if mine:
                ours["full"].append(_full(subject, f"full{number}"))
            else:
                theirs["full"].append(peer.back_up("full"))
        for mine in order:
            place = places / f"{number}-{mine}"
            if mine:
                ours["restore"].append(subject.restore(place.name, places))
            else:
                theirs["restore"].append(peer.restore(place))
            shutil.rmtree(place)
        subject.change(1)
        for mine in order:
            before = subject.stored_bytes if mine else _size(peer.repository)
            if mine:
                ours["again"].append(subject.back_up(f"again{number}"))
            else:
                theirs["again"].append(peer.back_up("incr"))
            after = subject.stored_bytes if mine else _size(peer.repository)
            moved["ours" if mine else "theirs"].append((after - before) / 2**20)
        say(f"backups: round {number + 1} of {ROUNDS} beside pgBackRest")
    return _beside_table(peer.version, size, ours, theirs, moved)


def _full(subject: Subject, name: str) -> Cost:
    """The first backup of a repository: an instance's other snapshots are out of the way for the time of it."""
    manifests = subject.kept.directory / "manifests"
    aside = subject.kept.directory / "aside"
    manifests.rename(aside)
    try:
        return subject.back_up(name)
    finally:
        for path in aside.iterdir():
            path.rename(manifests / path.name)
        aside.rmdir()


def _beside_table(
    version: str,
    size: int,
    ours: dict[str, list[Cost]],
    theirs: dict[str, list[Cost]],
    moved: dict[str, list[float]],
) -> Table:
    rows = []
    for name, words in (("full", "first backup"), ("restore", "restore"), ("again", "backup after 1 % changed")):
        pairs = list(zip(ours[name], theirs[name], strict=True))
        for what in ("wall_s", "cpu_s"):
            mine, peers = ([getattr(one, what) for one in side] for side in (ours[name], theirs[name]))
            ratios = [getattr(one, what) / max(0.001, getattr(other, what)) for one, other in pairs]
            unit = "wall, s" if what == "wall_s" else "CPU, s"
            rows.append((f"{words}: {unit}", spread(mine, 2), spread(peers, 2), spread(ratios, 2)))
    ratios = [one / max(0.001, other) for one, other in zip(moved["ours"], moved["theirs"], strict=True)]
    rows.append(("backup after 1 % changed: MiB stored", spread(moved["ours"], 1), spread(moved["theirs"], 1),
                 spread(ratios, 2)))  # fmt: skip
    return Table(
        title=f"{size / 2**20:.0f} MiB of PostgreSQL, zstd and AES-256, {ROUNDS} rounds",
        columns=("", "Mainstay", f"pgBackRest {version}", "ratio"),
        rows=tuple(rows),
        notes=(
            "The restore is of the files, checked and on disk, without the engine. Backups of Mainstay are timed"
            " through the API, with the log they need; pgBackRest ships no log here, and waits for a full second of"
            " the clock in every backup.",
        ),
    )


def _point_in_time(subject: Subject, say: Callable[[str], None]) -> Table:
    kept = subject.kept
    base_at = kept.earliest.timestamp()
    log_mib = _grow_log(kept)
    target = kept.await_restorable(time.time())
    say(f"backups: a restore with {log_mib:.0f} MiB of log")
    started = time.monotonic()
    kept.restore_moments({"pitr": target}, db_instance_class="db.t3.medium")  # room for a home in memory
    kept.await_status("pitr")
    seconds = time.monotonic() - started
    with kept.connect("pitr") as session:
        assert session.execute("SELECT count(*) > 0 FROM pgbench_accounts").fetchone() == (True,)
    phases = _phases(subject.service)
    kept.drop("pitr")
    row = (f"{MIB} MiB of data, {log_mib:.0f} MiB of log", f"{seconds:.1f}", phases, f"{target - base_at:.0f}")
    return Table(
        title=f"Restore to a point in time, PostgreSQL {subject.version}",
        columns=("", "seconds until available", "of them files", "seconds of history"),
        rows=(row,),
    )


def _grow_log(kept: Kept) -> float:
    """Writes until the log has grown by the wanted size; by how many MiB it has."""
    with kept.connect() as session:
        began, number = _position(session), 0
        while (grown := (_position(session) - began) / 2**20) < MIB:
            number += 1
            session.execute("UPDATE noise SET value = md5(value) || md5(id::text) WHERE id %% 50 = %s", (number % 50,))
            if number % 50 == 0:
                session.execute("VACUUM noise")
    return grown


def _position(session: Any) -> int:
    row = session.execute("SELECT pg_current_wal_lsn() - '0/0'").fetchone()
    return int(row[0])


def _phases(service: Service) -> str:
    """Seconds that the last restore of files took, by the agent's log."""
    found = re.findall(r'"seconds": ([\d.]+), "event": "node.restored"', (service.home / "logs/agent.log").read_text())
    return found[-1] if found else "-"


def _lag(subject: Subject, say: Callable[[str], None]) -> Table:
    """How far LatestRestorableTime is behind while the instance is busy, and while nothing is shipped."""
    say("backups: lag of LatestRestorableTime")
    process = subprocess.Popen(
        [*_busy(subject), "-T", str(int(LAG_S + STOPPED_S + 5))], env=subject._environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        time.sleep(2.0)
        lags, deadline = [], time.monotonic() + LAG_S
        while time.monotonic() < deadline:
            lags.append(time.time() - subject.kept.latest.timestamp())
            time.sleep(0.05)
        with subject.service.stopped("agent"):
            time.sleep(1.0)
            before = subject.kept.latest
            time.sleep(STOPPED_S)
            stood = subject.kept.latest == before
    finally:
        process.wait(60)
    figures = tuple(f"{value:.2f}" for value in (percentile(lags, 50), percentile(lags, 99), max(lags)))
    return Table(
        title=f"LatestRestorableTime behind the clock, pgbench with {CLIENTS} clients, {LAG_S:.0f} s",
        columns=("", "p50, s", "p99, s", "greatest, s", f"stands still in {STOPPED_S:.0f} s without shipping"),
        rows=((f"{len(lags)} looks", *figures, "yes" if stood else "NO"),),
        notes=("It is told in whole seconds, rounded down: half a second of it is that.",),
    )


def _busy(subject: Subject) -> list[str]:
    place = subject.service.describe("bench")["Endpoint"]
    return [subject._pgbench, "-h", place["Address"], "-p", str(place["Port"]), "-U", "app", "-n", "-c", str(CLIENTS),
            "-j", "2", "postgres"]  # fmt: skip


def _cost(subject: Subject, say: Callable[[str], None]) -> Table:
    """Transactions a second without and with a first backup that goes on for as long."""
    say("backups: what a backup costs pgbench")
    without, during = [], []
    for number in range(ROUNDS):
        without.append(subject.tps(5))
        manifests = subject.kept.directory / "manifests"
        aside = manifests.with_name("aside")
        manifests.rename(aside)
        try:
            subject.kept.begin_snapshot(f"cost{number}")
            eventually(lambda: workers_of(subject.service.process("agent")))
            during.append(subject.tps(5))
        finally:
            subject.kept.await_snapshot(f"cost{number}")
            for path in aside.iterdir():
                path.rename(manifests / path.name)
            aside.rmdir()
    ratio = statistics.median(one / other for one, other in zip(during, without, strict=True))
    return Table(
        title=f"pgbench TPC-B, {CLIENTS} clients, {ROUNDS} rounds of 5 s",
        columns=("", "transactions a second"),
        rows=(("alone", spread(without)), ("while a first backup is taken", spread(during)), ("ratio", f"{ratio:.2f}")),
    )


def _cpu_s(process: psutil.Process) -> float:
    """With that of its children that have ended."""
    times = process.cpu_times()
    return times.user + times.system + times.children_user + times.children_system


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
