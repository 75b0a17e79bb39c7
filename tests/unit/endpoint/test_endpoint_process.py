"""The endpoint process as the agent and the supervisor see it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from dnslib import QTYPE, DNSRecord

from mainstay.endpoint.kernel import Kernel
from mainstay.host.layout import down_marker, prepare
from mainstay.host.rpc import RpcClient
from mainstay.model.errors import Permanent, Transient
from mainstay.model.route import Route
from mainstay.settings import Settings

change = msgspec.structs.replace


class Endpoint:
    """The real process and a client of its control socket."""

    def __init__(self, home: Path, path: str, **settings: str) -> None:
        self.settings = Settings(home=home)
        prepare(self.settings)
        # Alone it would bring a supervisor up, and that the whole service: as after `mainstay down`, nobody may.
        down_marker(self.settings).touch()
        self._environment = {
            **os.environ,
            "MAINSTAY_HOME": str(home),
            "MAINSTAY_ENDPOINT_PATH": path,
            **settings,
        }
        self.client = RpcClient(self.settings.runtime / "endpoint.sock", retry_interval_s=0.02)
        self.client.start()

    def set(self, name: str, value: str) -> None:
        """For the next start."""
        self._environment[name] = value

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mainstay.endpoint", env=self._environment, stdout=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(20):
            while not await self._answers():
                await asyncio.sleep(0.01)

    async def _answers(self) -> bool:
        """False: the client has only now seen that the predecessor went away."""
        try:
            return bool(await self.client.call("ping"))
        except Transient:
            return False

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
    route = await engines("one").behind(route)
    assert await endpoint.put(route) == {"path": "relay", "cut": 0}
    client = await connect(route)
    assert await client.ask() == "one:hello"
    (listed,) = await endpoint.client.call("routes")
    assert (listed["endpoint_id"], listed["serving"], listed["listening"]) == (route.endpoint_id, "relay", True)
    stats = await endpoint.client.call("stats")
    assert stats["endpoints"] == {route.endpoint_id: {"open": 1, "accepted": 1}}
    assert stats["kernel_unavailable"] == "endpoint_path is set to relay"
    assert stats["dns"] is None, "names are served only where that is asked for"
    assert await endpoint.client.call("remove_route", {"endpoint_id": route.endpoint_id}) == {"cut": 1}
    assert await client.ended()
    assert await endpoint.client.call("remove_route", {"endpoint_id": route.endpoint_id}) == {"cut": 0}
    assert await endpoint.client.call("routes") == []


async def test_killed_and_started_again_it_serves_its_last_table(
    endpoint: Endpoint, engines: Any, connect: Any, route: Route
) -> None:
    route = await engines("one").behind(route)
    await endpoint.put(route)
    await endpoint.end(signal.SIGKILL)
    with pytest.raises(ConnectionRefusedError):
        await connect(route)
    await endpoint.start()
    assert await (await connect(route)).ask() == "one:hello"


async def test_a_port_that_was_taken_at_start_is_served_once_it_is_free(
    endpoint: Endpoint, engines: Any, connect: Any, route: Route
) -> None:
    route = await engines("one").behind(route)
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
    route = await engines("one").behind(route)
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


@pytest.fixture
async def named(tmp_path: Path) -> AsyncIterator[tuple[Endpoint, tuple[str, int]]]:
    """An endpoint process that serves its names, and where."""
    with socket.create_server(("127.66.0.1", 0)) as free:
        place = free.getsockname()
    made = Endpoint(tmp_path / "home", "relay", MAINSTAY_DNS_LISTEN=f"{place[0]}:{place[1]}")
    await made.start()
    yield made, place
    await made.close()


def _resolve(place: tuple[str, int], name: str) -> list[str]:
    query = DNSRecord.question(name)
    answer = DNSRecord.parse(query.send(*place, timeout=5))
    return [str(one.rdata) for one in answer.rr if one.rtype == QTYPE.A]


async def test_names_are_served_from_the_table_alone(named: tuple[Endpoint, tuple[str, int]], route: Route) -> None:
    endpoint, place = named
    route = change(route, name="mydb.abc123def456.us-west-2.rds.mainstay.internal")
    await endpoint.put(route)
    assert (await endpoint.client.call("stats"))["dns"]["unavailable"] is None
    assert await asyncio.to_thread(_resolve, place, route.name) == [route.address]
    await endpoint.end(signal.SIGKILL)
    await endpoint.start()  # there is neither a control nor an agent in this test
    assert await asyncio.to_thread(_resolve, place, route.name) == [route.address]
    renamed = change(route, name=route.name.replace("mydb", "yours"))
    await endpoint.put(renamed)
    assert await asyncio.to_thread(_resolve, place, route.name) == []
    assert await asyncio.to_thread(_resolve, place, renamed.name) == [route.address]
    await endpoint.client.call("remove_route", {"endpoint_id": route.endpoint_id})
    assert await asyncio.to_thread(_resolve, place, renamed.name) == []


async def test_a_taken_dns_port_does_not_keep_endpoints_from_being_served(
    named: tuple[Endpoint, tuple[str, int]], engines: Any, connect: Any, route: Route
) -> None:
    endpoint, place = named
    await endpoint.end(signal.SIGTERM)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as squatter:
        squatter.bind(place)
        await endpoint.start()
        await endpoint.put(await engines("one").behind(route))
        assert await (await connect(route)).ask() == "one:hello"
        assert "Address already in use" in (await endpoint.client.call("stats"))["dns"]["unavailable"]


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
    route = await engines("one").behind(route, "127.97.0.3", path="kernel")
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


NEEDS_NFT = pytest.mark.skipif(os.geteuid() != 0 or shutil.which("nft") is None, reason="needs root and nftables")


class Tools:
    """The only directory on the endpoint's PATH: system tools can be taken away from it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self.give("nft")
        self.give("ss")

    def give(self, name: str) -> None:
        (self.directory / name).symlink_to(str(shutil.which(name)))

    def take(self, name: str) -> None:
        (self.directory / name).unlink()


