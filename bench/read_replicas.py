"""Read replicas: how far they are behind under steady writes, what is reported of it, and how long promotion takes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any

import msgspec
import psycopg

from bench.report import Table, percentile
from harness.service import PASSWORD, Service, eventually
from mainstay.cli.agent import ask_agent
from mainstay.engines.builds import Builds

HEADING = "Read replicas"
REPLICAS = 5
WRITES_A_SECOND = 1000
SECONDS = 40
SAMPLE_S = 0.2
POLL_S = 0.02
TABLE = "CREATE TABLE written (id bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp())"
WRITE = "INSERT INTO written DEFAULT VALUES;\n"
AGE = "SELECT extract(epoch FROM clock_timestamp() - at)::float8 FROM written ORDER BY id DESC LIMIT 1"


class Seen(msgspec.Struct):
    """Samples of all replicas together, in seconds."""

    age_s: list[float] = []
    """Age of the newest row that is visible: true lag, and the time since the last write."""

    reported_s: list[float] = []
    unknown: int = 0


def run(say: Callable[[str], None]) -> list[Table]:
    """Lag with one replica and with all, then the promotion of each."""
    with Service() as service:
        source = service.create_instance("source", BackupRetentionPeriod=1)
        with service.connect(source) as session:
            session.execute(TABLE)
        names = [f"replica{number}" for number in range(REPLICAS)]
        results = {}
        for until in (1, REPLICAS):
            for name in names[:until]:
                _replica(service, name)
            results[until] = _lag(service, source, names[:until])
            say(f"read_replicas: {until} of {REPLICAS}: newest row at most {max(results[until].age_s):.2f} s old")
        promotions = [_promote(service, name) for name in names]
        return [_lag_table(service.engine_version, results), _promotion_table(promotions)]


def _replica(service: Service, name: str) -> None:
    rds = service.client("rds")
    if name not in [one["DBInstanceIdentifier"] for one in rds.describe_db_instances()["DBInstances"]]:
        rds.create_db_instance_read_replica(DBInstanceIdentifier=name, SourceDBInstanceIdentifier="source")
    service.await_status(name, "available")
    with service.connect(service.describe(name)) as session:
        eventually(lambda: session.execute("SELECT to_regclass('written')").fetchone() != (None,))


def _lag(service: Service, source: dict[str, Any], names: list[str]) -> Seen:
    build = next(one for one in Builds(service.settings).installed() if one.version == service.engine_version)
    script = service.home / "write.sql"
    script.write_text(WRITE)
    place = source["Endpoint"]
    writing = subprocess.Popen(
        [
            build.bin_directory / "pgbench", "-n", "-f", script, "-M", "prepared", "-c", "8", "-j", "1",
            "-R", str(WRITES_A_SECOND), "-T", str(SECONDS), "-h", place["Address"], "-p", str(place["Port"]),
            "-U", source["MasterUsername"], "postgres",
        ],
        env={"PATH": "/usr/bin:/bin", "PGPASSWORD": PASSWORD, "PGSSLMODE": "require", **build.environment},
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    sessions = {name: service.connect(service.describe(name)) for name in names}
    seen = Seen()
    try:
        time.sleep(2.0)  # until it writes at its rate
        ends = time.monotonic() + SECONDS - 4.0
        while time.monotonic() < ends:
            _look(service, sessions, seen)
            time.sleep(SAMPLE_S)
        assert writing.poll() is None, "pgbench ended early"
    finally:
        writing.terminate()
        writing.wait()
        for session in sessions.values():
            session.close()
    return seen


def _look(service: Service, sessions: dict[str, psycopg.Connection[Any]], seen: Seen) -> None:
    for session in sessions.values():
        row = session.execute(AGE).fetchone()
        assert row is not None
        seen.age_s.append(row[0])
    for node in ask_agent(service.settings, "nodes"):
        if node["db_instance_identifier"] in sessions:
            lag_s = (node.get("replication") or {}).get("lag_s")
            if lag_s is None:
                seen.unknown += 1
            else:
                seen.reported_s.append(lag_s)


def _promote(service: Service, name: str) -> tuple[float, float]:
    """Seconds from the call to the first write, and to `available`."""
    instance = service.describe(name)
    started = time.monotonic()
    service.client("rds").promote_read_replica(DBInstanceIdentifier=name)
    eventually(lambda: _writes(service, instance), interval_s=POLL_S)
    written_s = time.monotonic() - started
    service.await_status(name, "available")
    return written_s, time.monotonic() - started


def _writes(service: Service, instance: dict[str, Any]) -> bool:
    try:
        with service.connect(instance) as session:
            session.execute(WRITE)
    except psycopg.Error:
        return False
    return True


def _lag_table(version: str, results: dict[int, Seen]) -> Table:
    def cells(values: list[float]) -> tuple[str, ...]:
        return tuple(f"{value:.2f}" for value in (percentile(values, 50), percentile(values, 99), max(values)))

    rows = []
    for count, seen in results.items():
        of = f"{count} replica{'' if count == 1 else 's'}"
        rows.append((f"{of}: age of the newest visible row", *cells(seen.age_s)))
        rows.append((f"{of}: lag as reported ({seen.unknown} times unknown)", *cells(seen.reported_s)))
    return Table(
        title=f"Seconds behind under {WRITES_A_SECOND} inserts a second, PostgreSQL {version}, {SECONDS} s",
        columns=("", "p50", "p99", "greatest"),
        rows=tuple(rows),
    )


def _promotion_table(promotions: list[tuple[float, float]]) -> Table:
    written, available = zip(*promotions, strict=True)
    return Table(
        title=f"PromoteReadReplica: seconds since the call ({len(promotions)} promotions)",
        columns=("until", "p50", "greatest"),
        rows=tuple(
            (name, f"{percentile(values, 50):.2f}", f"{max(values):.2f}")
            for name, values in (("first write acknowledged", written), ("status `available`", available))
        ),
    )
