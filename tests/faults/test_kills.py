"""kill -9 of every process of the service while clients work: who notices, and for how long."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import psycopg
import pytest
from botocore.exceptions import BotoCoreError, ClientError

from harness.dialects import DIALECTS, POSTGRES, EngineUnderTest, newest_of
from harness.service import Service, eventually
from mainstay.host.rpc import RpcClient

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]

BACK_WITHIN_S = 10.0
Instance = dict[str, Any]


class Clients(threading.Thread):
    """One client that inserts row after row on one connection, and remembers what was committed and what failed."""

    def __init__(self, service: Service, instance: Instance) -> None:
        super().__init__(daemon=True)
        self._service, self._instance = service, instance
        self._ended = threading.Event()
        self.acknowledged = 0
        self.errors: list[str] = []

    def run(self) -> None:
        try:
            with self._service.connect(self._instance) as connection:
                while not self._ended.wait(0.005):
                    connection.execute("INSERT INTO kept DEFAULT VALUES")
                    self.acknowledged += 1
        except psycopg.Error as error:
            self.errors.append(str(error))

    def end(self) -> None:
        self._ended.set()
        self.join(20)
        assert not self.is_alive()


@contextmanager
def clients(service: Service, instance: Instance, count: int = 3) -> Iterator[list[Clients]]:
    """`count` clients that work for the length of the block."""
    running = [Clients(service, instance) for _ in range(count)]
    for client in running:
        client.start()
    eventually(lambda: all(client.acknowledged for client in running))
    try:
        yield running
    finally:
        for client in running:
            client.end()


@pytest.fixture(scope="module", params=["relay", "kernel"])
def victim(request: pytest.FixtureRequest) -> Iterator[tuple[Service, Instance]]:
    """An instance whose clients' bytes are carried by the relay, and one whose are carried by the kernel."""
    path = str(request.param)
    if path == "kernel" and (os.geteuid() != 0 or shutil.which("nft") is None or shutil.which("ss") is None):
        pytest.skip("the kernel path needs root, nftables and ss")
    with Service(endpoint_path=path) as service:
        instance = service.create_instance("victim")
        with service.connect(instance) as connection:
            connection.execute("CREATE TABLE kept (id bigserial PRIMARY KEY)")
            assert asyncio.run(relayed(service, instance)) == (1 if path == "relay" else 0)
        yield service, instance


async def relayed(service: Service, instance: Instance) -> int:
    """How many connections of the instance's clients the endpoint process carries itself."""
    client = RpcClient(service.settings.runtime / "endpoint.sock")
    client.start()
    try:
        endpoints = (await client.call("stats"))["endpoints"]
        return int(endpoints.get(instance["DbiResourceId"], {}).get("open", 0))
    finally:
        await client.stop()


def rows(service: Service, instance: Instance) -> int:
    with service.connect(instance) as connection:
        row = connection.execute("SELECT count(*) FROM kept").fetchone()
        assert row is not None
        return int(row[0])


def answers(service: Service, instance: Instance) -> bool:
    try:
        return rows(service, instance) >= 0
    except psycopg.OperationalError:
        return False


def back_after_s(service: Service, instance: Instance, what: str) -> float:
    started = time.monotonic()
    eventually(lambda: answers(service, instance), timeout_s=BACK_WITHIN_S)
    lasted_s = time.monotonic() - started
    print(f"{what}: new connections work after {lasted_s:.2f} s")
    return lasted_s


