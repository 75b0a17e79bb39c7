"""What the service costs while nobody uses it: CPU and memory of our own processes beside three idle instances."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import psutil

from bench.report import Table
from harness.service import Service
from mainstay.host.layout import PROCESSES, SUPERVISOR

HEADING = "An idle service"
INSTANCES = 3
SETTLE_S = 15.0
WATCH_S = 60.0
SHIM = "shim/__main__.py"


def run(say: Callable[[str], None]) -> list[Table]:
    """Each process over a minute; the engines' own processes are not counted."""
    with Service() as service:
        for _ in range(INSTANCES):
            service.create_instance(BackupRetentionPeriod=1)  # what RDS does unless told otherwise
        while any(
            one["Status"] != "available" for one in service.client("rds").describe_db_snapshots()["DBSnapshots"]
        ):  # the first backups
            time.sleep(1)
        say(f"idle: {INSTANCES} instances; watching for {WATCH_S:.0f} s")
        time.sleep(SETTLE_S)
        groups = {name: [psutil.Process(service.process(name))] for name in (SUPERVISOR, *PROCESSES)}
        groups[f"shims ({INSTANCES})"] = [_shim(int(node["pid"])) for node in service.nodes()]
        before = {name: _cpu_s(processes) for name, processes in groups.items()}
        started = time.monotonic()
        time.sleep(WATCH_S)
        elapsed_s = time.monotonic() - started
        figures = [
            (name, (_cpu_s(processes) - before[name]) / elapsed_s * 100, *_memory_mb(processes))
            for name, processes in groups.items()
        ]
    total = ("all", *(sum(column) for column in zip(*(numbers for _, *numbers in figures), strict=True)))
    return [
        Table(
            title=f"{INSTANCES} idle db.t3.micro instances, automated backups, {WATCH_S:.0f} s, without the engines'"
            " own processes",
            columns=("process", "CPU, % of one core", "RSS, MB", "PSS, MB"),
            rows=tuple((name, f"{cpu:.2f}", f"{rss:.0f}", f"{pss:.0f}") for name, cpu, rss, pss in (*figures, total)),
            notes=("PSS counts a page that several processes share once, RSS once for each of them.",),
        )
    ]


def _shim(engine_pid: int) -> psutil.Process:
    """The shim of an engine: its parent."""
    parent = psutil.Process(engine_pid).parent()
    if parent is None or not any(part.endswith(SHIM) for part in parent.cmdline()):
        raise LookupError(f"the parent of engine process {engine_pid} is not its shim")
    return parent


def _cpu_s(processes: list[psutil.Process]) -> float:
    """CPU seconds since start, to the nanosecond (/proc/<pid>/schedstat): a tick of 10 ms is too coarse here."""
    return sum(
        int((task / "schedstat").read_text().split()[0]) / 1e9
        for process in processes
        for task in Path(f"/proc/{process.pid}/task").iterdir()
    )


def _memory_mb(processes: list[psutil.Process]) -> tuple[float, float]:
    found = [process.memory_full_info() for process in processes]
    return sum(one.rss for one in found) / 1e6, sum(one.pss for one in found) / 1e6
