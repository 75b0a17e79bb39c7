"""Control's side of the proxy process, over a real socket and with a stand-in for the process that really runs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from mainstay.control import proxies as module
from mainstay.control.proxies import DEBUG_LOGGING_S, ProxyKeeper, RpcProxies
from mainstay.host.certificates import CertificateAuthorities
from mainstay.host.clock import SimulatedClock
from mainstay.host.layout import down_marker, has_specs, lock_path, prepare
from mainstay.host.locks import holder
from mainstay.host.randomness import SeededRandomness
from mainstay.host.rpc import RpcServer
from mainstay.host.vault import Vault
from mainstay.model.db_proxy import DBProxy, DBProxyEndpoint, DBProxyTargetGroup, GivenProxySpec
from mainstay.model.errors import Transient
from mainstay.model.proxy import ProxySpec, ProxyStatus
from mainstay.model.records import Scope
from mainstay.settings import Settings
from mainstay.store import SqliteStore
from mainstay.workflows.db_proxy import request_convergence_in
from mainstay.workflows.engine import Tools, Worker
from mainstay.workflows.programs import PROGRAMS

SCOPE = Scope("123456789012", "us-east-1")

# What `python -m mainstay.proxy` does as far as control can see: it holds its lock, answers, and ends on SIGTERM.
PROCESS = """
import asyncio, os, signal, sys, time
from pathlib import Path
from mainstay.host.locks import ProcessLock
from mainstay.host.rpc import RpcServer
async def main():
    runtime = Path(sys.argv[1])
    statuses = {}
    async def put_proxy(spec):
        status = {"proxy_id": spec["proxy_id"], "generation": spec["generation"]}
        if spec.get("absent"):
            statuses.pop(spec["proxy_id"], None)
            server.notify("gone", spec["proxy_id"])
        else:
            statuses[spec["proxy_id"]] = status
            server.notify("proxy", status)
    server = RpcServer(runtime / "proxy.sock", {"put_proxy": put_proxy},
                       on_connect=lambda: [{"topic": "proxies", "data": list(statuses.values())}])
    await server.start()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await server.stop()
lock = ProcessLock(Path(sys.argv[1]) / "proxy.lock")
lock.acquire()
asyncio.run(main())
os.close(lock._descriptor)
time.sleep(0.2)  # as the kernel may take a while between closing its files and its end
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    made = Settings(home=tmp_path)
    prepare(made)
    monkeypatch.setattr(module, "spawn", stand_in)
    return made


def stand_in(settings: Settings, name: str) -> subprocess.Popen[bytes]:
    assert name == "proxy"
    return subprocess.Popen([sys.executable, "-c", PROCESS, str(settings.runtime)])


@pytest.fixture
async def fleet(settings: Settings) -> AsyncIterator[RpcProxies]:
    made = RpcProxies(settings, lambda _proxy_id: None)
    yield made
    await made.retire()
    await until(lambda: holder(lock_path(settings, "proxy")) is None)
    for child in (*made._retired, *([made._child] if made._child else [])):
        await asyncio.to_thread(child.wait, 10)
    for path in settings.runtime.iterdir():
        path.unlink()
    settings.runtime.rmdir()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(15.0):
        while not condition():
            await asyncio.sleep(0.01)


def spec(generation: int = 1, **fields: Any) -> ProxySpec:
    return ProxySpec(
        proxy_id="prx-1", name="pool", account_id="1", region="us-east-1", generation=generation,
        engine_family="POSTGRESQL", **fields,
    )  # fmt: skip


async def test_the_first_spec_starts_the_process_and_retiring_ends_it(settings: Settings, fleet: RpcProxies) -> None:
    with pytest.raises(Transient):
        fleet.observe("prx-1")
    assert holder(lock_path(settings, "proxy")) is None
    await fleet.put_proxy(spec())
    pid = holder(lock_path(settings, "proxy"))
    assert pid is not None
    await until(lambda: fleet.observe("prx-1") == ProxyStatus(proxy_id="prx-1", generation=1))
    await fleet.put_proxy(spec(2))
    assert holder(lock_path(settings, "proxy")) == pid, "one process for all specs"
    await fleet.put_proxy(spec(3, absent=True))
    await until(lambda: fleet.observe("prx-1") is None)
    await fleet.retire()
    await until(lambda: holder(lock_path(settings, "proxy")) is None)
    with pytest.raises(Transient):
        fleet.observe("prx-1")
    await fleet.put_proxy(spec(4))
    assert holder(lock_path(settings, "proxy")) not in (None, pid)


