"""When a follower is being sent to: a receiver that was only just started, again and again, is not."""

from __future__ import annotations

import pytest

from mainstay.engines.postgresql.replication import ASKED_JUST_NOW_S, CONNECT_MAX_S, receives


@pytest.mark.parametrize("heard", [False, True])
@pytest.mark.parametrize("waits", [False, True])
def test_without_a_receiver_nothing_is_sent(heard: bool, waits: bool) -> None:
    assert receives(False, heard=heard, waits=waits, age_s=60.0) is False


def test_a_message_is_proof() -> None:
    assert receives(True, heard=True, waits=False, age_s=0.0) is True


@pytest.mark.parametrize("waits", [False, True])
def test_a_receiver_that_was_only_just_started_says_nothing(waits: bool) -> None:
    assert receives(True, heard=False, waits=waits, age_s=ASKED_JUST_NOW_S) is None


def test_one_that_goes_on_waiting_has_an_idle_source() -> None:
    assert receives(True, heard=False, waits=True, age_s=ASKED_JUST_NOW_S + 0.1) is True


def test_one_that_does_not_get_to_waiting_is_not_answered() -> None:
    assert receives(True, heard=False, waits=False, age_s=CONNECT_MAX_S) is None
    assert receives(True, heard=False, waits=False, age_s=CONNECT_MAX_S + 0.1) is False
