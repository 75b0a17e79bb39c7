"""MaxAllocatedStorage in the API, and storage that grows by itself, with what is told of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from harness.rds_backups import SeenFleet, create, finished, prepare
from harness.rds_calls import Rds
from mainstay.control.storage_scaler import StorageScaler
from mainstay.host.vault import Vault
from mainstay.model.db_instance import DBInstance, PendingModification
from mainstay.model.node import NodePhase, NodeStatus
from mainstay.workflows.fleet import Fleet

GIB = 1 << 30


class FillingFleet(SeenFleet):
    """Volumes with so much room."""

    free_percent = 50
    full = False
    size_gib = 20

    def last_seen(self, node_id: str) -> NodeStatus:
        size = self.size_gib * GIB
        free = size * self.free_percent // 100
        return msgspec.structs.replace(
            super().last_seen(node_id), size_bytes=size, free_bytes=free, usage_bytes=size - free,
            storage_full=self.full, phase=NodePhase.RUNNING,
        )  # fmt: skip


@pytest.fixture
def fleet(rds: Rds) -> FillingFleet:
    prepare(rds)
    made = FillingFleet()
    rds.collaborators[Fleet] = made
    return made


@pytest.fixture
def scaler(rds: Rds, fleet: FillingFleet) -> StorageScaler:
    tools = SimpleNamespace(store=rds.store, fleet=fleet, clock=rds.clock, randomness=rds.randomness,
                            vault=rds.collaborators[Vault])  # fmt: skip
    return StorageScaler(cast(Any, tools), lambda: None)


def look(rds: Rds, scaler: StorageScaler, seconds: int) -> DBInstance:
    """So long, every twenty seconds."""
    for _ in range(seconds // 20):
        scaler.look_at_all()
        rds.clock.advance(20.0)
    scaler.look_at_all()
    found: DBInstance = rds.get(DBInstance, "db1")
    return found


def told(rds: Rds) -> list[str]:
    return [event.event_id for event in rds.events() if event.event_id in STORAGE]


STORAGE = {f"RDS-EVENT-0{number}" for number in (217, 218, 220, 223, 224, 225, "017", "018")}


def test_what_is_taken_and_refused(rds: Rds, fleet: FillingFleet) -> None:
    def refused(**members: Any) -> str:
        with pytest.raises(Exception, match="InvalidParameter") as caught:
            create(rds, "other", **members)
        return str(caught.value)

    assert create(rds, MaxAllocatedStorage=22).max_allocated_storage_gib == 22
    assert rds.call("DescribeDBInstances")["DBInstances"][0]["MaxAllocatedStorage"] == 22
    assert refused(MaxAllocatedStorage=20) == (
        "InvalidParameterCombination: Max storage size must be greater than storage size"
    )
    assert refused(MaxAllocatedStorage=21) == (
        "InvalidParameterCombination: The maximum allocated storage must be increased by at least 10 percent."
    )
    assert refused(MaxAllocatedStorage=65537) == (
        "InvalidParameterCombination: Invalid max storage size for engine name postgres and storage type gp3: 65537"
    )
    assert refused(MaxAllocatedStorage=100, StorageType="standard") == (
        "InvalidParameterCombination: Storage autoscaling is not supported for storage type standard."
    )


def test_modify_turns_it_on_and_off_at_once(rds: Rds, fleet: FillingFleet) -> None:
    create(rds)

    def modified(**members: Any) -> int | None:
        shown = rds.call("ModifyDBInstance", DBInstanceIdentifier="db1", **members)["DBInstance"]
        finished(rds, "db1")
        found: int | None = shown.get("MaxAllocatedStorage")
        return found

    assert modified(MaxAllocatedStorage=100) == 100
    assert modified(AllocatedStorage=40) == 100, "a size that waits for the window takes nothing away"
    assert modified(MaxAllocatedStorage=20) is None, "the present size turns it off, as Terraform does"
    assert modified(MaxAllocatedStorage=50, AllocatedStorage=30) == 50
    said = rds.refused("ModifyDBInstance", DBInstanceIdentifier="db1", AllocatedStorage=50)
    assert said == "InvalidParameterCombination: Max storage size must be greater than storage size"
    said = rds.refused("ModifyDBInstance", DBInstanceIdentifier="db1", MaxAllocatedStorage=10)
    assert said.startswith("InvalidParameterCombination: Max storage size")
    said = rds.refused("ModifyDBInstance", DBInstanceIdentifier="db1", StorageType="standard")
    assert said.startswith("InvalidParameterCombination: Storage autoscaling is not supported")


def test_a_storage_that_stays_low_grows_and_says_so(rds: Rds, fleet: FillingFleet, scaler: StorageScaler) -> None:
    create(rds, MaxAllocatedStorage=100)
    fleet.free_percent = 9
    assert look(rds, scaler, 280).allocated_storage_gib == 20
    grown = look(rds, scaler, 20)
    assert (grown.allocated_storage_gib, grown.change) == (30, "modifying")
    (job,) = [one for one in rds.jobs() if one.program == "modify_db_instance"]
    assert job.frame["finished_events"] == ["RDS-EVENT-0218"] and told(rds) == ["RDS-EVENT-0217"]
    finished(rds, "db1")
    # It fills up again, at once: the next growth waits until six hours after this one, and that is told once.
    fleet.size_gib = 30
    assert look(rds, scaler, 600).allocated_storage_gib == 30
    assert told(rds) == ["RDS-EVENT-0217", "RDS-EVENT-0220"]
    rds.clock.advance(6 * 3600)
    assert look(rds, scaler, 300).allocated_storage_gib == 40


def test_a_full_storage_grows_at_once_and_never_above_the_maximum(
    rds: Rds, fleet: FillingFleet, scaler: StorageScaler
) -> None:
    create(rds, MaxAllocatedStorage=24)
    fleet.free_percent, fleet.full = 0, True
    assert look(rds, scaler, 0).allocated_storage_gib == 24
    finished(rds, "db1")
    rds.clock.advance(7 * 3600)
    assert look(rds, scaler, 600).allocated_storage_gib == 24
    assert told(rds) == ["RDS-EVENT-0217", "RDS-EVENT-0225", "RDS-EVENT-0224"]
    rds.call("ModifyDBInstance", DBInstanceIdentifier="db1", MaxAllocatedStorage=200)
    assert look(rds, scaler, 0).allocated_storage_gib == 34


def test_what_waits_for_the_maintenance_window_goes_on_waiting(
    rds: Rds, fleet: FillingFleet, scaler: StorageScaler
) -> None:
    create(rds, MaxAllocatedStorage=100)
    rds.call("ModifyDBInstance", DBInstanceIdentifier="db1", AllocatedStorage=25, DBInstanceClass="db.t3.small")
    finished(rds, "db1")
    fleet.full = True
    grown = look(rds, scaler, 0)
    assert grown.allocated_storage_gib == 30
    assert grown.pending == PendingModification(db_instance_class="db.t3.small"), "storage cannot be made smaller"


def test_nothing_grows_without_a_maximum_or_while_something_else_is_done(
    rds: Rds, fleet: FillingFleet, scaler: StorageScaler
) -> None:
    instance = create(rds)
    fleet.full = True
    assert look(rds, scaler, 600).allocated_storage_gib == 20
    rds.change_instance(instance, max_allocated_storage_gib=100, change="backing-up")
    assert look(rds, scaler, 600).allocated_storage_gib == 20
    assert told(rds) == []


def test_gp3_gets_the_performance_of_its_new_size(rds: Rds, fleet: FillingFleet, scaler: StorageScaler) -> None:
    create(rds, AllocatedStorage=395, MaxAllocatedStorage=1000)
    fleet.full, fleet.size_gib = True, 395
    grown = look(rds, scaler, 0)
    assert (grown.allocated_storage_gib, grown.iops, grown.storage_throughput) == (435, 12000, 500)
