"""Storage autoscaling: looks at the space of instances that have a MaxAllocatedStorage, and enlarges their storage.

What was seen of the last hour is known to this process alone; one that was started anew looks for five minutes before
it calls a storage low. That an instance grows, or why it does not, is told once in an event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from mainstay.decide.db_instance_status import accepts_changes, db_instance_status
from mainstay.decide.storage_autoscaling import Growth, Space, growth, is_approaching, remembered
from mainstay.model.db_instance import DBInstance
from mainstay.model.errors import MainstayError
from mainstay.model.node import NodeStatus, NodeTarget
from mainstay.services.rds.events import record_instance_event
from mainstay.services.rds.storage import modified_storage
from mainstay.store import Transaction
from mainstay.workflows.engine import Tools
from mainstay.workflows.fleet import last_seen_leader
from mainstay.workflows.modification import put_into_force
from mainstay.workflows.repositories import Makings

LOOK_INTERVAL_S = 20.0
log = structlog.get_logger()


class StorageScaler:
    """`wake`: a job has been added."""

    def __init__(self, tools: Tools, wake: Callable[[], None]) -> None:
        self._tools = tools
        self._wake = wake
        self._looks: dict[str, list[Space]] = {}

    async def run(self) -> None:
        """Forever."""
        while True:
            self.look_at_all()
            await asyncio.sleep(LOOK_INTERVAL_S)

    def look_at_all(self) -> None:
        """One look at every instance; never raises."""
        scaled = [one for one in self._tools.store.view().scan(DBInstance) if one.max_allocated_storage_gib]
        self._looks = {one.dbi_resource_id: self._looks.get(one.dbi_resource_id, []) for one in scaled}
        for instance in scaled:
            try:
                self._look(instance)
            except MainstayError as error:
                log.error("storage.not_scaled", dbi_resource_id=instance.dbi_resource_id, error=error.message)

    def _look(self, instance: DBInstance) -> None:
        now = self._tools.clock.wall()
        seen = last_seen_leader(self._tools.fleet, instance)
        looks = remembered(self._looks[instance.dbi_resource_id], now)
        if seen is not None and seen.size_bytes and (seen.usage_bytes or seen.free_bytes):
            looks.append(Space(now, seen.free_bytes, seen.size_bytes))
        self._looks[instance.dbi_resource_id] = looks
        if seen is None or self._verdict(instance, seen) == Growth():
            return
        with self._tools.store.transaction() as tx:
            present = tx.get(DBInstance, instance.scope, instance.db_instance_identifier)
            if present is None or present.dbi_resource_id != instance.dbi_resource_id or not _may_grow(present, seen):
                return
            self._act(tx, present, self._verdict(present, seen))
        self._wake()

    def _verdict(self, instance: DBInstance, seen: NodeStatus) -> Growth:
        maximum = instance.max_allocated_storage_gib
        if maximum is None:
            return Growth()
        return growth(
            instance.allocated_storage_gib,
            maximum,
            self._looks[instance.dbi_resource_id],
            self._tools.clock.wall(),
            full=seen.storage_full,
            changed_at=instance.storage_changed_at,
        )

    def _act(self, tx: Transaction, instance: DBInstance, verdict: Growth) -> None:
        if verdict.pausing:
            self._tell(tx, instance, "RDS-EVENT-0220")
        elif verdict.at_maximum:
            self._tell(tx, instance, "RDS-EVENT-0224")
        elif verdict.size_gib is not None:
            try:
                self._grow(tx, instance, verdict.size_gib)
            except MainstayError as error:
                self._tell(tx, instance, "RDS-EVENT-0223", reason=error.message)

    def _grow(self, tx: Transaction, instance: DBInstance, size_gib: int) -> None:
        """As ModifyDBInstance with ApplyImmediately would; what waits for the maintenance window goes on waiting."""
        tools, waiting = self._tools, instance.pending
        chosen = modified_storage(instance, {"AllocatedStorage": size_gib})
        wanted = {name: value for name, value in chosen.items() if value != getattr(instance, name)}
        log.info("storage.grows", dbi_resource_id=instance.dbi_resource_id, size_gib=size_gib)
        stored = put_into_force(
            tx,
            tools.clock,
            Makings(tools.vault, tools.randomness, tools.clock.wall()),
            instance,
            msgspec.structs.replace(instance, pending=msgspec.structs.replace(type(waiting)(), **wanted)),
            by_itself=True,
        )
        if waiting.allocated_storage_gib is not None and waiting.allocated_storage_gib <= size_gib:
            waiting = msgspec.structs.replace(waiting, allocated_storage_gib=None)
        stored = msgspec.structs.replace(stored, pending=waiting)
        tx.put(stored)
        if is_approaching(size_gib, stored.max_allocated_storage_gib or size_gib):
            self._tell(tx, stored, "RDS-EVENT-0225", size=str(size_gib), maximum=str(stored.max_allocated_storage_gib))

    def _tell(self, tx: Transaction, instance: DBInstance, event_id: str, **words: str) -> None:
        """Once for a size and a maximum."""
        told = f"{event_id} {instance.allocated_storage_gib} {instance.max_allocated_storage_gib}"
        if told not in instance.autoscaling_told:
            record_instance_event(tx, self._tools.clock, instance, event_id, at=None, **words)
            kept = (*instance.autoscaling_told, told)[-TOLD_MAX:]
            tx.put(msgspec.structs.replace(instance, autoscaling_told=kept))


TOLD_MAX = 8


def _may_grow(instance: DBInstance, seen: NodeStatus) -> bool:
    if instance.change or instance.target is not NodeTarget.RUNNING:
        return False
    return accepts_changes(db_instance_status(instance, seen))
