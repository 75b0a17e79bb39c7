"""Who is cancelled while a thread works for him is so only when it has ended."""

from __future__ import annotations

import asyncio
import time

import pytest

from mainstay.host.threads import to_its_end


async def test_the_result_comes_back() -> None:
    assert await to_its_end(max, 1, 2) == 2


async def test_cancellation_waits_for_the_thread() -> None:
    ended: list[str] = []

    def work() -> None:
        time.sleep(0.2)
        ended.append("work")

    task = asyncio.create_task(to_its_end(work))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["work"]
