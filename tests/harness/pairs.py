"""The two nodes of one Multi-AZ instance from outside: what is recorded of them, their processes, and harm to them."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import psutil
import psycopg

from harness.link import Link
from harness.service import Service, eventually
from harness.writers import TABLE, Row, Writers, clock_s
from mainstay.host.fencing import processes_below
from mainstay.model.pair import PairRecord

FREEZER = Path("/sys/fs/cgroup/freezer")
LOGGED_AT = re.compile(r'"timestamp": "([^"Z]+)')


class MultiAZ:
    """One Multi-AZ instance of a service."""

    def __init__(self, service: Service, instance: dict[str, Any]) -> None:
        self.service = service
        self.instance = instance
        self.identifier: str = instance["DBInstanceIdentifier"]
        self.lease = service.home / "agent" / "leases" / f"{instance['DbiResourceId']}.json"

    @property
    def record(self) -> PairRecord:
        """The lease now."""
        return msgspec.json.decode(self.lease.read_bytes(), type=PairRecord)

    @property
    def primary(self) -> str:
        """Node id of the node that leads."""
        return self.record.primary

    @property
    def standby(self) -> str:
        """Node id of the other node."""
        return next(one for one in self.node_ids if one != self.primary)

    @property
    def node_ids(self) -> list[str]:
        """Both."""
        resource = self.instance["DbiResourceId"].encode()
        specs = sorted((self.service.home / "agent" / "nodes").glob("*/spec.json"))
        return [path.parent.name for path in specs if resource in path.read_bytes()]

    def await_in_sync(self, *, timeout_s: float = 60.0) -> PairRecord:
        """The record as soon as it says that the standby has everything."""
        found: PairRecord = eventually(
            lambda: (record := self.record).standby and record, timeout_s=timeout_s, interval_s=0.01
        )
        return found

    def await_epoch(self, epoch: int, *, timeout_s: float = 60.0) -> PairRecord:
        """The record as soon as it is of this epoch or a later one."""
        found: PairRecord = eventually(
            lambda: (record := self.record).epoch >= epoch and record, timeout_s=timeout_s, interval_s=0.005
        )
        return found

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        """A session through the endpoint."""
        return self.service.connect(self.instance, **{"connect_timeout": 5, **options})

    def writers(self, **options: Any) -> Writers:
        """Clients of the table `kept`, through the endpoint."""
        return Writers(self.connect, **options)

    def stranded(self, node_id: str) -> Writers:
        """Clients that talk to one node directly, whoever leads, and do not wait for the standby."""
        node = next(node for node in self.service.nodes() if node["node"] == node_id)
        wanted: dict[str, Any] = {"host": node["address"], "sslmode": "require", "connect_timeout": 2}
        return Writers(lambda: self.connect(**wanted, options="-c synchronous_commit=local"), writers=2, readers=0)

    def answers(self) -> bool:
        """Whether the endpoint lets the master user in."""
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def make_table(self) -> None:
        """The writers' table, empty."""
        eventually(self.answers)  # the last test's fault may only now be seen
        with self.connect() as session:
            session.execute("DROP TABLE IF EXISTS kept")
            session.execute(TABLE)

    def rows(self, *, timeout_s: float = 60.0) -> list[Row]:
        """What is there, through the endpoint, as soon as it can be asked."""
        found: tuple[list[Row]] = eventually(self._answer, timeout_s=timeout_s)
        return found[0]

    def _answer(self) -> tuple[list[Row]] | None:
        try:
            with self.connect() as session:
                return (session.execute("SELECT session, sequence FROM kept").fetchall(),)
        except psycopg.OperationalError:
            return None

    def log_of(self, since: float, seconds: float) -> str:
        """What the agent and the endpoint logged from this moment (of `time.monotonic`) on, for so long."""
        began = datetime.fromtimestamp(since + clock_s(), UTC).isoformat()
        ended = datetime.fromtimestamp(since + seconds + clock_s(), UTC).isoformat()
        lines = []
        for name in ("agent", "endpoint"):
            for line in (self.service.home / "logs" / f"{name}.log").read_text().splitlines():
                found = LOGGED_AT.search(line)
                if found and began <= found[1] < ended:
                    lines.append((found[1], line))
        return "\n".join(line for _at, line in sorted(lines))

    # Processes

    def volume(self, node_id: str) -> Path:
        """Where the node's data is."""
        return self.service.home / "agent" / "nodes" / node_id / "volume"

    def processes(self, node_id: str) -> list[int]:
        """Pids of all processes of the node's engine, the postmaster first."""
        pids = processes_below(self.volume(node_id))
        postmaster = self.postmaster(node_id)
        return sorted(pids, key=lambda pid: pid != postmaster)

    def postmaster(self, node_id: str) -> int:
        """Its pid, 0 if it does not run."""
        try:
            return int((self.volume(node_id) / "data" / "postmaster.pid").read_text().split("\n", 1)[0])
        except (OSError, ValueError):
            return 0

    def kill(self, node_id: str, what: str = "everything") -> float:
        """kill -9 of "everything" of the engine, its "postmaster" or its "shim"; returns the time just before."""
        pids = self.processes(node_id)
        postmaster = self.postmaster(node_id)
        if what == "postmaster":
            pids = [postmaster]
        elif what == "shim":
            pids = [psutil.Process(postmaster).ppid()]
        assert pids, f"{node_id} has no processes"
        at = time.monotonic()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return at

    @contextmanager
    def stopped(self, node_id: str) -> Iterator[list[int]]:
        """SIGSTOP of all processes of the engine; at the end SIGCONT to those that are left."""
        stopped: list[int] = []
        while fresh := [pid for pid in self.processes(node_id) if pid not in stopped]:
            for pid in fresh:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            stopped += fresh
        try:
            yield stopped
        finally:
            for pid in stopped:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    @contextmanager
    def frozen(self, node_id: str) -> Iterator[list[int]]:
        """All processes of the engine in a frozen cgroup (version 1): not even SIGKILL takes effect before the end."""
        group = FREEZER / f"{self.service.settings.runtime.name}-{node_id}"
        group.mkdir()
        try:
            pids: list[int] = []
            while fresh := [pid for pid in self.processes(node_id) if pid not in pids]:
                for pid in fresh:
                    with suppress(OSError):
                        (group / "cgroup.procs").write_text(str(pid))
                pids += fresh
            (group / "freezer.state").write_text("FROZEN")
            eventually(lambda: (group / "freezer.state").read_text().strip() == "FROZEN")
            yield pids
        finally:
            (group / "freezer.state").write_text("THAWED")
            for thawed in (group / "cgroup.procs").read_text().split():
                with suppress(OSError):
                    (FREEZER / "cgroup.procs").write_text(thawed)
            eventually(lambda: not (group / "cgroup.procs").read_text())
            group.rmdir()

    def relay_follower(self, link: Link) -> None:
        """The standby's connection goes over the link: one from before the link was there is ended."""

        def relayed() -> bool:
            if link.state()["followers"]:
                return True
            for pid in self.processes(self.standby):  # the one that comes next may have been too early as well
                with suppress(psutil.NoSuchProcess):
                    if "walreceiver" in " ".join(psutil.Process(pid).cmdline()):
                        os.kill(pid, signal.SIGTERM)
            return False

        eventually(relayed, interval_s=0.5)

    def kill_rounds(
        self, link: Link, writers: Writers, rounds: int, *, whats: Sequence[str] = ("everything",), dwell_s: float = 0.4
    ) -> list[float]:
        """Kills the primary so often, always in sync and under load over the link; returns the times of the kills."""
        kills = []
        for number in range(rounds):
            self.await_in_sync()
            self.relay_follower(link)
            settled = time.monotonic()
            eventually(lambda since=settled: writers.acknowledged_since(since) >= 8, interval_s=0.01)
            time.sleep(random.uniform(0.0, 2 * dwell_s))
            before = self.await_in_sync()
            assert link.state()["followers"] >= 1, "the link is not in use: the delay would be of no effect"
            kills.append(self.kill(before.primary, whats[number % len(whats)]))
            after = self.await_epoch(before.epoch + 1)
            assert after.primary == before.standby
            writers.resumed()
        self.await_in_sync()
        return kills


def freezer_works() -> bool:
    """Whether this machine has the freezer of cgroups version 1, and we may use it."""
    return os.geteuid() == 0 and (FREEZER / "cgroup.procs").exists()
