"""Counting the changes of something in a scope, so that a process that was away sees that there were some.

The count grows in the transaction of the change itself: whoever reads a number has every change up to it.
"""

from __future__ import annotations

from mainstay.model.records import Revision, Scope
from mainstay.store import Reader, Transaction


def current_revision(reader: Reader, kind: type[Revision], scope: Scope) -> int:
    """The number of changes so far; 0 before the first."""
    record = reader.get(kind, scope, "current")
    return 0 if record is None else record.number


def record_revision(tx: Transaction, kind: type[Revision], scope: Scope) -> None:
    """Notes durably that there was a change."""
    number = current_revision(tx, kind, scope)
    changed = kind(scope=scope, number=number + 1)
    if number:
        tx.put(changed)
    else:
        tx.insert(changed)
