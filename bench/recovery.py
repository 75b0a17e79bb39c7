"""From kill -9 of an engine, under load, to the first answered query of a new connection: 20 times."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil
import psycopg

from bench.report import Table, percentile
from harness.service import Service

HEADING = "An engine that is killed"
KILLS = 20
WRITERS = 4
POLL_S = 0.01
BETWEEN_S = 2.0
"""What writers leave in the log between two kills is replayed at the next start."""
DEADLINE_S = 60.0


def run(say: Callable[[str], None]) -> list[Table]:
    """The postmaster alone, and all of the engine's processes at once; by turns."""
    times: dict[str, list[float]] = {"postmaster": [], "every process": []}
    with Service() as service:
        instance = service.create_instance()
        identifier = instance["DBInstanceIdentifier"]
        with service.connect(instance) as session:
            session.execute("CREATE TABLE kept (id bigserial PRIMARY KEY, filling text)")
        ended = threading.Event()
        writers = [threading.Thread(target=_write, args=(service, instance, ended)) for _ in range(WRITERS)]
        for writer in writers:
            writer.start()
        try:
            for number in range(KILLS):
                time.sleep(BETWEEN_S)
                way = list(times)[number % len(times)]
                times[way].append(_killed(service, instance, identifier, way == "every process"))
                say(f"recovery: {number + 1} of {KILLS}: {times[way][-1]:.2f} s")
        finally:
            ended.set()
            for writer in writers:
                writer.join()
        version = service.engine_version
    every = [one for values in times.values() for one in values]
    return [
        Table(
            title=f"kill -9 of PostgreSQL {version} under {WRITERS} writers: seconds until a query is answered",
            columns=("killed", "times", "p50", "p95", "least", "greatest"),
            rows=tuple(
                (name, str(len(values)), *(f"{value:.2f}" for value in (
                    percentile(values, 50), percentile(values, 95), min(values), max(values))))
                for name, values in (*times.items(), ("all", every))
            ),
        )
    ]  # fmt: skip


def _killed(service: Service, instance: dict[str, Any], identifier: str, everything: bool) -> float:
    """Seconds from the kill until a new client has an answer."""
    postmaster = psutil.Process(service.node(identifier)["pid"])
    doomed = [postmaster, *(postmaster.children(recursive=True) if everything else ())]
    started = time.monotonic()
    for process in doomed:
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    while time.monotonic() < started + DEADLINE_S:
        try:
            with service.connect(instance) as session:
                session.execute("SELECT max(id) FROM kept")
            return time.monotonic() - started
        except psycopg.OperationalError:
            time.sleep(POLL_S)
    raise TimeoutError(f"{identifier} answers no query {DEADLINE_S} s after it was killed")


def _write(service: Service, instance: dict[str, Any], ended: threading.Event) -> None:
    """Inserts until told to end, with a new connection whenever one is lost."""
    while not ended.is_set():
        try:
            with service.connect(instance) as session:
                while not ended.is_set():
                    session.execute("INSERT INTO kept (filling) VALUES (repeat('x', 500))")
        except psycopg.Error:
            time.sleep(0.1)
