"""Cancel keys name the worker: a request for another one's session is handed on, and looked at nowhere else."""

from __future__ import annotations

from harness.proxy_parts import Parts, client_got, turn
from mainstay.protocol.postgres import wire
from mainstay.protocol.postgres.packets import CancelRequest
from mainstay.proxy.cancel_keys import Keys
from mainstay.settings import PROXY_WORKERS_MAX


async def test_keys_of_workers_are_never_the_same_and_fit() -> None:
    keys = [Keys(worker) for worker in range(PROXY_WORKERS_MAX + 1)]
    numbers = [one.new(4)[0] for one in keys for _ in range(100)]
    assert len(set(numbers)) == len(numbers)
    assert all(0 < number < 1 << 31 for number in numbers), "clients take it for a signed integer"


async def test_a_request_goes_where_its_session_is() -> None:
    handed_on: list[tuple[int, CancelRequest]] = []

    async def elsewhere(worker: int, request: CancelRequest) -> None:
        handed_on.append((worker, request))

    here, there = Keys(1, elsewhere), Keys(2)
    parts = Parts()
    holder, waiting = parts.session(), parts.session()
    holder.data_received(wire.query(b"SELECT 1"))
    await turn()
    waiting.data_received(wire.query(b"SELECT 1"))
    number, waiting.secret = there.new(4)
    waiting.number = number
    there.sessions[number] = here.sessions[number] = waiting  # here it must not be looked for
    request = CancelRequest(process_id=number, secret=waiting.secret)
    await here.cancel(request)
    assert handed_on == [(2, request)]
    assert waiting.waiting
    await there.cancel(CancelRequest(process_id=number, secret=b"guess"))
    assert waiting.waiting
    await there.cancel(request)
    assert not waiting.waiting and b"C57014\0" in client_got(waiting)


async def test_one_that_is_alone_hands_nothing_on() -> None:
    await Keys().cancel(CancelRequest(process_id=(3 << 27) + 1, secret=b"abcd"))
