"""Commits are released from waiting for a lost standby first; that is recorded only some seconds later."""

import time
from typing import Any

from mainstay.agent.pair import Pair

LATE_S = 5.0
rightly = Pair._record_alone
released_at: dict[str, float] = {}


async def record_alone(self: Pair, *arguments: Any) -> None:
    """In the wrong order."""
    self._sync_wanted = False
    if time.monotonic() - released_at.setdefault(self.dbi_resource_id, time.monotonic()) > LATE_S:
        del released_at[self.dbi_resource_id]
        await rightly(self, *arguments)


Pair._record_alone = record_alone