@pytest.fixture
async def tooled(tmp_path: Path) -> AsyncIterator[tuple[Endpoint, Tools]]:
    """An endpoint process on the kernel path, and its system tools."""
    tools = Tools(tmp_path / "bin")
    made = Endpoint(tmp_path / "home", "auto", PATH=str(tools.directory))
    await made.start()
    await _kernel_says(made, None)
    yield made, tools
    try:
        if not (tools.directory / "nft").exists():
            tools.give("nft")
        await made.end(signal.SIGKILL)
        await made.start()
        await _kernel_says(made, None)  # takes the table over, and away when it ends
    finally:
        await made.close()
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    assert Kernel(str(made.settings.home)).table not in tables


async def _kernel_says(endpoint: Endpoint, reason: str | None) -> None:
    async with asyncio.timeout(10):
        while (await endpoint.client.call("stats"))["kernel_unavailable"] != reason:
            await asyncio.sleep(0.05)


@NEEDS_NFT
async def test_a_successor_that_cannot_use_the_kernel_never_says_that_old_connections_are_gone(
    tooled: tuple[Endpoint, Tools], engines: Any, connect: Any, route: Route
) -> None:
    endpoint, tools = tooled
    route = await engines("old").behind(route, "127.97.0.4", path="kernel")
    assert (await endpoint.put(route))["path"] == "kernel"
    client = await connect(route)
    assert await client.ask() == "old:hello"
    await endpoint.end(signal.SIGKILL)
    tools.take("nft")
    await endpoint.start()
    await _kernel_says(endpoint, "the program nft is not installed (package nftables)")
    await endpoint.put(route)
    assert await client.ask() == "old:hello", "nothing changed for it"
    promoted = await engines("new").behind(route, "127.97.0.5", epoch=2)
    for _ in range(2):
        with pytest.raises(Transient, match="cannot be ended: nft cannot be run") as caught:
            await endpoint.put(promoted)
        assert "apt-get install nftables" in caught.value.hint
    with pytest.raises(Transient, match="cannot be ended"):
        await endpoint.client.call("remove_route", {"endpoint_id": route.endpoint_id})
    with pytest.raises(Transient, match="cannot be ended"):
        await endpoint.client.call("remove_route", {"endpoint_id": route.endpoint_id})
    tools.give("nft")
    await endpoint.put(promoted)
    assert await client.ended()
    assert await (await connect(route)).ask() == "new:hello"


@NEEDS_NFT
async def test_a_successor_on_the_relay_path_ends_what_the_kernel_carried(
    tooled: tuple[Endpoint, Tools], engines: Any, connect: Any, route: Route
) -> None:
    endpoint, _ = tooled
    route = await engines("one").behind(route, "127.97.0.6", path="kernel")
    await endpoint.put(route)
    client = await connect(route)
    assert await client.ask() == "one:hello"
    await endpoint.end(signal.SIGKILL)
    endpoint.set("MAINSTAY_ENDPOINT_PATH", "relay")
    await endpoint.start()
    assert await client.ended()
    assert await (await connect(route)).ask() == "one:hello"
    assert (await endpoint.client.call("stats"))["endpoints"][route.endpoint_id]["accepted"] == 1
    endpoint.set("MAINSTAY_ENDPOINT_PATH", "auto")


@NEEDS_NFT
async def test_clients_are_let_in_to_a_new_primary_only_after_those_of_the_old_one_are_out(
    tooled: tuple[Endpoint, Tools], engines: Any, connect: Any, route: Route
) -> None:
    endpoint, tools = tooled
    route = await engines("old").behind(route, "127.97.0.7", path="kernel")
    await endpoint.put(route)
    client = await connect(route)
    assert await client.ask() == "old:hello"
    await endpoint.put(change(route, target_address=None))
    waiting = asyncio.create_task((await connect(route)).ask())
    promoted = await engines("new").behind(route, "127.97.0.8", epoch=2)
    tools.take("nft")
    for _ in range(2):
        with pytest.raises(Transient, match="cannot be ended"):
            await endpoint.put(promoted)
        assert await client.ask() == "old:hello"
        await asyncio.sleep(0.2)
        assert not waiting.done(), "it must not meet a client of the old primary"
    tools.give("nft")
    await endpoint.put(promoted)
    assert await client.ended()
    assert await waiting == "new:hello"


@NEEDS_NFT
async def test_a_removal_that_failed_is_not_taken_for_done(
    tooled: tuple[Endpoint, Tools], engines: Any, connect: Any, route: Route
) -> None:
    endpoint, tools = tooled
    await endpoint.put(await engines("one").behind(route, "127.97.0.9", path="kernel"))
    client = await connect(route)
    assert await client.ask() == "one:hello"
    tools.take("nft")
    for _ in range(2):
        with pytest.raises(Transient, match="cannot be ended"):
            await endpoint.client.call("remove_route", {"endpoint_id": route.endpoint_id})
    assert await client.ask() == "one:hello"
    tools.give("nft")
    await endpoint.client.call("remove_route", {"endpoint_id": route.endpoint_id})
    assert await client.ended()
    with pytest.raises(ConnectionRefusedError):
        await connect(route)
