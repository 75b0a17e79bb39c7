"""From the API call to the first answered query of a new instance, 20 times in sequence on one service.

MariaDB and MySQL, where they are installed, are measured as well: 8 times with one node, 4 times with Multi-AZ.
"""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import Callable
from typing import Any

from bench.report import Table, percentile
from harness.dialects import MARIADB, MYSQL, POSTGRES, ClientError, EngineUnderTest, newest_of
from harness.pairs import MultiAZ
from harness.service import PASSWORD, Service, eventually

HEADING = "A new instance"
CREATES, CREATES_OF_OTHERS, CREATES_MULTI_AZ = 20, 8, 4
KEPT = 4
"""Instances that live at the same time; older ones are deleted meanwhile, so that memory is not what is measured."""
POLL_S = 0.02
DEADLINE_S = 60.0

Times = dict[str, list[float]]


def run(say: Callable[[str], None]) -> list[Table]:
    """A table for each engine and kind of instance: seconds of every create until it has come so far."""
    tables = []
    with Service(memory_overcommit="8") as service:
        newest = EngineUnderTest(POSTGRES, service.engine_version)
        tables.append(table(newest, measure(service, newest, CREATES, say)))
        for engine in (*newest_of(MARIADB), *newest_of(MYSQL)):
            tables.append(table(engine, measure(service, engine, CREATES_OF_OTHERS, say)))
            times = measure(service, engine, CREATES_MULTI_AZ, say, MultiAZ=True)
            tables.append(table(engine, times, " with MultiAZ"))
    return tables


def measure(
    service: Service, engine: EngineUnderTest, creates: int, say: Callable[[str], None], **members: Any
) -> Times:
    """Seconds since the call until each of the stages, for so many creates one after the other."""
    pairs = bool(members.get("MultiAZ"))
    service.delete_instance(engine.create(service, **members)["DBInstanceIdentifier"])  # warms the page cache
    times: Times = {"status `available`": [], "first query answered": []}
    if pairs:
        times["standby in sync"] = []
    alive: list[str] = []
    for number in range(creates):
        identifier = f"b-{secrets.token_hex(4)}"
        for stage, seconds in _create(service, engine, identifier, members).items():
            times[stage].append(seconds)
        alive.append(identifier)
        if len(alive) > (1 if pairs else KEPT):
            service.delete_instance(alive.pop(0))
        if number % 5 == 4 or number == creates - 1:
            median = statistics.median(times["first query answered"])
            say(f"create: {engine.dialect.engine}, {number + 1} of {creates}, median {median:.2f} s")
    for identifier in alive:
        service.delete_instance(identifier)
    return times


def _create(service: Service, engine: EngineUnderTest, identifier: str, members: dict[str, Any]) -> dict[str, float]:
    """Seconds since the call until each of the stages."""
    rds = service.client("rds")
    started = time.monotonic()
    rds.create_db_instance(
        DBInstanceIdentifier=identifier,
        Engine=engine.dialect.engine,
        EngineVersion=engine.version,
        DBInstanceClass="db.t3.micro",
        AllocatedStorage=20,
        MasterUsername="app",
        MasterUserPassword=PASSWORD,
        BackupRetentionPeriod=0,
        **members,
    )
    reached = {}
    instance = eventually(lambda: _available(service, identifier), timeout_s=DEADLINE_S, interval_s=POLL_S)
    reached["status `available`"] = time.monotonic() - started
    eventually(lambda: _answers(service, engine, instance), timeout_s=DEADLINE_S, interval_s=POLL_S)
    reached["first query answered"] = time.monotonic() - started
    if members.get("MultiAZ"):
        MultiAZ(service, instance).await_in_sync()
        reached["standby in sync"] = time.monotonic() - started
    return reached


def _available(service: Service, identifier: str) -> dict[str, Any] | None:
    found = service.describe(identifier)
    return found if found["DBInstanceStatus"] == "available" else None


def _answers(service: Service, engine: EngineUnderTest, instance: dict[str, Any]) -> bool:
    try:
        with engine.connect(service, instance) as session:
            return bool(session.value("SELECT 1") == 1)
    except ClientError:
        return False


def table(engine: EngineUnderTest, times: Times, kind: str = "") -> Table:
    """What `measure` has found, of this kind of instance."""
    name = {"postgres": "PostgreSQL", "mariadb": "MariaDB", "mysql": "MySQL"}[engine.dialect.engine]
    count = len(times["first query answered"])
    rows = tuple(
        (stage, *(f"{value:.2f}" for value in (percentile(found, 50), percentile(found, 95), min(found), max(found))))
        for stage, found in times.items()
    )
    return Table(
        title=f"CreateDBInstance{kind}, {name} {engine.version}, db.t3.micro: seconds since the call ({count} creates)",
        columns=("until", "p50", "p95", "least", "greatest"),
        rows=rows,
    )
