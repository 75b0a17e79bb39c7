"""RDS Proxy served by several processes: one budget, one listener, and none of them is missed when it dies."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from harness.proxy import PROXY_USERS, ProxyUnderTest
from harness.service import PASSWORD, Service, eventually
from mainstay.engines.builds import Builds
from mainstay.host.layout import lock_path
from mainstay.host.locks import holder

pytestmark = pytest.mark.engine

WORKERS = 3
CLIENTS = 1000


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[Service, dict[str, Any]]]:
    with Service(proxy_workers=str(WORKERS)) as service:
        yield service, service.create_instance()


@pytest.fixture
def proxy(place: tuple[Service, dict[str, Any]]) -> Iterator[ProxyUnderTest]:
    service, instance = place
    pool = {"connection_borrow_timeout_s": 60.0}
    with ProxyUnderTest(service, instance, users=PROXY_USERS[:1], pool=pool) as proxy:
        eventually(lambda: len(proxy.workers()) == WORKERS)
        yield proxy
        log = proxy.log()
        assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:3000]


def narrow(proxy: ProxyUnderTest, connections: int) -> int:
    """A budget of about so many connections; how many exactly."""
    with proxy.connect() as session:
        row = session.execute("SHOW max_connections").fetchone()
    assert row is not None
    proxy.put(pool={"max_connections_percent": -(-100 * connections // int(row[0]))})
    eventually(lambda: proxy.stats()["DatabaseConnections"] <= proxy.stats()["MaxDatabaseConnectionsAllowed"])
    return int(proxy.stats()["MaxDatabaseConnectionsAllowed"])


class Watch(threading.Thread):
    """What the engine has had at most at the same time, asked as often as it answers.

    One look is no moment: the view is read entry by entry, and one may end and another begin meanwhile. What is in two
    looks was there in between, all of it.
    """

    def __init__(self, proxy: ProxyUnderTest) -> None:
        super().__init__(daemon=True)
        self.most = 0
        self.looks = 0
        self._ended = threading.Event()
        self._proxy = proxy

    def run(self) -> None:
        with self._proxy.service.connect(self._proxy.instance, application_name="watching") as session:
            before: set[Any] = set()
            while not self._ended.is_set():
                found = session.execute(
                    "SELECT pid, backend_start FROM pg_stat_activity WHERE backend_type = 'client backend'"
                    " AND usename = 'app' AND pid <> pg_backend_pid()"
                ).fetchall()
                self.most, self.looks = max(self.most, len(before & set(found))), self.looks + 1
                before = set(found)
                time.sleep(0.002)

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join(30)


def by_worker(proxy: ProxyUnderTest) -> Counter[int]:
    """How many clients each has."""
    return Counter(one["worker"] for one in proxy.sessions())


def test_a_thousand_clients_on_ten_connections(proxy: ProxyUnderTest, tmp_path: Path) -> None:
    allowed = narrow(proxy, 10)
    version = proxy.service.engine_version
    programs = next(one.bin_directory for one in Builds(proxy.service.settings).installed() if one.version == version)
    script = tmp_path / "script"
    script.write_text("SELECT pg_sleep(0.0005);\n")
    environment = {"PGPASSWORD": PASSWORD, "PGSSLMODE": "disable", "PGGSSENCMODE": "disable", "LC_ALL": "C.UTF-8"}
    command = [
        str(programs / "pgbench"), "-n", "-f", str(script), "-c", str(CLIENTS), "-j", "2", "-t", "5",
        "-h", "127.0.0.1", "-p", str(proxy.port), "-U", "app", "postgres",
    ]  # fmt: skip
    with Watch(proxy) as watch, subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as bench:
        spread = eventually(lambda: (found := by_worker(proxy)).total() >= CLIENTS * 0.9 and found)
        output, _ = bench.communicate(timeout=120)
    assert f"number of transactions actually processed: {CLIENTS * 5}/{CLIENTS * 5}" in output
    print(f"{dict(spread)} clients, at most {watch.most} of {allowed} connections in {watch.looks} looks")
    assert watch.looks > 20 and 1 <= watch.most <= allowed
    assert len(spread) == WORKERS and min(spread.values()) > CLIENTS / WORKERS / 2, "no worker takes them all"


def cancel_until(connection: psycopg.Connection[Any], ended: threading.Event) -> None:
    """Again and again: a cancel that comes before its statement cancels nothing."""
    while not ended.wait(0.1):
        connection.cancel_safe()


def test_a_cancel_through_another_worker(proxy: ProxyUnderTest) -> None:
    """Which worker a cancel request comes to is chance: of so many some come to another one."""
    with ExitStack() as stack:
        bystander = stack.enter_context(proxy.connect())
        for one in stack.enter_context(proxy.clients(12)):
            ended = threading.Event()
            canceller = threading.Thread(target=cancel_until, args=(one, ended))
            canceller.start()
            with pytest.raises(psycopg.errors.QueryCanceled):
                one.execute("SELECT pg_sleep(600)")
            ended.set()
            canceller.join()
            assert one.execute("SELECT 7").fetchone() == (7,)
        assert bystander.execute("SELECT 8").fetchone() == (8,)
    assert "proxy.cancel_handed_on" in proxy.log()


class Loop(threading.Thread):
    """A client that asks again and again."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        super().__init__()
        self.connection = connection
        self.answers = 0
        self.error: BaseException | None = None
        self.ended = threading.Event()

    def run(self) -> None:
        try:
            while not self.ended.is_set():
                self.connection.execute("SELECT pg_sleep(0.002)")
                self.answers += 1
        except psycopg.Error as error:
            self.error = error