@pytest.mark.parametrize("names", [("control",), ("agent",), ("supervisor",), ("control", "agent", "supervisor")])
def test_clients_do_not_notice(
    victim: tuple[Service, Instance], names: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    service, instance = victim
    engine = service.node("victim")["pid"]
    with clients(service, instance) as working:
        for _ in range(20 if request.config.getoption("--faults-full") else 2):
            before = {name: service.process(name) for name in names}
            for pid in before.values():
                os.kill(pid, signal.SIGKILL)
            if "supervisor" in names:
                eventually(lambda gone=before: not psutil.pid_exists(gone["supervisor"]) or _zombie(gone["supervisor"]))
                if len(names) > 1 or _missing(service, "supervisor", 3.0):
                    service.cli("up", "--detach")  # what systemd does
            for name, pid in before.items():
                eventually(lambda name=name, pid=pid: service.process(name) != pid)
            eventually(lambda: _api_works(service))
        at_the_kill = [client.acknowledged for client in working]
        eventually(lambda: all(one.acknowledged > count for one, count in zip(working, at_the_kill, strict=True)))
    assert [client.errors for client in working] == [[]] * len(working)
    assert service.node("victim")["pid"] == engine
    service.client("rds").modify_db_instance(DBInstanceIdentifier="victim", BackupRetentionPeriod=0)
    service.await_status("victim", "available")


def _zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _missing(service: Service, name: str, patience_s: float) -> bool:
    from mainstay.host.layout import lock_path
    from mainstay.host.locks import holder

    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if holder(lock_path(service.settings, name)) is not None:
            return False
        time.sleep(0.05)
    return True


def _api_works(service: Service) -> bool:
    try:
        return service.describe("victim")["DBInstanceStatus"] == "available" and bool(service.node("victim")["pid"])
    except (BotoCoreError, ClientError, AssertionError, StopIteration):
        return False


def test_endpoint_killed(victim: tuple[Service, Instance]) -> None:
    service, instance = victim
    before = rows(service, instance)
    with clients(service, instance) as working:
        os.kill(service.process("endpoint"), signal.SIGKILL)
        back_after_s(service, instance, "endpoint killed")
        if service.settings.endpoint_path == "relay":  # its connections end with it
            eventually(lambda: not any(client.is_alive() for client in working))
            assert all(client.errors for client in working)
        else:  # those that the kernel carries do not even notice
            acknowledged = [client.acknowledged for client in working]
            eventually(lambda: all(one.acknowledged > count for one, count in zip(working, acknowledged, strict=True)))
    if service.settings.endpoint_path == "kernel":
        assert [client.errors for client in working] == [[]] * len(working)
    assert rows(service, instance) >= before + sum(client.acknowledged for client in working)


@pytest.mark.parametrize("who", ["postmaster", "everything", "backend", "shim"])
def test_engine_killed(victim: tuple[Service, Instance], who: str) -> None:
    service, instance = victim
    before = rows(service, instance)
    postmaster = psutil.Process(service.node("victim")["pid"])
    shim = postmaster.parent()
    assert shim is not None
    family = [postmaster, *postmaster.children(recursive=True)]
    with service.connect(instance) as probe, clients(service, instance) as working:
        # The backend's pid is the engine's word; the endpoint is between us and it.
        backend = probe.execute("SELECT pg_backend_pid()").fetchone()
        assert backend is not None
        targets = {"postmaster": [postmaster], "everything": family, "shim": [shim]}
        for process in targets.get(who, [psutil.Process(backend[0])]):
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        back_after_s(service, instance, f"{who} killed")
        for client in working:
            client.join(5)
    acknowledged = sum(client.acknowledged for client in working)
    assert all(client.errors for client in working)
    assert rows(service, instance) >= before + acknowledged
    if who != "backend":
        assert service.node("victim")["pid"] != postmaster.pid
        eventually(lambda: not any(one.is_running() and not _zombie(one.pid) for one in family))
    service.await_status("victim", "available")


@pytest.fixture(params=DIALECTS.values(), ids=lambda one: one.engine)
def engine(request: pytest.FixtureRequest) -> EngineUnderTest:
    """PostgreSQL; in a long run every engine."""
    found = newest_of(request.param)
    if not found or (request.param is not POSTGRES and not request.config.getoption("--faults-full")):
        pytest.skip("not installed, or in `make faults` only")
    return found[-1]


def test_control_killed_at_random_moments_of_create_modify_delete(
    engine: EngineUnderTest, own_service: Service, request: pytest.FixtureRequest
) -> None:
    """W2. (No service is started where the engine is skipped: it comes first.)"""
    seed = secrets.randbits(30)
    chance = random.Random(seed)
    print(f"seed {seed}")
    service = own_service
    rds = service.client("rds")
    calls: tuple[Callable[[str], object], ...] = (
        lambda name: rds.create_db_instance(
            DBInstanceIdentifier=name,
            Engine=engine.dialect.engine,
            EngineVersion=engine.version,
            DBInstanceClass="db.t3.micro",
            AllocatedStorage=20,
            MasterUsername="app",
            MasterUserPassword="correct-horse-7",
            BackupRetentionPeriod=0,
        ),
        lambda name: rds.modify_db_instance(
            DBInstanceIdentifier=name, MasterUserPassword="correct-horse-8", ApplyImmediately=True
        ),
        lambda name: rds.delete_db_instance(DBInstanceIdentifier=name, SkipFinalSnapshot=True),
    )
    for number in range(20 if request.config.getoption("--faults-full") else 2):
        names = [f"r{number}-{one}" for one in range(4)]
        for call in calls:
            for name in names:  # each kill meets every instance at another step
                call(name)
                time.sleep(chance.uniform(0.0, 0.2))
            service.kill("control")
            eventually(lambda: _settled(service))
        eventually(lambda names=names: not {*names} & {one["DBInstanceIdentifier"] for one in _instances(service)})
    nodes = service.home / "agent" / "nodes"
    eventually(lambda: not list(nodes.iterdir()))
    left = [one for one in psutil.process_iter(["cmdline"]) if str(nodes) in " ".join(one.info["cmdline"] or ())]
    assert left == [] and service.nodes() == []


def _instances(service: Service) -> list[Instance]:
    found: list[Instance] = service.client("rds").describe_db_instances()["DBInstances"]
    return found


def _settled(service: Service) -> bool:
    """Every instance is available; the deleted ones are gone."""
    try:
        return all(one["DBInstanceStatus"] == "available" for one in _instances(service))
    except (BotoCoreError, ClientError):
        return False


def test_down_during_a_create_then_up(own_service: Service) -> None:
    service = own_service
    service.client("rds").create_db_instance(
        DBInstanceIdentifier="late",
        Engine="postgres",
        EngineVersion=service.engine_version,
        DBInstanceClass="db.t3.micro",
        AllocatedStorage=20,
        MasterUsername="app",
        MasterUserPassword="correct-horse-7",
        BackupRetentionPeriod=0,
    )
    service.cli("down")
    service.cli("up", "--detach")
    instance = service.await_status("late", "available")
    with service.connect(instance) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS id")
    with Service() as neighbour:
        beside = neighbour.create_instance("late")
        assert beside["Endpoint"]["Address"] != instance["Endpoint"]["Address"]
    service.cli("down")
    service.cli("up", "--detach")
    again = service.await_status("late", "available")
    assert again["Endpoint"] == instance["Endpoint"]
    assert rows(service, again) == 1
