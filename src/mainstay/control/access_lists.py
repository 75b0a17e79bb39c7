"""Pushes security group changes to the endpoints of the instances they are about, within a second."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import ClassVar

import structlog

from mainstay.host.clock import Clock
from mainstay.model.db_instance import DBInstance
from mainstay.model.ec2 import SecurityGroupRevision
from mainstay.model.errors import MainstayError
from mainstay.model.records import Record, Scope
from mainstay.services.rds.refresh import request_refresh_in
from mainstay.services.revisions import current_revision
from mainstay.store import Store
from mainstay.workflows.engine import Worker

RETRY_S = 1.0
LOOK_S = 0.5
"""How often the recorded revisions are looked at: workflows too put instances into groups and take them out."""
log = structlog.get_logger()


class PushedRevision(Record, frozen=True, kw_only=True):
    """Up to which change of a region's security groups its instances have been asked to refresh."""

    KIND: ClassVar[str] = "pushed-security-group-revision"

    number: int

    def key(self) -> str:
        return "current"


class AccessListPusher:
    """`AccessListListener`: remembers which regions changed and asks every instance there to be refreshed.

    A refresh that changes nothing in an instance's spec ends after reading it. The regions whose last change was
    recorded but not pushed are looked for as well: those that a workflow changed, or that changed just before a kill.
    """

    def __init__(self, store: Store, clock: Clock, worker: Worker) -> None:
        self._store = store
        self._clock = clock
        self._worker = worker
        self._changed: set[Scope] = set()
        self._poke = asyncio.Event()

    def security_groups_changed(self, scope: Scope) -> None:
        """See `AccessListListener`; called inside the transaction, acted upon after it."""
        self._changed.add(scope)
        self._poke.set()

    async def run(self) -> None:
        """Forever."""
        while True:
            self._poke.clear()
            changed, self._changed = self._changed | self._unpushed(), set()
            try:
                for scope in changed:
                    self._refresh(scope)
            except MainstayError as error:
                log.error("access_lists.not_refreshed", error=error.message)
                self._changed |= changed
                await asyncio.sleep(RETRY_S)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._poke.wait()

    def _unpushed(self) -> set[Scope]:
        found = set()
        with self._store.read() as view:
            for revision in view.scan(SecurityGroupRevision):
                pushed = view.get(PushedRevision, revision.scope, "current")
                if pushed is None or pushed.number != revision.number:
                    found.add(revision.scope)
        return found

    def _refresh(self, scope: Scope) -> None:
        with self._store.transaction() as tx:
            for instance in tx.scan(DBInstance, scope):
                request_refresh_in(tx, self._clock.wall(), instance)
            pushed = PushedRevision(scope=scope, number=current_revision(tx, SecurityGroupRevision, scope))
            if tx.get(PushedRevision, scope, "current") is None:
                tx.insert(pushed)
            else:
                tx.put(pushed)
        self._worker.wake()
