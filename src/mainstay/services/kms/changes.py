"""How other services learn that a key has become usable or unusable.

Two signals, as for security groups (`services/ec2/changes.py`). The durable `KeyStateRevision` grows in the same
transaction as the change, whoever makes it, so a process that was away compares it with the revision it has acted upon.
The optional listener is told at once: a collaborator of the type `KeyStateListener` in `control/process.py`. Keys are
deleted by a timer, which tells no listener: such a key had been unusable for seven days at least.
"""

from __future__ import annotations

from typing import Protocol

from mainstay.model.kms import KeyStateRevision, KmsKey
from mainstay.model.records import Scope
from mainstay.services.operations import Call
from mainstay.services.revisions import record_revision
from mainstay.store import Transaction


class KeyStateListener(Protocol):
    """Given to handlers as a collaborator of this type."""

    def key_state_changed(self, scope: Scope, key_arn: str) -> None:
        """The key was enabled or disabled, its deletion scheduled or cancelled.

        Called inside the transaction that changes it: take note and return; read the store after it has committed. If
        it rolls back after all, reading again does no harm.
        """


def record_change(tx: Transaction, scope: Scope) -> None:
    """Notes durably that a key of this scope has become usable or unusable."""
    record_revision(tx, KeyStateRevision, scope)


def announce(call: Call, key: KmsKey) -> None:
    """Gives both signals."""
    record_change(call.tx, key.scope)
    listener: KeyStateListener | None = call.collaborators.get(KeyStateListener)
    if listener is not None:
        listener.key_state_changed(key.scope, key.arn)