async def test_a_process_that_runs_already_is_taken_over(settings: Settings, fleet: RpcProxies) -> None:
    child = stand_in(settings, "proxy")
    await until(lambda: (settings.runtime / "proxy.sock").exists())
    await fleet.put_proxy(spec())
    assert holder(lock_path(settings, "proxy")) == child.pid
    await fleet.retire()
    await asyncio.to_thread(child.wait, 10)


async def test_nothing_is_started_while_the_service_is_to_be_down(settings: Settings, fleet: RpcProxies) -> None:
    down_marker(settings).touch()
    fleet.ensure()
    await asyncio.sleep(0.05)
    assert holder(lock_path(settings, "proxy")) is None and fleet._child is None


async def test_what_is_seen_is_complete_current_or_plainly_away(tmp_path: Path) -> None:
    changed: list[str] = []
    settings = Settings(home=tmp_path)
    prepare(settings)
    seen = [ProxyStatus(proxy_id="prx-1", generation=1)]
    told = {"topic": "proxies", "data": msgspec.to_builtins(seen)}
    server = RpcServer(settings.runtime / "proxy.sock", {}, on_connect=lambda: [told])
    await server.start()
    down_marker(settings).touch()  # nobody is to be started here
    fleet = RpcProxies(settings, changed.append)
    fleet.ensure()
    await until(lambda: fleet.connected)
    assert fleet.observe("prx-1") == seen[0] and changed == ["prx-1"]
    server.notify("proxy", {"proxy_id": "prx-2", "generation": 3, "failure": "in use"})
    server.notify("gone", "prx-1")
    server.notify("gone", "unknown")
    await until(lambda: len(changed) == 3)
    assert fleet.observe("prx-1") is None
    found = fleet.observe("prx-2")
    assert found is not None and found.failure == "in use"
    await server.stop()
    await until(lambda: not fleet.connected)
    assert fleet.last_seen("prx-2") == found, "still shown, never decided upon"
    with pytest.raises(Transient):
        fleet.observe("prx-2")
    await fleet.stop()
    await asyncio.sleep(0.01)
    settings.runtime.rmdir()


class Kept:
    """A store with one proxy, its workflow, a keeper, and the stand-in process."""

    def __init__(self, settings: Settings, fleet: RpcProxies, authorities: CertificateAuthorities) -> None:
        self.store = SqliteStore(":memory:")
        self.clock = SimulatedClock()
        self.tools = Tools(
            store=self.store, fleet=cast(Any, None), proxies=fleet, clock=self.clock,
            randomness=SeededRandomness(1), settings=settings, engines=cast(Any, None), certificates=authorities,
            vault=Vault(bytes(32), SeededRandomness(2)),
        )  # fmt: skip
        self.worker = Worker(PROGRAMS, self.tools)
        self.keeper = ProxyKeeper(self.tools, fleet, self.worker.wake)
        now = self.clock.wall()
        common: dict[str, Any] = {"scope": SCOPE, "db_proxy_id": "prx-1", "created_at": now}
        place: dict[str, Any] = {"vpc_id": "vpc-1", "vpc_subnet_ids": (), "vpc_security_group_ids": ()}
        self.proxy = DBProxy(
            **common, **place, db_proxy_name="pool", engine_family="POSTGRESQL", role_arn="arn:aws:iam::1:role/r",
            updated_at=now,
        )  # fmt: skip
        endpoint = DBProxyEndpoint(
            **common, **place, db_proxy_endpoint_id="prx-1", db_proxy_endpoint_name="default", address="127.64.0.1",
            interface_ids=(),
        )  # fmt: skip
        group = DBProxyTargetGroup(**common, target_group_id="prx-tg-1", updated_at=now)
        with self.store.transaction() as tx:
            for record in (self.proxy, endpoint, group):
                tx.insert(record)

    def put(self, **fields: Any) -> None:
        with self.store.transaction() as tx:
            present = tx.get(DBProxy, SCOPE, "prx-1")
            assert present is not None
            tx.put(msgspec.structs.replace(present, **fields))

    def present(self) -> DBProxy | None:
        return self.store.view().get(DBProxy, SCOPE, "prx-1")

    def generation(self) -> int:
        given = self.store.view().get(GivenProxySpec, SCOPE, "prx-1")
        return 0 if given is None else given.spec.generation

    async def settled(self) -> None:
        """Until the keeper finds nothing to do and no workflow is left."""
        async with asyncio.timeout(20.0):
            while True:
                await self.keeper._look()
                if not self.store.view().jobs() and self.tools.proxies.last_seen("prx-1") is not None:
                    return
                await self.worker.drain()
                self.clock.advance(0.5)
                await asyncio.sleep(0.01)


