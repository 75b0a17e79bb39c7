"""The kernel path: the text of its table, and the table at work where this machine allows it."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

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
    made = Kernel(str(tmp_path))
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
    host, port = await engine.start("127.97.0.1")
    route = change(route, target_address=host, target_port=port, admits=("127.0.0.1/32",), path="kernel")
    await kernel.apply([route])
    assert kernel.carries(route.endpoint_id)
    assert await (await connect(route, "127.0.0.1")).ask() == "one:hello"
    with pytest.raises(ConnectionRefusedError):
        await connect(route, "127.0.0.2")
    assert engine.clients == ["127.0.0.1"]


@needs_nft
async def test_a_new_epoch_cuts_at_once_and_leads_to_the_new_primary(
    kernel: Kernel, engines: Any, connect: Any, route: Route
) -> None:
    old, new = engines("old"), engines("new")
    host, port = await old.start("127.97.0.1")
    first = change(route, target_address=host, target_port=port, path="kernel")
    await kernel.apply([first])
    client = await connect(first)
    assert await client.ask() == "old:hello"
    await kernel.apply([change(first, target_address=None, target_port=0)])
    assert not kernel.carries(route.endpoint_id)
    assert await client.ask() == "old:hello", "without a primary nothing is cut"
    await kernel.apply([first])
    assert await client.ask() == "old:hello"
    host, port = await new.start("127.97.0.2")
    await kernel.apply([change(first, epoch=2, target_address=host, target_port=port)])
    assert await client.ended()
    assert await (await connect(first)).ask() == "new:hello"


@needs_nft
async def test_the_rule_alone_cuts_too(
    kernel: Kernel, engines: Any, connect: Any, route: Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engines("old")
    host, port = await engine.start("127.97.0.1")
    route = change(route, target_address=host, target_port=port, path="kernel")
    await kernel.apply([route])
    client = await connect(route)
    assert await client.ask() == "old:hello"

    async def without_ss(flow: Flow) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(kernel, "_destroy", without_ss)
    await kernel.apply([])
    client.writer.write(b"anybody there?\n")
    assert await client.ended()


@needs_nft
async def test_a_restarted_process_keeps_the_connections_of_its_predecessor(
    kernel: Kernel, engines: Any, connect: Any, route: Route, tmp_path: Any
) -> None:
    host, port = await engines("one").start("127.97.0.1")
    route = change(route, target_address=host, target_port=port, path="kernel")
    await kernel.apply([route])
    client = await connect(route)
    assert await client.ask() == "one:hello"
    successor = Kernel(str(tmp_path))
    assert await successor.unavailable() is None
    await successor.apply([route])
    assert await client.ask() == "one:hello"


@needs_nft
async def test_routes_of_the_relay_and_ipv6_are_left_to_the_relay(kernel: Kernel, route: Route) -> None:
    relayed = change(route, target_address="127.96.0.1", target_port=1)
    ipv6 = change(relayed, endpoint_id="six", address="::1", path="kernel")
    await kernel.apply([relayed, ipv6])
    assert not kernel.carries(relayed.endpoint_id)
    assert not kernel.carries("six")
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

        async def refused() -> None:
            raise Transient("nft failed: Operation not permitted")

        patch.setattr(shutil, "which", lambda name: "/usr/sbin/nft")
        patch.setattr(kernel, "_probe", refused)
        assert "Operation not permitted" in str(await kernel.unavailable())
