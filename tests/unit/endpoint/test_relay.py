"""The relay: who comes in, who waits, who is cut. The bytes themselves are the pump's business."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from mainstay.endpoint.relay import Relay
from mainstay.endpoint.routing import RoutingTable
from mainstay.model.errors import Permanent
from mainstay.model.route import Route


class RelayRig:
    """A relay with its table, driven as the process does it."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.table = RoutingTable()
        relay.start()

    async def put(self, route: Route, **changes: Any) -> Route:
        route = msgspec.structs.replace(route, **changes)
        self.cut = await self.relay.apply(self.table.plan(route))
        self.table.put(route)
        return route

    async def remove(self, route: Route) -> int:
        return await self.relay.apply(self.table.remove(route.endpoint_id))

    def count(self, route: Route, name: str) -> int:
        return self.relay.counters().get(route.endpoint_id, {}).get(name, 0)


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., RelayRig]]:
    rigs: list[RelayRig] = []

    def build(**options: Any) -> RelayRig:
        rigs.append(RelayRig(Relay(**{"connections_max": 100, "hold_s": 5.0, "processes": 1, **options})))
        return rigs[-1]

    yield build
    for rig in rigs:
        await rig.relay.stop()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


async def _turned_away(connect: Any, route: Route, source: str = "127.0.0.1") -> bool:
    """Whether a new client is reset: while it still connects, or when it reads."""
    try:
        client = await connect(route, source)
        await client.reader.read(1)
    except ConnectionResetError:
        return True
    return False


async def test_clients_reach_the_engine_under_their_own_address(
    make: Any, engines: Any, connect: Any, route: Route
) -> None:
    rig, engine = make(), engines("one")
    route = await rig.put(await engine.behind(route))
    for source in ("127.0.0.1", "127.0.0.7", "127.9.8.7"):
        client = await connect(route, source)
        assert await client.ask() == "one:hello"
    assert engine.clients == ["127.0.0.1", "127.0.0.7", "127.9.8.7"]
    assert rig.count(route, "open") == 3


async def test_who_is_not_admitted_is_reset_and_never_reaches_the_engine(
    make: Any, engines: Any, connect: Any, route: Route
) -> None:
    rig, engine = make(), engines("one")
    route = await rig.put(await engine.behind(route), admits=("127.0.0.2/32",))
    assert await _turned_away(connect, route, "127.0.0.3")
    friend = await connect(route, "127.0.0.2")
    assert await friend.ask() == "one:hello"
    assert engine.clients == ["127.0.0.2"]
    assert rig.count(route, "not_admitted") == 1


async def test_a_changed_access_list_is_for_new_connections_only(
    make: Any, engines: Any, connect: Any, route: Route
) -> None:
    rig, engine = make(), engines("one")
    route = await rig.put(await engine.behind(route))
    tracked = await connect(route)
    assert await tracked.ask() == "one:hello"
    route = await rig.put(route, admits=())
    assert await tracked.ask() == "one:hello"
    assert await _turned_away(connect, route)


async def test_new_clients_wait_until_there_is_a_primary(make: Any, engines: Any, connect: Any, route: Route) -> None:
    rig, engine = make(), engines("one")
    host, port = await engine.start()
    route = await rig.put(route)
    waiting = asyncio.create_task((await connect(route)).ask())
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await rig.put(route, target_address=host, target_port=port)
    assert await waiting == "one:hello"


async def test_new_clients_wait_until_the_engine_listens(make: Any, engines: Any, connect: Any, route: Route) -> None:
    rig, engine = make(), engines("one")
    host, port = await engine.start()
    await engine.stop()
    route = await rig.put(route, target_address=host, target_port=port)
    waiting = asyncio.create_task((await connect(route)).ask())
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await engine.start(host, port)
    assert await waiting == "one:hello"


async def test_who_waited_in_vain_is_closed(make: Any, connect: Any, route: Route) -> None:
    rig = make(hold_s=0.3)
    route = await rig.put(route)
    client = await connect(route)
    began = asyncio.get_running_loop().time()
    assert await client.ended()
    assert 0.2 < asyncio.get_running_loop().time() - began < 2
    assert rig.count(route, "no_primary") == 1
    assert rig.count(route, "open") == 0


async def test_a_new_epoch_cuts_the_connections_of_the_old(make: Any, engines: Any, connect: Any, route: Route) -> None:
    rig, old, new = make(), engines("old"), engines("new")
    route = await rig.put(await old.behind(route))
    clients = [await connect(route) for _ in range(5)]
    assert [await client.ask() for client in clients] == ["old:hello"] * 5
    route = await rig.put(await new.behind(route), epoch=2)
    assert rig.cut == 5
    assert all([await client.ended() for client in clients])
    assert await (await connect(route)).ask() == "new:hello"
    assert rig.count(route, "open") == 1


