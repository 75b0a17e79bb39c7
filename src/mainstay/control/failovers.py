"""Writes down what the agents have decided: who leads a Multi-AZ instance now, and that its standby is (not) in sync.

Guarantees: every failover becomes its events and the swap of zones exactly once, however often control or agent died in
between: the record carries the epoch up to which it knows, and an agent tells all its latest failovers when it
connects.
"""

from __future__ import annotations

import msgspec
import structlog

from mainstay.host.clock import Clock
from mainstay.model.db_instance import DBInstance
from mainstay.model.errors import MainstayError
from mainstay.model.node import Failover, PairStatus, leading
from mainstay.services.rds.events import record_event
from mainstay.store import Store, Transaction
from mainstay.workflows.fleet import Fleet

log = structlog.get_logger()

NOT_IN_SYNC = (
    "The standby of this DB instance does not have every commit: {reason}. Commits are acknowledged by the primary"
    " alone, and no failover is possible, until the standby has caught up."
)
IN_SYNC = "The standby of this DB instance has every commit again; a failover is possible."


class FailoverRecorder:
    """Looks at what is seen of an instance whenever something new is."""

    def __init__(self, store: Store, fleet: Fleet, clock: Clock) -> None:
        self._store = store
        self._fleet = fleet
        self._clock = clock
        self._recorded: dict[str, PairStatus] = {}

    def look(self, dbi_resource_id: str) -> None:
        """Records what is new of the instance's pair; what cannot be recorded now is recorded with the next news."""
        try:
            self._look(dbi_resource_id)
        except MainstayError as error:
            log.error("failovers.not_recorded", dbi_resource_id=dbi_resource_id, error=error.message)

    def _look(self, dbi_resource_id: str) -> None:
        found = self._store.view().find(DBInstance, None, "dbi-resource-id", dbi_resource_id)
        if not found or not found[0].standby_node_id:
            return
        seen = leading([self._fleet.last_seen(node_id) for node_id in found[0].node_ids])
        if seen is None or seen.pair is None or self._recorded.get(dbi_resource_id) == seen.pair:
            return
        with self._store.transaction() as tx:
            present = tx.find(DBInstance, None, "dbi-resource-id", dbi_resource_id)
            if present:
                self._record(tx, present[0], seen.pair)
        self._recorded[dbi_resource_id] = seen.pair

    def _record(self, tx: Transaction, instance: DBInstance, pair: PairStatus) -> None:
        after = instance
        for failover in pair.failovers:
            # Until clients are let in again it is not complete; the agent tells it once more then.
            if failover.epoch > after.failover_epoch and (failover.writable_after_s or failover.epoch < pair.epoch):
                after = self._failed_over(tx, after, failover)
        if pair.primary == after.standby_node_id:
            after = after.with_nodes_swapped
        if pair.in_sync != after.standby_in_sync:
            if after.instance_create_time is not None and not after.change:
                reason = IN_SYNC if pair.in_sync else NOT_IN_SYNC.format(reason=pair.reason)
                record_event(tx, self._clock, after, "RDS-EVENT-0044", reason=reason)
            after = msgspec.structs.replace(after, standby_in_sync=pair.in_sync)
        if after != instance:
            tx.put(after)

    def _failed_over(self, tx: Transaction, instance: DBInstance, failover: Failover) -> DBInstance:
        log.info("failovers.recorded", instance=instance.db_instance_identifier, epoch=failover.epoch, row=failover.row)
        record_event(tx, self._clock, instance, "RDS-EVENT-0013", at=failover.at)
        done_at = failover.at + failover.writable_after_s
        record_event(tx, self._clock, instance, "RDS-EVENT-0015", at=done_at)
        record_event(tx, self._clock, instance, "RDS-EVENT-0049", at=done_at)
        return msgspec.structs.replace(instance, failover_epoch=failover.epoch)
