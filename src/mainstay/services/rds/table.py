"""The table of RDS operations, and how a handler gets into it."""

from __future__ import annotations

from collections.abc import Callable

from mainstay.services.operations import Handler, Operations
from mainstay.services.rds.demands import Target, demands_of

operations = Operations("rds")


def handles(name: str, *targets: Target, opens_transaction: bool = True) -> Callable[[Handler], Handler]:
    """Registers a handler that needs `rds:<name>` on each of the targets (see `demands.on`), on "*" without any."""
    return operations.handles(name, demands=demands_of(name, targets), opens_transaction=opens_transaction)