async def test_a_new_epoch_also_cuts_what_processes_carry(make: Any, engines: Any, connect: Any, route: Route) -> None:
    rig, old, new = make(processes=2), engines("old"), engines("new")
    route = await rig.put(await old.behind(route))
    clients = [await connect(route) for _ in range(2)]
    assert [await client.ask() for client in clients] == ["old:hello"] * 2
    await rig.relay.pumps.grow()
    clients += [await connect(route) for _ in range(4)]
    assert [await client.ask() for client in clients] == ["old:hello"] * 6
    assert sorted(pump["connections"] for pump in rig.relay.pumps.state()) == [0, 3, 3]
    route = await rig.put(await new.behind(route), epoch=2)
    assert rig.cut == 6
    assert all([await client.ended() for client in clients])
    clients = [await connect(route) for _ in range(3)]
    assert [await client.ask() for client in clients] == ["new:hello"] * 3
    assert rig.count(route, "open") == 3


async def test_losing_the_target_leaves_connections_to_the_engine(
    make: Any, engines: Any, connect: Any, route: Route
) -> None:
    rig, engine = make(), engines("one")
    route = await rig.put(await engine.behind(route))
    client = await connect(route)
    assert await client.ask() == "one:hello"
    await rig.put(route, target_address=None)
    assert await client.ask() == "one:hello"
    await engine.stop()
    assert await client.ended()


async def test_a_connection_under_way_to_a_deposed_primary_is_not_handed_over(
    make: Any, engines: Any, connect: Any, route: Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, old, new = make(), engines("old"), engines("new")
    old_place, new_place = await old.start(), await new.start()
    connecting, proceed = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    real_connect = loop.sock_connect

    async def slow_connect(sock: Any, place: Any) -> None:
        await real_connect(sock, place)
        if place == old_place:
            connecting.set()
            await proceed.wait()

    monkeypatch.setattr(loop, "sock_connect", slow_connect)
    route = await rig.put(route, target_address=old_place[0], target_port=old_place[1])
    client = await connect(route)
    await connecting.wait()
    await rig.put(route, target_address=new_place[0], target_port=new_place[1], epoch=2)
    proceed.set()
    assert await client.ask() == "new:hello"


async def test_without_a_route_the_port_refuses(make: Any, engines: Any, connect: Any, route: Route) -> None:
    rig, engine = make(), engines("one")
    route = await rig.put(await engine.behind(route))
    client = await connect(route)
    assert await client.ask() == "one:hello"
    assert await rig.remove(route) == 1
    assert await client.ended()
    with pytest.raises(ConnectionRefusedError):
        await connect(route)
    assert rig.count(route, "open") == 0


async def test_removing_the_route_ends_the_wait(make: Any, connect: Any, route: Route) -> None:
    rig = make(hold_s=60.0)
    route = await rig.put(route)
    client = await connect(route)
    await asyncio.sleep(0.1)
    await rig.remove(route)
    async with asyncio.timeout(2):
        assert await client.ended()


async def test_another_port_is_taken_before_the_old_one_is_left(
    make: Any, engines: Any, connect: Any, route: Route
) -> None:
    rig, engine = make(), engines("one")
    route = await rig.put(await engine.behind(route))
    client = await connect(route)
    assert await client.ask() == "one:hello"
    squatter = await asyncio.start_server(lambda reader, writer: None, route.address, 0)
    with pytest.raises(Permanent):
        await rig.put(route, port=squatter.sockets[0].getsockname()[1])
    squatter.close()
    assert await (await connect(route)).ask() == "one:hello"
    moved = await rig.put(route, port=route.port + 1 if route.port < 65535 else route.port - 1)
    assert await (await connect(moved)).ask() == "one:hello"
    assert await client.ask() == "one:hello"
    with pytest.raises(ConnectionRefusedError):
        await connect(route)


async def test_limits_reset_the_surplus_and_recover(make: Any, engines: Any, connect: Any, route: Route) -> None:
    rig, engine = make(per_endpoint_max=2), engines("one")
    route = await rig.put(await engine.behind(route))
    first, second = await connect(route), await connect(route)
    assert [await first.ask(), await second.ask()] == ["one:hello"] * 2
    assert await _turned_away(connect, route)
    assert rig.count(route, "limit_reached") == 1
    first.writer.close()
    await _until(lambda: rig.count(route, "open") == 1)
    assert await (await connect(route)).ask() == "one:hello"


async def test_waiting_clients_count_too_and_are_given_back(make: Any, connect: Any, route: Route) -> None:
    rig = make(connections_max=1, hold_s=0.3)
    route = await rig.put(route)
    first = await connect(route)
    await _until(lambda: rig.count(route, "open") == 1)
    assert await _turned_away(connect, route)
    assert await first.ended()
    await _until(lambda: rig.count(route, "open") == 0)
