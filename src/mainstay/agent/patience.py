"""How long to wait after a step that failed, and whether to tell of it.

What an engine answers again and again (`Answered`) is told once, and asked for less and less often. Every other failure
is told each time, and tried again when it says so.
"""

from __future__ import annotations

from mainstay.host.clock import Clock
from mainstay.model.errors import Answered

LONGEST_S = 8.0
FORGOTTEN_AFTER_S = 30.0
"""An answer that did not come for so long is news again."""


class Patience:
    """The failures of one actor, one after the other."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._answer = ""
        self._answered_at = 0.0
        self._wait_s = 0.0

    def after(self, error: Exception) -> tuple[float, bool]:
        """Seconds until the next try, and whether this is news."""
        least_s: float = getattr(error, "retry_after_s", 1.0)
        if not isinstance(error, Answered):
            return least_s, True
        now = self._clock.monotonic()
        again = error.message == self._answer and now - self._answered_at < FORGOTTEN_AFTER_S
        self._wait_s = min(2 * self._wait_s, LONGEST_S) if again else least_s
        self._answer, self._answered_at = error.message, now
        return self._wait_s, not again