@pytest.fixture
def kept(settings: Settings, fleet: RpcProxies, tmp_path: Path) -> Kept:
    return Kept(settings, fleet, CertificateAuthorities(tmp_path / "ca", SimulatedClock()))


async def test_a_proxy_without_a_workflow_gets_one_and_then_rest(kept: Kept) -> None:
    await kept.settled()
    assert kept.present() is not None and kept.present().change == "" and kept.generation() == 1  # type: ignore[union-attr]
    await kept.keeper._look()
    assert kept.store.view().jobs() == [], "what agrees needs no work"


async def test_a_record_that_changed_and_a_process_that_forgot_both_end_in_a_put(
    kept: Kept, settings: Settings, fleet: RpcProxies
) -> None:
    await kept.settled()
    kept.put(require_tls=True)
    await kept.settled()
    assert kept.generation() == 2
    pid = holder(lock_path(settings, "proxy"))
    assert pid is not None
    os.kill(pid, 9)  # the stand-in keeps nothing on disk
    await until(lambda: not fleet.connected)
    fleet._spawned_at = float("-inf")
    await until(lambda: holder(lock_path(settings, "proxy")) is None)
    fleet._reap()
    fleet._seen.clear()
    await kept.settled()
    assert fleet.observe("prx-1") == ProxyStatus(proxy_id="prx-1", generation=2), "the same spec again"
    assert kept.generation() == 2


async def test_a_failure_that_has_passed_is_forgotten(kept: Kept) -> None:
    await kept.settled()
    kept.put(failure="address in use")
    await kept.settled()
    assert kept.present().failure == ""  # type: ignore[union-attr]
    assert kept.generation() == 1


async def test_debug_logging_switches_itself_off(kept: Kept) -> None:
    kept.put(debug_logging=True, debug_logging_since=kept.clock.wall())
    await kept.settled()
    kept.clock.advance(DEBUG_LOGGING_S - 60)
    await kept.settled()
    assert kept.present().debug_logging  # type: ignore[union-attr]
    kept.clock.advance(120)
    await kept.settled()
    assert not kept.present().debug_logging  # type: ignore[union-attr]
    given = kept.store.view().get(GivenProxySpec, SCOPE, "prx-1")
    assert given is not None and not given.spec.debug_logging


async def test_the_last_proxy_takes_the_process_with_it(
    kept: Kept, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await kept.settled()
    kept.put(change="deleting")
    with kept.store.transaction() as tx:
        request_convergence_in(tx, kept.clock.wall(), kept.present())  # type: ignore[arg-type]
    async with asyncio.timeout(10.0):
        while kept.present() is not None:
            await kept.worker.drain()
            kept.clock.advance(0.5)
            await asyncio.sleep(0.01)
    await kept.keeper._look()
    assert holder(lock_path(settings, "proxy")) is not None, "not at once: another may be made"
    monkeypatch.setattr(module, "RETIRE_AFTER_S", 0.05)
    await asyncio.sleep(0.06)
    await kept.keeper._look()
    await until(lambda: holder(lock_path(settings, "proxy")) is None)


def test_specs_on_disk_are_what_makes_the_supervisor_start_it(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert not has_specs(settings, "proxy")
    (tmp_path / "proxy" / "tls").mkdir(parents=True)
    (tmp_path / "proxy" / "tls" / "prx-1.crt").touch()
    assert not has_specs(settings, "proxy")
    (tmp_path / "proxy" / "prx-1.json").touch()
    assert has_specs(settings, "proxy")
