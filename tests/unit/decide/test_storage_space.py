"""News of an instance's storage: each once, however the space comes and goes."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from mainstay.decide.storage_space import FULL, LOW, ROOMY, free_percent, storage_word
from mainstay.model.node import NodePhase, NodeRole, NodeStatus

SIZE = 1000


def seen(free: int, *, full: bool = False, size: int = SIZE) -> NodeStatus:
    return NodeStatus(
        node_id="n", dbi_resource_id="db-1", db_instance_identifier="one", role=NodeRole.PRIMARY,
        availability_zone="a", phase=NodePhase.RUNNING, generation=1,
        usage_bytes=size - free, free_bytes=free, size_bytes=size, storage_full=full,
    )  # fmt: skip


def test_thresholds() -> None:
    assert storage_word(ROOMY, seen(100)) == ROOMY, "exactly a tenth is not below it"
    assert storage_word(ROOMY, seen(99)) == LOW
    assert storage_word(LOW, seen(0, full=True)) == FULL
    assert storage_word(FULL, seen(50)) == FULL
    assert storage_word(FULL, seen(119)) == FULL
    assert storage_word(FULL, seen(120)) == ROOMY
    assert storage_word(LOW, seen(100)) == LOW


def test_a_volume_without_a_size_or_that_is_not_open_is_no_news() -> None:
    closed = seen(0, size=0)
    assert free_percent(closed) is None
    assert storage_word(LOW, closed) == LOW
    locked = NodeStatus(
        node_id="n", dbi_resource_id="db-1", db_instance_identifier="one", role=NodeRole.PRIMARY,
        availability_zone="a", phase=NodePhase.STOPPED, generation=1, size_bytes=SIZE,
    )  # fmt: skip
    assert storage_word(ROOMY, locked) == ROOMY


@given(st.lists(st.integers(0, SIZE)))
def test_nothing_is_told_twice_without_room_between(frees: list[int]) -> None:
    word, told = ROOMY, []
    for free in frees:
        before, word = word, storage_word(word, seen(free, full=free < 20))
        if word != before:
            told.append(word)
        assert word != FULL or free < 120
    for former, later in itertools.pairwise(told):
        assert (former, later) in ((LOW, FULL), (LOW, ROOMY), (FULL, ROOMY), (ROOMY, LOW), (ROOMY, FULL))