def worker_of(proxy: ProxyUnderTest, connection: psycopg.Connection[Any]) -> int:
    """The worker that serves it."""
    number: int = next(one["worker"] for one in proxy.sessions() if one["client"] == connection.info.backend_pid)
    return number


def test_kill_of_a_worker_is_seen_by_its_own_clients_only(proxy: ProxyUnderTest) -> None:
    allowed = narrow(proxy, 6)
    with ExitStack() as stack:
        clients = stack.enter_context(proxy.clients(24))
        loops = {Loop(one): worker_of(proxy, one) for one in clients}
        assert len(set(loops.values())) == WORKERS
        watch = stack.enter_context(Watch(proxy))
        for loop in loops:
            loop.start()
        victim = loops[next(iter(loops))]
        pid = proxy.workers()[victim]
        # What it does goes on in the engine, and counts, unless it is cancelled.
        stuck = next(loop.connection for loop, worker in loops.items() if worker == victim)
        eventually(lambda: all(loop.answers > 5 for loop in loops))
        first = next(loop for loop in loops if loop.connection is stuck)
        first.ended.set()
        first.join(30)
        sleeper = threading.Thread(target=lambda: _sleep(stuck))
        sleeper.start()
        eventually(lambda: any(one["client"] == stuck.info.backend_pid and one["state"] == "active"
                               for one in proxy.sessions()))  # fmt: skip
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: proxy.workers().get(victim) not in (None, pid))
        sleeper.join(30)
        before = {loop: loop.answers for loop in loops}
        eventually(lambda: all(loop.answers > before[loop] + 20 for loop, one in loops.items() if one != victim))
        for loop in loops:
            loop.ended.set()
        for loop in loops:
            loop.join(30)
        assert not any(loop.error for loop, worker in loops.items() if worker != victim)
        assert all(loop.error for loop, worker in loops.items() if worker == victim and loop is not first)
        # Its connections have come back: all of them can be used at once.
        eventually(lambda: any(one["worker"] == victim for one in proxy.sessions()) or _knock(proxy))
        with ExitStack() as used:
            for one in used.enter_context(proxy.clients(allowed, autocommit=False)):
                one.execute("SELECT 1")
        assert watch.most <= allowed, "also in the moment of death"


def _sleep(connection: psycopg.Connection[Any]) -> None:
    with suppress(psycopg.Error):
        connection.execute("SELECT pg_sleep(600)")


def _knock(proxy: ProxyUnderTest) -> bool:
    with proxy.clients(3) as some:
        return bool(some) and any(one["worker"] for one in proxy.sessions())


def test_kill_of_the_coordinator_is_seen_by_nobody(proxy: ProxyUnderTest) -> None:
    allowed = narrow(proxy, 6)
    with ExitStack() as stack:
        loops = [Loop(one) for one in stack.enter_context(proxy.clients(12))]
        watch = stack.enter_context(Watch(proxy))
        for loop in loops:
            loop.start()
        eventually(lambda: all(loop.answers > 5 for loop in loops))
        pid, workers = proxy.pid, proxy.workers()
        os.kill(pid, signal.SIGKILL)
        with proxy.connect() as meanwhile:
            assert meanwhile.execute("SELECT 1").fetchone() == (1,)
        lock = lock_path(proxy.service.settings, "proxy")
        eventually(lambda: holder(lock) not in (None, pid) and proxy.answers())
        before = {loop: loop.answers for loop in loops}
        eventually(lambda: all(loop.answers > before[loop] + 20 for loop in loops))
        for loop in loops:
            loop.ended.set()
        for loop in loops:
            loop.join(30)
        assert not any(loop.error for loop in loops)
        assert proxy.workers() == workers, "the same workers go on"
        eventually(lambda: proxy.stats()["MaxDatabaseConnectionsAllowed"] == allowed)
        # The new one can be told things, and lends.
        proxy.put(pool={"connection_borrow_timeout_s": 5.0})
        with ExitStack() as used:
            for one in used.enter_context(proxy.clients(allowed, autocommit=False)):
                one.execute("SELECT 1")
            assert proxy.stats()["DatabaseConnections"] == allowed
        assert watch.most <= allowed
