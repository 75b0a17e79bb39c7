"""Replaces the certificates of engines before they end: nobody need do anything, and no client is disturbed.

An engine reads its new certificate when it reloads its settings; sessions go on, new ones see the new certificate.
"""

from __future__ import annotations

import asyncio

import structlog

from mainstay.host.certificates import ends_soon
from mainstay.host.clock import Clock
from mainstay.model.db_instance import DBInstance
from mainstay.model.errors import MainstayError
from mainstay.model.node import Node
from mainstay.services.rds.refresh import request_refresh_in
from mainstay.store import Store
from mainstay.workflows.engine import Worker

LOOK_INTERVAL_S = 6 * 3600.0
RETRY_S = 60.0
log = structlog.get_logger()


class CertificateRenewer:
    """Looks at every node's certificate, at start and a few times a day. The refresh that it asks for replaces it."""

    def __init__(self, store: Store, clock: Clock, worker: Worker) -> None:
        self._store = store
        self._clock = clock
        self._worker = worker

    async def run(self) -> None:
        """Forever."""
        while True:
            try:
                self.look()
            except MainstayError as error:
                log.error("server_certificates.not_renewed", error=error.message)
                await asyncio.sleep(RETRY_S)
                continue
            await asyncio.sleep(LOOK_INTERVAL_S)

    def look(self) -> None:
        """Asks for a refresh of the instances whose certificates end soon."""
        now = self._clock.wall()
        with self._store.read() as view:
            ending = {
                node.spec.dbi_resource_id
                for node in view.scan(Node)
                if ends_soon(node.spec.certificate.certificate_pem, now)
            }
        if not ending:
            return
        with self._store.transaction() as tx:
            for instance in tx.scan(DBInstance):
                if instance.dbi_resource_id in ending:
                    log.info("server_certificates.renewing", dbi_resource_id=instance.dbi_resource_id)
                    request_refresh_in(tx, now, instance)
        self._worker.wake()
