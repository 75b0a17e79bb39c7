"""Random bytes that are drawn many at a time: nobody gets what another one has."""

from __future__ import annotations

import os

import pytest

from mainstay.proxy import drawn
from mainstay.proxy.drawn import DRAWN_BYTES, random_bytes


def test_every_byte_is_given_once_and_none_is_missing() -> None:
    random_bytes(DRAWN_BYTES)  # whatever is left of before is too little for this
    taken = [random_bytes(count) for _round in range(400) for count in (4, 18, 32)]
    assert [len(one) for one in taken] == [4, 18, 32] * 400
    assert len(set(taken)) == len(taken)
    whole = b"".join(taken)
    pieces = [whole[at : at + 8] for at in range(0, len(whole) - 8)]
    assert len(set(pieces)) == len(pieces), "something was given twice"


def test_all_that_is_there_can_be_asked_for_at_once() -> None:
    assert len(random_bytes(DRAWN_BYTES)) == DRAWN_BYTES
    assert random_bytes(DRAWN_BYTES) != random_bytes(DRAWN_BYTES)


@pytest.mark.skipif(not str(drawn.__file__).endswith(".py"), reason="compiled")
def test_it_is_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = bytes(range(256)) * (DRAWN_BYTES // 256)
    random_bytes(DRAWN_BYTES)
    monkeypatch.setattr(os, "urandom", lambda count: kernels[:count])
    assert random_bytes(20) + random_bytes(5) == kernels[:25]
