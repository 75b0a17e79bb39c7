"""The endpoint process as the agent and the supervisor see it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mainstay.host.layout import down_marker, prepare
from mainstay.host.rpc import RpcClient
from mainstay.model.errors import Permanent
from mainstay.model.route import Route
from mainstay.settings import Settings

change = msgspec.structs.replace


class Endpoint:
    """The real process and a client of its control socket."""

    def __init__(self, home: Path, path: str) -> None:
        self.settings = Settings(home=home)
        prepare(self.settings)
        # Alone it would bring a supervisor up, and that the whole service: as after `mainstay down`, nobody may.
        down_marker(self.settings).touch()
        self._environment = {
            **os.environ,
            "MAINSTAY_HOME": str(home),
            "MAINSTAY_ENDPOINT_PATH": path,
        }
        self.client = RpcClient(self.settings.runtime / "endpoint.sock", retry_interval_s=0.02)
        self.client.start()

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mainstay.endpoint", env=self._environment, stdout=asyncio.subprocess.DEVNULL
        )
        await self.client.call("ping", timeout_s=20)

    async def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        async with asyncio.timeout(10):
            return await self.process.wait()

    async def put(self, route: Route) -> Any:
        return await self.client.call("put_route", msgspec.to_builtins(route))

    async def close(self) -> None:
        await self.client.stop()
        if self.process.returncode is None:
            await self.end(signal.SIGTERM)
        shutil.rmtree(self.settings.runtime, ignore_errors=True)


@pytest.fixture
async def endpoint(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Endpoint]:
    made = Endpoint(tmp_path / "home", getattr(request, "param", "relay"))
    await made.start()
    yield made
    await made.close()


async def test_routes_are_put_listed_counted_and_removed(
    endpoint: Endpoint, engines: Any, connect: Any, route: Route
) -> None:
    host, port = await engines("one").start()
    route = change(route, target_address=host, target_port=port)
    assert await endpoint.put(route) == {"path": "relay", "cut": 0}
    client = await connect(route)
    assert await client.ask() == "one:hello"
    (listed,) = await endpoint.client.call("routes")
    assert (listed["endpoint_id"], listed["serving"], listed["listening"]) == (route.endpoint_id, "relay", True)
    stats = await endpoint.client.call("stats")
    assert stats["endpoints"] == {route.endpoint_id: {"open": 1, "accepted": 1}}
    assert stats["kernel_unavailable"] == "endpoint_path is set to relay"
    assert await endpoint.client.call("remove_route", {"endpoint_id": route.endpoint_id}) == {"cut": 1}
    assert await client.ended()
    assert await endpoint.client.call("remove_route", {"endpoint_id": route.endpoint_id}) == {"cut": 0}
    assert await endpoint.client.call("routes") == []


async def test_killed_and_started_again_it_serves_its_last_table(
    endpoint: Endpoint, engines: Any, connect: Any, route: Route
) -> None:
    host, port = await engines("one").start()
    route = change(route, target_address=host, target_port=port)
    await endpoint.put(route)
    await endpoint.end(signal.SIGKILL)
    with pytest.raises(ConnectionRefusedError):
        await connect(route)
    await endpoint.start()
    assert await (await connect(route)).ask() == "one:hello"


async def test_a_port_that_was_taken_at_start_is_served_once_it_is_free(
    endpoint: Endpoint, engines: Any, connect: Any, route: Route
) -> None:
    host, port = await engines("one").start()
    route = change(route, target_address=host, target_port=port)
    await endpoint.put(route)
    await endpoint.end(signal.SIGKILL)
    with socket.create_server((route.address, route.port)):
        await endpoint.start()
        assert [listed["listening"] for listed in await endpoint.client.call("routes")] == [False]
    async with asyncio.timeout(5):
        while not (await endpoint.client.call("routes"))[0]["listening"]:
            await asyncio.sleep(0.1)
    assert await (await connect(route)).ask() == "one:hello"


async def test_sigterm_closes_everything_and_exits_with_zero(
    endpoint: Endpoint, engines: Any, connect: Any, route: Route
) -> None:
    host, port = await engines("one").start()
    route = change(route, target_address=host, target_port=port)
    await endpoint.put(route)
    client = await connect(route)
    assert await client.ask() == "one:hello"
    assert await endpoint.end(signal.SIGTERM) == 0
    assert await client.ended()
    with pytest.raises(ConnectionRefusedError):
        await connect(route)


async def test_a_refused_route_says_why_and_changes_nothing(endpoint: Endpoint, route: Route) -> None:
    with socket.create_server(("0.0.0.0", 0)) as squatter:  # noqa: S104 - the very case
        taken = change(route, port=squatter.getsockname()[1])
        with pytest.raises(Permanent, match="Address already in use") as caught:
            await endpoint.put(taken)
        assert f"(process {os.getpid()})" in caught.value.hint
    await endpoint.put(change(route, epoch=7))
    with pytest.raises(Permanent, match="epoch 6 is over"):
        await endpoint.put(change(route, epoch=6))
    with pytest.raises(Permanent, match="not a route"):
        await endpoint.client.call("put_route", {"endpoint_id": "x"})
    with pytest.raises(Permanent, match="needs endpoint_id"):
        await endpoint.client.call("remove_route", {})
    (listed,) = await endpoint.client.call("routes")
    assert listed["epoch"] == 7
    (kept,) = json.loads((endpoint.settings.home / "endpoint" / "routes.json").read_bytes())
    assert kept["epoch"] == 7


async def test_an_unreadable_table_is_put_aside(endpoint: Endpoint, route: Route) -> None:
    await endpoint.end(signal.SIGTERM)
    file = endpoint.settings.home / "endpoint" / "routes.json"
    file.write_bytes(b'[{"endpoint_id": "')
    await endpoint.start()
    assert await endpoint.client.call("routes") == []
    assert file.with_suffix(".unreadable").read_bytes() == b'[{"endpoint_id": "'


async def test_idle_it_takes_no_cpu_and_little_memory(endpoint: Endpoint, route: Route) -> None:
    await endpoint.put(route)
    await asyncio.sleep(0.2)

    def ticks() -> int:
        fields = Path(f"/proc/{endpoint.process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before, began = ticks(), time.monotonic()
    await asyncio.sleep(1)
    used_s = (ticks() - before) / os.sysconf("SC_CLK_TCK")
    assert used_s / (time.monotonic() - began) < 0.05
    status = Path(f"/proc/{endpoint.process.pid}/status").read_text()
    resident_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    assert resident_kb < 45_000


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("nft") is None, reason="needs root and nftables")
@pytest.mark.parametrize("endpoint", ["auto"], indirect=True)
async def test_the_kernel_carries_what_it_can_and_survives_a_kill(
    endpoint: Endpoint, engines: Any, connect: Any, route: Route
) -> None:
    async with asyncio.timeout(5):
        while (await endpoint.client.call("stats"))["kernel_unavailable"] is not None:
            await asyncio.sleep(0.05)
    host, port = await engines("one").start("127.97.0.3")
    route = change(route, target_address=host, target_port=port, path="kernel")
    assert (await endpoint.put(route))["path"] == "kernel"
    client = await connect(route)
    assert await client.ask() == "one:hello"
    assert (await endpoint.client.call("stats"))["endpoints"] == {}, "the relay has not seen it"
    waiting = change(route, target_address=None, target_port=0)
    assert (await endpoint.put(waiting))["path"] == "relay"
    held = asyncio.create_task((await connect(route)).ask())
    await asyncio.sleep(0.2)
    assert not held.done()
    assert (await endpoint.put(route))["path"] == "kernel"
    assert await held == "one:hello"
    await endpoint.end(signal.SIGKILL)
    assert await client.ask() == "one:hello"
    assert await (await connect(route)).ask() == "one:hello"
    await endpoint.start()
    await endpoint.client.call("remove_route", {"endpoint_id": route.endpoint_id})
    assert await client.ended()
    with pytest.raises(ConnectionRefusedError):
        await connect(route)
