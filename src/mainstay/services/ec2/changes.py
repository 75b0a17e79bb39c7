"""How the process that pushes access lists learns that one may have changed.

Two signals, for two needs. The durable `SecurityGroupRevision` grows in the same transaction as the change, so a
process that was away compares it with the revision it pushed last. The optional listener is told at once, so the new
lists reach the endpoints within the second.
"""

from __future__ import annotations

from typing import Protocol

from mainstay.model.ec2 import SecurityGroupRevision
from mainstay.model.records import Scope
from mainstay.services.operations import Call
from mainstay.services.revisions import record_revision
from mainstay.store import Transaction


class AccessListListener(Protocol):
    """Given to handlers as a collaborator of this type."""

    def security_groups_changed(self, scope: Scope) -> None:
        """A rule or a membership changed.

        Called inside the transaction that changes it: take note and return; read the store after it has committed. If
        it rolls back after all, reading again does no harm.
        """


def record_change(tx: Transaction, scope: Scope) -> None:
    """Notes durably that access lists of this scope may have changed."""
    record_revision(tx, SecurityGroupRevision, scope)


def notify(call: Call) -> None:
    """Tells the listener, if the process has one, of a change that is recorded already."""
    listener: AccessListListener | None = call.collaborators.get(AccessListListener)
    if listener is not None:
        listener.security_groups_changed(call.scope)


def announce(call: Call) -> None:
    """Gives both signals."""
    record_change(call.tx, call.scope)
    notify(call)
