"""Writes down that the replication of a read replica has stopped or goes on, as the agents have seen it.

Guarantees: every transition that was reported becomes its event exactly once, however often control or agent died in
between: the word that was recorded last is in the instance's record, written together with the event.
"""

from __future__ import annotations

import msgspec
import structlog

from mainstay.decide.replication_status import ERROR, REPLICATING, replication_state
from mainstay.host.clock import Clock
from mainstay.model.db_instance import DBInstance
from mainstay.model.errors import MainstayError
from mainstay.model.node import NodeStatus
from mainstay.services.rds.events import record_event
from mainstay.store import Reader, Store, Transaction
from mainstay.workflows.fleet import Fleet, last_seen_leader
from mainstay.workflows.node_specs import source_of

log = structlog.get_logger()


class ReplicationRecorder:
    """Looks at what is seen of an instance whenever something new is."""

    def __init__(self, store: Store, fleet: Fleet, clock: Clock) -> None:
        self._store = store
        self._fleet = fleet
        self._clock = clock

    def look(self, dbi_resource_id: str) -> None:
        """Records a transition; what cannot be recorded now is recorded with the next news."""
        try:
            if self._transition(self._store.view(), dbi_resource_id) is None:
                return
            with self._store.transaction() as tx:
                self._record(tx, dbi_resource_id)
        except MainstayError as error:
            log.error("replicas.not_recorded", dbi_resource_id=dbi_resource_id, error=error.message)

    def _transition(self, reader: Reader, dbi_resource_id: str) -> tuple[DBInstance, str, str] | None:
        """The replica, the word that is true now and its reason; None unless another word is recorded."""
        found = reader.find(DBInstance, None, "dbi-resource-id", dbi_resource_id)
        if not found or found[0].change in ("creating", "deleting"):
            return None
        seen: NodeStatus | None = last_seen_leader(self._fleet, found[0])
        if seen is None or seen.replication is None:
            return None  # it restarts, or is not a replica: nothing is known of its source
        state = replication_state(found[0], seen)
        if state is None or state.status == found[0].replication_status:
            return None
        source = source_of(reader, found[0])
        if state.status == ERROR and source is not None and source.change == "deleting":
            return None  # what becomes of it is recorded when the source is gone
        return found[0], state.status, state.message

    def _record(self, tx: Transaction, dbi_resource_id: str) -> None:
        transition = self._transition(tx, dbi_resource_id)
        if transition is None:
            return
        replica, status, message = transition
        if status == ERROR:
            record_event(tx, self._clock, replica, "RDS-EVENT-0045", reason=message)
        elif status == REPLICATING:
            record_event(tx, self._clock, replica, "RDS-EVENT-0046")
        tx.put(msgspec.structs.replace(replica, replication_status=status))
