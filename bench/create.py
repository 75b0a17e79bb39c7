"""From the API call to the first answered query of a new instance, 20 times in sequence on one service."""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import Callable

import psycopg

from bench.report import Table, percentile
from harness.service import PASSWORD, Service

HEADING = "A new instance"
CREATES = 20
KEPT = 4
"""Instances that live at the same time; older ones are deleted meanwhile, so that memory is not what is measured."""
POLL_S = 0.02
DEADLINE_S = 60.0


def run(say: Callable[[str], None]) -> list[Table]:
    """Two times of every create: until the API says `available`, and until a query over verified TLS is answered."""
    available_s: list[float] = []
    answered_s: list[float] = []
    with Service(memory_overcommit="8") as service:
        service.delete_instance(service.create_instance()["DBInstanceIdentifier"])  # warms the page cache
        alive: list[str] = []
        for number in range(CREATES):
            identifier = f"b-{secrets.token_hex(4)}"
            until_available, until_answered = _create(service, identifier)
            available_s.append(until_available)
            answered_s.append(until_answered)
            alive.append(identifier)
            if len(alive) > KEPT:
                service.delete_instance(alive.pop(0))
            if number % 5 == 4:
                say(f"create: {number + 1} of {CREATES}, median {statistics.median(answered_s):.2f} s")
        version = service.engine_version
    rows = tuple(
        (name, *(f"{value:.2f}" for value in (percentile(times, 50), percentile(times, 95), min(times), max(times))))
        for name, times in (("status `available`", available_s), ("first query answered", answered_s))
    )
    return [
        Table(
            title=f"CreateDBInstance, PostgreSQL {version}, db.t3.micro: seconds since the call ({CREATES} creates)",
            columns=("until", "p50", "p95", "least", "greatest"),
            rows=rows,
        )
    ]


def _create(service: Service, identifier: str) -> tuple[float, float]:
    """Seconds until `available` and until the first query is answered."""
    rds = service.client("rds")
    started = time.monotonic()
    rds.create_db_instance(
        DBInstanceIdentifier=identifier,
        Engine="postgres",
        EngineVersion=service.engine_version,
        DBInstanceClass="db.t3.micro",
        AllocatedStorage=20,
        MasterUsername="app",
        MasterUserPassword=PASSWORD,
        BackupRetentionPeriod=0,
    )
    while time.monotonic() < started + DEADLINE_S:
        instance = rds.describe_db_instances(DBInstanceIdentifier=identifier)["DBInstances"][0]
        if instance["DBInstanceStatus"] == "available":
            break
        time.sleep(POLL_S)
    else:
        raise TimeoutError(f"{identifier} is not available after {DEADLINE_S} s")
    available_s = time.monotonic() - started
    while time.monotonic() < started + DEADLINE_S:
        try:
            with service.connect(instance) as session:
                session.execute("SELECT 1")
            return available_s, time.monotonic() - started
        except psycopg.OperationalError:
            time.sleep(POLL_S)
    raise TimeoutError(f"{identifier} answers no query after {DEADLINE_S} s")
