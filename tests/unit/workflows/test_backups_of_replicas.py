"""When the automated backups of a read replica begin: it depends on whether somebody keeps the log of replicas."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from harness.records import db_instance
from mainstay.engines.base import Feature
from mainstay.host.clock import SimulatedClock
from mainstay.host.randomness import SeededRandomness
from mainstay.host.vault import Vault
from mainstay.model.db_instance import DBInstance
from mainstay.store import SqliteStore
from mainstay.workflows.automated_backups import back_up_soon, begin_automated_backups, start_first_backup
from mainstay.workflows.repositories import Makings

KEPT = frozenset({Feature.BACKUPS, Feature.READ_REPLICAS, Feature.REPLICA_LOGS})
NOT_KEPT = KEPT - {Feature.REPLICA_LOGS}


@pytest.mark.parametrize("features", [KEPT, NOT_KEPT])
def test_they_begin_at_the_latest_when_it_is_promoted(features: frozenset[Feature]) -> None:
    store, clock = SqliteStore(":memory:"), SimulatedClock()
    engines = SimpleNamespace(rules=lambda _engine: SimpleNamespace(features=features))
    work: Any = SimpleNamespace(tools=SimpleNamespace(clock=clock, engines=engines))
    replica = db_instance("rep", source_dbi_resource_id="db-SRC", backup_retention_period_days=1)

    def under_way(instance: DBInstance) -> bool:
        with store.read() as view:
            return bool(view.jobs(f"backup:{instance.dbi_resource_id}"))

    with store.transaction() as tx:
        replica = begin_automated_backups(
            tx, Makings(Vault(bytes(32), SeededRandomness(1)), SeededRandomness(2), clock.wall()), replica
        )
        before = start_first_backup(work, tx, replica)
        tx.insert(before)
    assert under_way(replica) == (before.change == "backing-up") == (features is KEPT)
    with store.transaction() as tx:
        promoted = db_instance("rep", backup_retention_period_days=1, repository_id=replica.repository_id)
        after = back_up_soon(work, tx, promoted)
    assert under_way(promoted) and after.change in ("backing-up", promoted.change)
