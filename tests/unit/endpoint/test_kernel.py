"""The kernel path: the text of its table, and the table at work where this machine allows it."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from mainstay.endpoint import kernel as module
from mainstay.endpoint.carried import Carried, CarriedFile
from mainstay.endpoint.kernel import Flow, Kernel, mark_of, ruleset
from mainstay.model.errors import Transient
from mainstay.model.route import Route

change = msgspec.structs.replace
needs_nft = pytest.mark.skipif(os.geteuid() != 0 or shutil.which("nft") is None, reason="needs root and nftables")


def test_the_table_is_replaced_in_one_transaction_and_ranges_never_overlap() -> None:
    flow = Flow("127.64.0.5", 5432, ("127.96.0.1", 24000), True, 0x80010007, ("10.0.0.0/8", "10.1.0.0/16", "::/0"))
    held = Flow("127.64.0.6", 5432, ("127.96.0.2", 24000), False, 0x80010008, ("0.0.0.0/0",))
    text = ruleset("mainstay_x", 0x8001, [flow, held])
    assert text.startswith("add table ip mainstay_x\ndelete table ip mainstay_x\ntable ip mainstay_x {\n")
    assert "elements = { 127.64.0.5 . 5432 : 127.96.0.1 . 24000 }" in text
    assert "elements = { 127.64.0.5 . 5432 . 10.0.0.0/8 }" in text
    assert "elements = { 0x80010007, 0x80010008 }" in text, "connections of an endpoint on hold live on"
    assert "127.64.0.6" not in text, "new clients of an endpoint on hold reach the relay"


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


def _tables() -> str:
    return subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout


@needs_nft
async def test_clients_reach_the_engine_and_no_one_else_does(
    kernel: Kernel, engines: Any, connect: Any, route: Route
) -> None:
    assert await kernel.unavailable() is None
    assert f"{kernel.table}_probe" not in _tables()
    engine = engines("one")
    route = await engine.behind(route, "127.97.0.1", admits=("127.0.0.1/32",), path="kernel")
    await kernel.apply([route])
    assert kernel.carries(route.endpoint_id)
    assert await (await connect(route, "127.0.0.1")).ask() == "one:hello"
    with pytest.raises(ConnectionRefusedError):
        await connect(route, "127.0.0.2")
    assert engine.clients == ["127.0.0.1"]


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
