"""What is told of an instance's storage: "low" below a tenth free, "full" when it is exhausted, each once.

Source: RDS user guide, events RDS-EVENT-0089 and RDS-EVENT-0007. Space that comes and goes around a threshold is no
news: only with a little more than a tenth free does a storage count as roomy again.
"""

from __future__ import annotations

from mainstay.model.node import NodeStatus

ROOMY, LOW, FULL = "", "low", "full"
LOW_BELOW_PERCENT = 10
ROOMY_FROM_PERCENT = 12
_RANK = {ROOMY: 0, LOW: 1, FULL: 2}


def free_percent(seen: NodeStatus) -> int | None:
    """Of what was allocated, rounded down; None where it is not limited or not known."""
    if not seen.size_bytes or not (seen.usage_bytes or seen.free_bytes):
        return None
    return 100 * seen.free_bytes // seen.size_bytes


def storage_word(recorded: str, seen: NodeStatus) -> str:
    """The word that is to be recorded, from the one that is and what is seen now."""
    free = free_percent(seen)
    if free is None:
        return recorded
    if free >= ROOMY_FROM_PERCENT:
        return ROOMY
    present = FULL if seen.storage_full else LOW if free < LOW_BELOW_PERCENT else ROOMY
    return max(recorded, present, key=_RANK.__getitem__)
