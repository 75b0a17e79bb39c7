"""Every effect of the simulated world passes here, is counted, and can be made to fail or to kill a process."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from mainstay.model.errors import Transient
from mainstay.store import StoreFull
from simulation.loop import Killed, Lifetime

Moment = Literal["before", "after"]
Decision = Callable[[int, Moment, Lifetime, str], None]


def undisturbed(_number: int, _moment: Moment, _owner: Lifetime, _name: str) -> None:
    """Lets every effect happen."""


class Effects:
    """Numbers effects from 0. `decision` is asked before and after each and may raise."""

    def __init__(self) -> None:
        self.trace: list[str] = []
        self.decision: Decision = undisturbed

    def reset(self, decision: Decision = undisturbed) -> None:
        """Counts from 0 again."""
        self.trace = []
        self.decision = decision

    @contextmanager
    def one(self, owner: Lifetime, name: str) -> Iterator[None]:
        """The effect is what happens inside."""
        owner.check()
        number = len(self.trace)
        self.trace.append(name)
        self.decision(number, "before", owner, name)
        yield
        self.decision(number, "after", owner, name)
        owner.check()


def kill_at(number: int, moment: Moment, victim: Callable[[Lifetime], Lifetime]) -> Decision:
    """Kills `victim(owner)` at one moment of one effect."""

    def decide(present: int, now: Moment, owner: Lifetime, _name: str) -> None:
        if (present, now) == (number, moment):
            dying = victim(owner)
            dying.kill()
            if dying is owner:
                raise Killed(owner.name)

    return decide


FAILURES: dict[str, Callable[[], Exception]] = {
    "store.commit": lambda: StoreFull("no space left"),
    "journal.write_spec": lambda: OSError(errno.ENOSPC, "no space left"),
    "journal.write_in_effect": lambda: OSError(errno.ENOSPC, "no space left"),
    "journal.forget": lambda: OSError(errno.EIO, "input/output error"),
    "files.give": lambda: OSError(errno.EIO, "input/output error"),
}
NEVER_FAIL = frozenset({"shims.signal"})
NEVER_FAIL_AFTERWARDS = frozenset({"store.commit"})


def fail_randomly(seed: int, probability: float, failures_max: int = 200) -> Decision:
    """Half of the failures come instead of the effect, half after it took place. Ends after `failures_max`."""
    draw = random.Random(seed)
    left = [failures_max]

    def decide(_number: int, moment: Moment, _owner: Lifetime, name: str) -> None:
        if name in NEVER_FAIL or (moment == "after" and name in NEVER_FAIL_AFTERWARDS):
            return
        if left[0] and draw.random() < probability / 2:
            left[0] -= 1
            raise FAILURES.get(name, lambda: Transient(f"{name} failed"))()

    return decide
