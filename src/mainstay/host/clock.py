"""Time as a parameter: wall clock for what users see, monotonic clock for leases and deadlines."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Both clocks, in seconds."""

    def wall(self) -> float:
        """Epoch seconds; may jump."""

    def monotonic(self) -> float:
        """Never jumps back; meaningless between machines."""


class SystemClock:
    """The machine's clocks."""

    def wall(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


class SimulatedClock:
    """A clock that moves only when told; both readings advance together, `jump_wall` moves the wall clock alone."""

    def __init__(self, wall: float = 1_800_000_000.0) -> None:
        self._wall = wall
        self._monotonic = 0.0

    def wall(self) -> float:
        return self._wall

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Lets time pass."""
        self._wall += seconds
        self._monotonic += seconds

    def jump_wall(self, seconds: float) -> None:
        """Sets the wall clock wrong by so much, as NTP or an operator can."""
        self._wall += seconds
