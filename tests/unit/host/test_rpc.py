"""Calls between our processes over real Unix sockets: results, both kinds of refusal, timeouts, restarts, limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mainstay.host import rpc
from mainstay.host.rpc import RpcClient, RpcServer
from mainstay.model.errors import Permanent, Transient


async def double(params: Any) -> Any:
    return params * 2


async def refuse(params: Any) -> Any:
    raise Permanent("never", hint="stop asking")


async def later(params: Any) -> Any:
    raise Transient("busy", retry_after_s=7.0, hint="wait")


async def broken(params: Any) -> Any:
    raise KeyError("x")


async def slow(params: Any) -> Any:
    await asyncio.sleep(30.0)


METHODS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "double": double,
    "refuse": refuse,
    "later": later,
    "broken": broken,
    "slow": slow,
}


class Pair:
    """A server and a client on one socket, and what the client was told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notices: list[tuple[str, Any]] = []
        self.states: list[bool] = []
        self.client = RpcClient(
            path,
            on_notice=lambda topic, data: self.notices.append((topic, data)),
            on_state=self.states.append,
            retry_interval_s=0.01,
        )
        self.server = self.new_server()

    def new_server(self) -> RpcServer:
        return RpcServer(self.path, METHODS, on_connect=lambda: [{"topic": "hello", "data": 1}])


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    both = Pair(tmp_path / "s.sock")
    await both.server.start()
    both.client.start()
    yield both
    await both.client.stop()
    await both.server.stop()
    await asyncio.sleep(0.01)


async def until(condition: Any) -> None:
    async with asyncio.timeout(5.0):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_call_has_its_own_answer_however_many_are_under_way(pair: Pair) -> None:
    answers = await asyncio.gather(*(pair.client.call("double", number) for number in range(50)))
    assert answers == [number * 2 for number in range(50)]
    assert pair.path.stat().st_mode & 0o777 == 0o600


async def test_permanent_and_transient_errors_arrive_as_what_they_are(pair: Pair) -> None:
    with pytest.raises(Permanent) as never:
        await pair.client.call("refuse")
    assert (never.value.message, never.value.hint) == ("never", "stop asking")
    with pytest.raises(Transient) as busy:
        await pair.client.call("later")
    assert (busy.value.message, busy.value.hint, busy.value.retry_after_s) == ("busy", "wait", 7.0)
    with pytest.raises(Permanent, match="no method"):
        await pair.client.call("unknown")


async def test_an_unforeseen_error_is_answered_as_transient_and_the_line_stays(pair: Pair) -> None:
    with pytest.raises(Transient, match="KeyError"):
        await pair.client.call("broken")
    assert await pair.client.call("double", 2) == 4
    assert pair.states == [True]


async def test_a_call_that_takes_too_long_fails_and_its_late_answer_hurts_nobody(pair: Pair) -> None:
    with pytest.raises(Transient, match="within"):
        await pair.client.call("slow", timeout_s=0.05)
    assert await pair.client.call("double", 3) == 6


async def test_a_server_that_is_not_there_is_a_transient_error(tmp_path: Path) -> None:
    client = RpcClient(tmp_path / "nobody.sock", retry_interval_s=0.01)
    client.start()
    with pytest.raises(Transient, match="did not answer"):
        await client.call("double", 1, timeout_s=0.05)
    await client.stop()


async def test_a_restarted_server_is_found_again_and_calls_under_way_fail_at_once(pair: Pair) -> None:
    await pair.client.call("double", 1)
    under_way = asyncio.create_task(pair.client.call("slow"))
    await asyncio.sleep(0.02)
    await pair.server.stop()
    with pytest.raises(Transient):
        await under_way
    await until(lambda: pair.states[-1] is False)
    pair.server = pair.new_server()
    await pair.server.start()
    assert await pair.client.call("double", 5) == 10
    assert pair.states == [True, False, True]
    assert pair.notices.count(("hello", 1)) == 2, "the state is told again on every connection"


async def test_a_stale_socket_of_a_dead_server_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "s.sock").touch()
    both = Pair(tmp_path / "s.sock")
    await both.server.start()
    both.client.start()
    assert await both.client.call("double", 1) == 2
    await both.client.stop()
    await both.server.stop()


async def test_notices_reach_every_peer_in_order(pair: Pair) -> None:
    await pair.client.call("double", 1)
    for number in range(20):
        pair.server.notify("n", number)
    await until(lambda: len(pair.notices) == 21)
    assert pair.notices == [("hello", 1), *(("n", number) for number in range(20))]


async def test_a_message_over_the_limit_breaks_the_line_not_the_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc, "MESSAGE_BYTES_MAX", 4096)
    both = Pair(tmp_path / "s.sock")
    await both.server.start()
    both.client.start()
    assert await both.client.call("double", "x" * 1000) == "x" * 2000
    with pytest.raises(Transient):
        await both.client.call("double", "x" * 10_000)
    assert await both.client.call("double", 4) == 8
    await both.client.stop()
    await both.server.stop()


async def test_a_peer_that_sends_nonsense_is_answered_and_disturbs_nobody(pair: Pair) -> None:
    reader, writer = await asyncio.open_unix_connection(str(pair.path))
    writer.write(b"this is not json\n[1]\n{}\n")
    lines = [await asyncio.wait_for(reader.readline(), 5.0) for _ in range(4)]
    assert sum(b'"error"' in line for line in lines) == 3
    writer.close()
    await writer.wait_closed()
    assert await pair.client.call("double", 4) == 8
