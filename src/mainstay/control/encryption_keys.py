"""Locks what a KMS key protects when the key is not enabled any more.

Guarantees: every encrypted instance whose key is disabled, pending deletion or deleted is recorded as having lost it,
once, together with its event: at once when the key's state changes, and after a restart of control for what happened
just before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import structlog

from mainstay.host.clock import Clock
from mainstay.model.db_instance import DBInstance
from mainstay.model.errors import MainstayError
from mainstay.model.records import Scope
from mainstay.store import Store
from mainstay.workflows.lose_key import has_lost_key, lose_key

LOOK_AGAIN_S = 60.0
RETRY_S = 1.0
log = structlog.get_logger()


class KeyHolder(Protocol):
    """Who gives data keys to agents and takes them away: `VolumeKeeper`."""

    def key_changed(self, kms_key_id: str) -> None:
        """Whether this KMS key may be used has changed."""


class KeyWatcher:
    """`KeyStateListener`. `wake`: a job has become due."""

    def __init__(self, store: Store, clock: Clock, volumes: KeyHolder, wake: Callable[[], None]) -> None:
        self._store = store
        self._clock = clock
        self._volumes = volumes
        self._wake = wake
        self._changed: set[str] = set()
        self._poke = asyncio.Event()

    def key_state_changed(self, scope: Scope, key_arn: str) -> None:
        """See `KeyStateListener`; called inside the transaction, acted upon after it."""
        self._changed.add(key_arn)
        self._poke.set()

    async def run(self) -> None:
        """Forever."""
        while True:
            self._poke.clear()
            pause_s = LOOK_AGAIN_S
            try:
                self.look()
            except MainstayError as error:
                log.error("encryption_keys.not_recorded", error=error.message)
                pause_s = RETRY_S
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._poke.wait()

    def look(self) -> None:
        """Records every loss; has keys taken from, or sent to, what the keys that have changed protect."""
        if any(has_lost_key(self._store.view(), one) for one in self._store.view().scan(DBInstance)):
            with self._store.transaction() as tx:
                for instance in tx.scan(DBInstance):
                    if has_lost_key(tx, instance):
                        lose_key(tx, self._clock, instance)
                        log.warning("encryption_keys.lost", dbi_resource_id=instance.dbi_resource_id)
            self._wake()
        changed, self._changed = self._changed, set()
        for arn in changed:
            self._volumes.key_changed(arn)
