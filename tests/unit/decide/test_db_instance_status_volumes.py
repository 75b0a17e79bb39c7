"""Status words of instances whose volume is full or locked."""

from __future__ import annotations

import msgspec
import pytest

from harness.records import db_instance
from mainstay.decide.db_instance_status import accepts_changes, db_instance_status
from mainstay.model.node import NodePhase, NodeRole, NodeStatus, NodeTarget

INSTANCE = db_instance(instance_create_time=1.0)
SEEN = NodeStatus(
    node_id="node-1", dbi_resource_id="db-1", db_instance_identifier="one", role=NodeRole.PRIMARY,
    availability_zone="us-east-1a", phase=NodePhase.RUNNING, generation=1,
)  # fmt: skip


def word(*, phase: NodePhase = NodePhase.RUNNING, locked: bool = False, full: bool = False, **fields: object) -> str:
    seen = msgspec.structs.replace(SEEN, phase=phase, locked=locked, storage_full=full)
    return db_instance_status(msgspec.structs.replace(INSTANCE, **fields), seen)


def test_a_full_storage_can_be_enlarged() -> None:
    assert word(full=True) == "storage-full"
    assert word(full=True, phase=NodePhase.STARTING) == "storage-full"
    assert word(full=True, change="modifying") == "modifying"
    assert word(full=True, phase=NodePhase.STOPPED, target=NodeTarget.STOPPED) == "stopped"
    assert accepts_changes("storage-full")


@pytest.mark.parametrize("change", ["", "rebooting", "modifying"])
def test_a_locked_volume_is_said_to_be_inaccessible(change: str) -> None:
    lost = "inaccessible-encryption-credentials"
    assert word(locked=True, phase=NodePhase.STARTING, change=change) == lost
    assert word(locked=True, change=change, backup_retention_period_days=7) == f"{lost}-recoverable"
    assert not accepts_changes(lost)


@pytest.mark.parametrize("change", ["creating", "deleting"])
def test_what_is_being_made_or_removed_says_so(change: str) -> None:
    assert word(locked=True, change=change) == change


def test_one_that_lost_its_key_is_inaccessible_until_it_is_started_again_whatever_is_seen_of_it() -> None:
    for phase, locked in ((NodePhase.RUNNING, False), (NodePhase.STOPPED, False), (NodePhase.STOPPED, True)):
        assert word(phase=phase, locked=locked, key_lost_at=1.0) == "inaccessible-encryption-credentials"
        recoverable = word(phase=phase, locked=locked, key_lost_at=1.0, backup_retention_period_days=1)
        assert recoverable == "inaccessible-encryption-credentials-recoverable"
        terminal = word(
            phase=phase, locked=locked, key_lost_at=1.0, backup_retention_period_days=1, key_lost_for_good=True
        )
        assert terminal == "inaccessible-encryption-credentials"
        assert word(phase=phase, locked=locked, key_lost_at=1.0, change="deleting") == "deleting"
    assert word(locked=True, phase=NodePhase.STARTING, change="starting") == "starting", "StartDBInstance opens it"
