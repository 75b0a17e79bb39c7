"""What an engine answers over and over is told once and asked for less often; nothing else is held back."""

from __future__ import annotations

from mainstay.agent.patience import FORGOTTEN_AFTER_S, LONGEST_S, Patience
from mainstay.host.clock import SimulatedClock
from mainstay.model.errors import Answered, Transient


def test_the_same_answer_is_told_once_and_asked_for_less_and_less_often() -> None:
    clock = SimulatedClock()
    patience = Patience(clock)
    waits = []
    for number in range(6):
        wait_s, news = patience.after(Answered("the engine answers with an error: no"))
        assert news is (number == 0)
        waits.append(wait_s)
        clock.advance(wait_s)
    assert waits == [1.0, 2.0, 4.0, LONGEST_S, LONGEST_S, LONGEST_S]
    assert patience.after(Answered("the engine answers with an error: something else")) == (1.0, True)
    clock.advance(FORGOTTEN_AFTER_S)
    assert patience.after(Answered("the engine answers with an error: something else")) == (1.0, True)


def test_whatever_else_fails_is_tried_again_when_it_says() -> None:
    patience = Patience(SimulatedClock())
    for _ in range(3):
        assert patience.after(Transient("the follower applies what it received", retry_after_s=0.01)) == (0.01, True)
        assert patience.after(OSError("no such file")) == (1.0, True)
