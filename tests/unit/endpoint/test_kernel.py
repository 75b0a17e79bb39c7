"""The kernel path at work, where this machine allows it."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
import pytest

from mainstay.endpoint import kernel as module
from mainstay.endpoint.carried import Carried, CarriedFile
from mainstay.endpoint.kernel import Kernel, mark_of
from mainstay.model.errors import Transient
from mainstay.model.route import Route

CHANGES = 100

change = msgspec.structs.replace
needs_nft = pytest.mark.skipif(os.geteuid() != 0 or shutil.which("nft") is None, reason="needs root and nftables")


def test_marks_tell_epochs_and_targets_apart_and_are_the_same_after_a_restart(route: Route) -> None:
    here, there = ("127.96.0.1", 24000), ("127.96.0.2", 24000)
    first = mark_of(0x8001, route, here)
    assert first == mark_of(0x8001, route, here)
    assert first >> 16 == 0x8001
    assert len({first, mark_of(0x8001, change(route, epoch=2), here), mark_of(0x8001, route, there)}) == 3


@pytest.fixture
async def kernel(tmp_path: Any) -> AsyncIterator[Kernel]:
    made = Kernel(str(tmp_path), tmp_path / "kernel.json")
    yield made
    if os.geteuid() == 0 and shutil.which("nft") is not None:
        await made.clear()


class _Callers:
    """Threads that do something with an endpoint all the time, until one of them fails."""

    def __init__(self, route: Route, work: Callable[[tuple[str, int]], Iterator[None]]) -> None:
        self.times = 0
        self.failures: list[str] = []
        self._ending = False
        self._threads = [threading.Thread(target=self._run, args=(work((route.address, route.port)),)) for _ in "12"]

    def _run(self, work: Iterator[None]) -> None:
        try:
            for _ in work:
                self.times += 1
                if self._ending:
                    return
        except OSError as error:
            self.failures.append(repr(error))

    async def __aenter__(self) -> _Callers:
        for thread in self._threads:
            thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ending = True
        for thread in self._threads:
            await asyncio.to_thread(thread.join)  # they wait for answers from this loop


@contextmanager
def _closing_server(place: tuple[str, int]) -> Iterator[tuple[str, int]]:
    """Closes whatever comes, as fast as it can."""
    with socket.create_server(place, backlog=1024) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    server.accept()[0].close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def _ask_again_and_again(place: tuple[str, int]) -> Iterator[None]:
    with socket.create_connection(place, timeout=10) as client:
        while True:
            client.sendall(b"hello\n")
            if not client.recv(100).endswith(b"hello\n"):
                raise ConnectionResetError("cut")
            yield


def _connect_again_and_again(place: tuple[str, int]) -> Iterator[None]:
    while True:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.connect(place)
            yield


def _tables() -> str:
    return subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout


@needs_nft
async def test_clients_reach_the_engine_and_others_the_relay(
    kernel: Kernel, engines: Any, connect: Any, route: Route
) -> None:
    assert await kernel.unavailable() is None
    assert f"{kernel.table}_probe" not in _tables()
    engine, relay = engines("one"), engines("relay")
    await relay.start(route.address, route.port)
    route = await engine.behind(route, "127.97.0.1", admits=("127.0.0.1/32",), path="kernel")
    await kernel.apply([route])
    assert kernel.carries(route.endpoint_id)
    assert await (await connect(route, "127.0.0.1")).ask() == "one:hello"
    assert await (await connect(route, "127.0.0.2")).ask() == "relay:hello", "it judges for itself, and counts"
    assert engine.clients == ["127.0.0.1"]


@needs_nft
@pytest.mark.parametrize("of", ["others", "its own list"])
async def test_nobody_is_refused_while_something_changes(kernel: Kernel, route: Route, of: str) -> None:
    """A table that is replaced has sets for a moment that nothing is in yet: clients were refused by that."""
    with _closing_server((route.address, route.port)), _closing_server(("127.97.0.1", 0)) as engine:
        route = change(route, target_address=engine[0], target_port=engine[1], path="kernel")
        await kernel.apply([route])
        async with _Callers(route, _connect_again_and_again) as callers:
            await _change_often(kernel, route, of)
    assert callers.failures == [] and callers.times > 10 * CHANGES


@needs_nft
@pytest.mark.parametrize("of", ["others", "its own list"])
async def test_nobody_is_cut_while_something_changes(kernel: Kernel, engines: Any, route: Route, of: str) -> None:
    route = await engines("one").behind(route, "127.97.0.1", path="kernel")
    await kernel.apply([route])
    async with _Callers(route, _ask_again_and_again) as callers:
        await _change_often(kernel, route, of)
    assert callers.failures == [] and callers.times > 10 * CHANGES


async def _change_often(kernel: Kernel, route: Route, of: str) -> None:
    others = [
        change(route, endpoint_id=f"db-{number}", address=f"127.66.200.{number}", target_address=f"127.97.1.{number}")
        for number in range(1, 41)
    ]
    for number in range(CHANGES):
        if of == "others":
            await kernel.apply([route, *others[: number % 40]])
        else:
            await kernel.apply([change(route, admits=("127.0.0.0/8", f"10.0.{number}.0/24"))])


@needs_nft
async def test_a_changed_access_list_is_asked_about_the_next_connection_from_the_same_port_too(
    kernel: Kernel, engines: Any, connect: Any, route: Route
) -> None:
    """The kernel may ask the list once for a connection, and must not remember the answer for the next one."""
    everybody = await engines("one").behind(route, "127.97.0.1", path="kernel")
    nobody = change(everybody, admits=())
    await kernel.apply([everybody])
    client = await connect(everybody)
    assert await client.ask() == "one:hello"
    await kernel.apply([nobody])
    assert await client.ask() == "one:hello", "a changed list decides about new connections only"
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        own = reserved.getsockname()
    for admitted in (False, True, False):
        await kernel.apply([everybody if admitted else nobody])
        with socket.socket() as second:
            second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            second.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            second.bind(own)
            assert (second.connect_ex((route.address, route.port)) == 0) is admitted


@needs_nft
async def test_a_new_epoch_cuts_at_once_and_leads_to_the_new_primary(
    kernel: Kernel, engines: Any, connect: Any, route: Route
) -> None:
    old, new = engines("old"), engines("new")
    first = await old.behind(route, "127.97.0.1", path="kernel")
    await kernel.apply([first])
    client = await connect(first)
    assert await client.ask() == "old:hello"
    await kernel.apply([change(first, target_address=None, target_port=0)])
    assert not kernel.carries(route.endpoint_id)
    assert await client.ask() == "old:hello", "without a primary nothing is cut"
    await kernel.apply([first])
    assert await client.ask() == "old:hello"
    await kernel.apply([await new.behind(first, "127.97.0.2", epoch=2)])
    assert await client.ended()
    assert await (await connect(first)).ask() == "new:hello"


@needs_nft
async def test_hundreds_are_cut_at_once_and_those_at_the_relay_are_left_alone(
    kernel: Kernel, engines: Any, connect: Any, route: Route
) -> None:
    route = await engines("one").behind(route, "127.97.0.1", path="kernel")
    await kernel.apply([route])
    clients = [await connect(route, f"127.0.0.{1 + number % 9}") for number in range(350)]
    assert {await client.ask() for client in clients} == {"one:hello"}
    with socket.create_server((route.address, route.port)) as relay:
        await kernel.apply([change(route, target_address=None)])
        waiting = await connect(route, "127.0.0.3")
        end, _ = relay.accept()
        with end:
            await kernel.apply([change(route, target_address=None, epoch=2)])
            async with asyncio.timeout(2):
                assert {await client.ended() for client in clients} == {True}
            end.sendall(b"welcome\n")
            assert await waiting.reader.readline() == b"welcome\n"


@needs_nft
async def test_a_connection_elsewhere_from_the_same_local_port_is_left_alone(
    kernel: Kernel, engines: Any, route: Route
) -> None:
    route = await engines("one").behind(route, "127.97.0.1", path="kernel")
    await kernel.apply([route])
    with socket.create_server(("127.0.0.1", 0)) as elsewhere, socket.socket() as kept, socket.socket() as cut:
        for client in (kept, cut):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        cut.bind(kept.getsockname())
        kept.connect(elsewhere.getsockname())
        cut.connect((route.address, route.port))
        end, _ = elsewhere.accept()
        with end:
            await kernel.apply([])
            assert cut.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            end.sendall(b"still here")
            assert kept.recv(100) == b"still here"


@needs_nft
async def test_the_rule_alone_cuts_too(
    kernel: Kernel, engines: Any, connect: Any, route: Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engines("old")
    route = await engine.behind(route, "127.97.0.1", path="kernel")
    await kernel.apply([route])
    client = await connect(route)
    assert await client.ask() == "old:hello"

    monkeypatch.setattr(module, "_reset_clients", _without_ss)
    await kernel.apply([])
    client.writer.write(b"anybody there?\n")
    assert await client.ended()


@needs_nft
async def test_not_even_the_last_word_of_a_deposed_primary_arrives(
    kernel: Kernel, engines: Any, connect: Any, route: Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engines("old")
    route = await engine.behind(route, "127.97.0.1", path="kernel")
    await kernel.apply([route])
    client = await connect(route)
    assert await client.ask() == "old:hello"
    monkeypatch.setattr(module, "_reset_clients", _without_ss)
    await kernel.apply([change(route, epoch=2, target_port=route.target_port + 1)])
    engine.say("committed")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await client.reader.read(1)
    client.writer.write(b"anybody there?\n")
    assert await client.ended()


async def _without_ss(address: str, port: int) -> None:
    raise Transient("ss failed")


@needs_nft
async def test_a_client_whose_socket_speaks_both_ip_versions_is_cut_too(
    kernel: Kernel, engines: Any, route: Route
) -> None:
    route = await engines("one").behind(route, "127.97.0.1", path="kernel")
    await kernel.apply([route])
    reader, writer = await asyncio.open_connection(f"::ffff:{route.address}", route.port, family=socket.AF_INET6)
    writer.write(b"hello\n")
    assert await reader.readline() == b"one:hello\n"
    await kernel.apply([])
    async with asyncio.timeout(1):
        with pytest.raises(ConnectionError):
            await reader.read(1)
    writer.close()


@needs_nft
async def test_a_restarted_process_keeps_the_connections_of_its_predecessor(
    kernel: Kernel, engines: Any, connect: Any, route: Route, tmp_path: Any
) -> None:
    route = await engines("one").behind(route, "127.97.0.1", path="kernel")
    await kernel.apply([route])
    client = await connect(route)
    assert await client.ask() == "one:hello"
    successor = Kernel(str(tmp_path), tmp_path / "kernel.json")
    held = change(route, target_address=None, target_port=0)
    successor.load([held])
    assert await successor.unavailable() is None
    await successor.apply([held])
    assert await client.ask() == "one:hello"
    await successor.apply([route])
    assert await client.ask() == "one:hello"
    third = Kernel(str(tmp_path), tmp_path / "kernel.json")
    third.load([route])
    await third.apply([change(route, epoch=2)])
    async with asyncio.timeout(1):
        assert await client.ended(), "reset at once, though the process that made it is gone"


@needs_nft
async def test_what_a_predecessor_left_is_astray_until_the_table_is_ours(
    kernel: Kernel, engines: Any, connect: Any, route: Route, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    route = await engines("one").behind(route, "127.97.0.1", path="kernel")
    await kernel.apply([route])
    assert not kernel.is_astray(route.endpoint_id)
    client = await connect(route)
    assert await client.ask() == "one:hello"
    successor = Kernel(str(tmp_path), tmp_path / "kernel.json")
    successor.load([route])
    assert successor.is_astray(route.endpoint_id) and not successor.is_astray("another")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "/nonexistent")
        with pytest.raises(Transient, match="nft cannot be run"):
            await successor.clear()
    assert successor.is_astray(route.endpoint_id)
    assert await client.ask() == "one:hello"
    await successor.clear()
    assert await client.ended()
    assert not successor.is_astray(route.endpoint_id)
    assert kernel.table not in _tables()
    fourth = Kernel(str(tmp_path), tmp_path / "kernel.json")
    fourth.load([route])
    assert not fourth.is_astray(route.endpoint_id)


@needs_nft
async def test_a_table_that_is_taken_away_stays_as_long_as_it_must_cut(
    kernel: Kernel, engines: Any, connect: Any, route: Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    route = await engines("one").behind(route, "127.97.0.1", path="kernel")
    await kernel.apply([route])
    client = await connect(route)
    assert await client.ask() == "one:hello"
    with monkeypatch.context() as patch:
        patch.setattr(module, "_reset_clients", _without_ss)
        await kernel.clear()
    assert kernel.table in _tables()
    with pytest.raises(ConnectionRefusedError):
        await connect(route)
    client.writer.write(b"anybody there?\n")
    assert await client.ended()
    await kernel.clear()
    assert kernel.table not in _tables()


async def test_only_what_this_kernel_may_hold_is_remembered(tmp_path: Any, route: Route) -> None:
    file = tmp_path / "kernel.json"
    route = change(route, target_address="127.96.0.1", target_port=1, path="kernel")
    assert CarriedFile(file).load([route]) == frozenset(), "the kernel path was never used"
    one = Carried(route.endpoint_id, route.address, route.port, ("127.96.0.1", 1), 7)
    await CarriedFile(file).save([one])
    assert file.stat().st_mode & 0o777 == 0o600
    assert CarriedFile(file).load([]) == {one}
    before_reboot = file.read_text().replace('"kernel":"', '"kernel":"0')
    file.write_text(before_reboot)
    assert CarriedFile(file).load([route]) == frozenset()
    file.write_text(before_reboot[:-5])
    assert CarriedFile(file).load([route]) == {msgspec.structs.replace(one, mark=0)}, "better too much than too little"
    assert CarriedFile(file).load([change(route, path="relay")]) == frozenset()


@needs_nft
async def test_routes_of_the_relay_and_ipv6_are_left_to_the_relay(kernel: Kernel, route: Route) -> None:
    relayed = change(route, target_address="127.96.0.1", target_port=1)
    ipv6 = change(relayed, endpoint_id="six", address="::1", path="kernel")
    reached_from_outside = change(relayed, endpoint_id="outside", address="192.0.2.1", path="kernel")
    await kernel.apply([relayed, ipv6, reached_from_outside])
    assert not kernel.carries(relayed.endpoint_id)
    assert not kernel.carries("six")
    assert not kernel.carries("outside"), "from outside the kernel translates nothing to a loopback address"
    assert kernel.table in _tables()
    await kernel.clear()
    assert kernel.table not in _tables()


async def test_what_is_missing_is_said(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 1000)
        assert await kernel.unavailable() == "needs root"
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 0)
        patch.setattr(shutil, "which", lambda name: None)
        assert await kernel.unavailable() == "the program nft is not installed (package nftables)"

        patch.setattr(shutil, "which", lambda name: "/usr/sbin/nft" if name == "nft" else None)
        assert await kernel.unavailable() == "the program ss is not installed (package iproute2)"

        async def refused() -> None:
            raise Transient("nft failed: Operation not permitted")

        patch.setattr(shutil, "which", lambda name: "/usr/sbin/nft")
        patch.setattr(kernel, "_probe", refused)
        assert "Operation not permitted" in str(await kernel.unavailable())


@needs_nft
async def test_a_kernel_that_cannot_reset_connections_is_not_used(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(address: str, port: int) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(module, "_reset_clients", nothing)
    assert "CONFIG_INET_DIAG_DESTROY" in str(await kernel.unavailable())
    assert f"{kernel.table}_probe" not in _tables()
