"""Volumes as the control process looks after them: keys for agents that have none, and news of their space.

Guarantees: a locked volume is opened as soon as its key may be used, and locked when it may not any more; that storage
runs low or full is recorded once each, in one transaction with the event.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import msgspec
import structlog

from mainstay.decide.storage_space import FULL, LOW, free_percent, storage_word
from mainstay.model.db_instance import DBInstance
from mainstay.model.errors import MainstayError
from mainstay.model.node import NodeStatus, NodeTarget
from mainstay.services.rds.events import record_event
from mainstay.store import Reader, Transaction
from mainstay.workflows.engine import Tools
from mainstay.workflows.fleet import last_seen_leader
from mainstay.workflows.node_specs import nodes_of, with_private_key
from mainstay.workflows.volumes import volume_key_of

AGAIN_S = 5.0
log = structlog.get_logger()


class VolumeKeeper:
    """Looks at what is seen of an instance whenever something new is."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._due: dict[str, bool] = {}
        self._poke = asyncio.Event()

    def look(self, dbi_resource_id: str) -> None:
        """Records news of the space, and has keys sent where one is missing; never raises."""
        try:
            instance = self._find(self._tools.store.view(), dbi_resource_id)
            if instance is None or not instance.volume_driver:
                return
            self._record_space(instance)
            if instance.storage_encrypted and any(
                seen.locked or seen.keys_missing for seen in self._seen(instance).values()
            ):
                self._due.setdefault(dbi_resource_id, False)
                self._poke.set()
        except MainstayError as error:
            log.error("volumes.not_recorded", dbi_resource_id=dbi_resource_id, error=error.message)

    def key_changed(self, kms_key_id: str) -> None:
        """Whether this KMS key may be used has changed: what it encrypts is locked or opened accordingly."""
        for instance in self._tools.store.view().scan(DBInstance):
            if instance.storage_encrypted and instance.kms_key_id == kms_key_id:
                self._due[instance.dbi_resource_id] = True
        self._poke.set()

    async def run(self) -> None:
        """Forever."""
        while True:
            self._poke.clear()
            due, self._due = self._due, {}
            for dbi_resource_id, key_changed in due.items():
                try:
                    await self._hand_keys(dbi_resource_id, key_changed)
                except MainstayError as error:
                    log.warning("volumes.keys_not_sent", dbi_resource_id=dbi_resource_id, error=error.message)
                    self._due[dbi_resource_id] = self._due.get(dbi_resource_id, False) or key_changed
            if not self._due:
                await self._poke.wait()
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(AGAIN_S):
                    await self._poke.wait()

    async def _hand_keys(self, dbi_resource_id: str, key_changed: bool) -> None:
        view = self._tools.store.view()
        instance = self._find(view, dbi_resource_id)
        if instance is None or instance.change == "deleting":
            return
        key = volume_key_of(view, self._tools.vault, instance)
        nodes = {node.spec.node_id: node for node in nodes_of(view, instance)}
        # The one that leads last: its standby must not take over first.
        for node_id, seen in reversed(self._seen(instance).items()):
            if key is None and key_changed and not seen.locked:
                await self._tools.fleet.lock(node_id)
                log.warning("volumes.locked", node_id=node_id)
            elif key is not None and node_id in nodes and nodes[node_id].spec.target is NodeTarget.RUNNING:
                if seen.locked:
                    await self._tools.fleet.unlock(node_id, key)
                    log.info("volumes.unlocked", node_id=node_id)
                if seen.locked or seen.keys_missing:  # the same generation: it brings nothing but keys
                    await self._tools.fleet.put_node(with_private_key(nodes[node_id].spec, self._tools))

    def _record_space(self, instance: DBInstance) -> None:
        if instance.change in ("creating", "deleting") or self._news(instance) is None:
            return
        with self._tools.store.transaction() as tx:
            present = self._find(tx, instance.dbi_resource_id)
            news = None if present is None else self._news(present)
            if present is not None and news is not None:
                self._record(tx, present, *news)

    def _news(self, instance: DBInstance) -> tuple[str, int] | None:
        """The word that is not recorded yet, and the percentage that is free."""
        seen = last_seen_leader(self._tools.fleet, instance)
        if seen is None:
            return None
        word, free = storage_word(instance.storage_word, seen), free_percent(seen)
        return None if word == instance.storage_word or free is None else (word, free)

    def _record(self, tx: Transaction, instance: DBInstance, word: str, free: int) -> None:
        clock = self._tools.clock
        if word in (LOW, FULL) and instance.storage_word != LOW:
            record_event(tx, clock, instance, "RDS-EVENT-0089", percent=str(free))
        if word == FULL:
            record_event(tx, clock, instance, "RDS-EVENT-0007")
        tx.put(msgspec.structs.replace(instance, storage_word=word))

    def _seen(self, instance: DBInstance) -> dict[str, NodeStatus]:
        found = {node_id: self._tools.fleet.last_seen(node_id) for node_id in instance.node_ids}
        return {node_id: seen for node_id, seen in found.items() if seen is not None}

    def _find(self, reader: Reader, dbi_resource_id: str) -> DBInstance | None:
        found = reader.find(DBInstance, None, "dbi-resource-id", dbi_resource_id)
        return found[0] if found else None
