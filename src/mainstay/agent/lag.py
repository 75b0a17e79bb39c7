"""How far a read replica is behind, in seconds, without taking an idle source for a slow replica.

The age of the last transaction replayed alone would jump to minutes when a quiet source writes again. But what was not
replayed yet was committed after the replica was last seen to have everything: so the lag is at most as long ago as
that.
"""

from __future__ import annotations

import msgspec

from mainstay.model.node import ReplicationStatus


class LagMeter:
    """The looks at one follower."""

    def __init__(self) -> None:
        self._complete_at: float | None = None

    def measure(self, seen: ReplicationStatus, now: float) -> ReplicationStatus:
        """`seen` with its lag bounded by what earlier looks found; `now` is of the monotonic clock."""
        if seen.streaming and seen.lag_bytes == 0:
            self._complete_at = now
            return seen
        if self._complete_at is None:
            return seen
        since_s = now - self._complete_at
        lag_s = since_s if seen.lag_s is None else min(seen.lag_s, since_s)
        return msgspec.structs.replace(seen, lag_s=round(lag_s, 3))
