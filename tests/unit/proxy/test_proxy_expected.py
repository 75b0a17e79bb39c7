"""The queue of expected answers: in order, however it is filled and emptied, and never larger than it must be."""

from __future__ import annotations

import random
from collections import deque

import pytest

from mainstay.proxy.expected import COMPACTED_AFTER, PLACES_KEPT, QUERY, Expectations, Expected


@pytest.mark.parametrize("seed", range(20))
def test_what_was_first_comes_first(seed: int) -> None:
    chance = random.Random(seed)
    queue, model = Expectations(), deque[Expected]()
    growing = 0.5
    for step in range(5000):
        if step % 700 == 0:
            growing = chance.choice([0.2, 0.5, 0.9])
        if chance.random() < growing:
            one = Expected(QUERY)
            queue.append(one)
            model.append(one)
        elif model:
            assert queue.first() is model[0]
            assert queue.popleft() is model.popleft()
        assert bool(queue) == bool(model)
        assert len(model) > 5 or queue.entries() == list(model)
    assert queue.entries() == list(model)


def test_what_is_past_takes_no_room() -> None:
    queue = Expectations()
    for _ in range(100 * COMPACTED_AFTER):  # one more is always asked before the last is answered
        queue.append(Expected(QUERY))
        if len(queue.entries()) > 1:
            queue.popleft()
    assert queue.places <= 2 * COMPACTED_AFTER
    for _ in range(10_000):
        queue.append(Expected(QUERY))
    while queue:
        queue.popleft()
    assert queue.places <= PLACES_KEPT
