"""Many requests in every order with the workers at their work: only AWS's errors, and a consistent end."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from botocore.session import get_session

from mainstay.model.db_instance import DBInstance
from mainstay.model.errors import ApiError
from simulation.state import check_repositories, end_state
from simulation.test_crash_points import create, group
from simulation.test_failing_effects import live
from simulation.world import PATIENT, TERRAFORM_TAKES, World

STEPS = 350
MODEL = get_session().get_service_model("rds")
REQUESTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ModifyDBInstance", {"DBInstanceClass": "db.t3.small", "ApplyImmediately": True}),
    ("ModifyDBInstance", {"DBInstanceClass": "db.t3.micro", "ApplyImmediately": True}),
    ("ModifyDBInstance", {"DBInstanceClass": "db.t3.medium"}),
    ("ModifyDBInstance", {"MasterUserPassword": "other-password"}),
    ("ModifyDBInstance", {"DBPortNumber": 5433, "ApplyImmediately": True}),
    ("RebootDBInstance", {}),
    ("StopDBInstance", {}),
    ("StartDBInstance", {}),
    ("DeleteDBInstance", {"SkipFinalSnapshot": True}),
)


BACKUPS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ModifyDBInstance", {"DBInstanceIdentifier": "db1", "BackupRetentionPeriod": 3, "ApplyImmediately": True}),
    ("ModifyDBInstance", {"DBInstanceIdentifier": "db1", "BackupRetentionPeriod": 1}),
    ("ModifyDBInstance", {"DBInstanceIdentifier": "db1", "BackupRetentionPeriod": 0, "ApplyImmediately": True}),
    ("CreateDBSnapshot", {"DBInstanceIdentifier": "db1", "DBSnapshotIdentifier": "one"}),
    ("CreateDBSnapshot", {"DBInstanceIdentifier": "db1", "DBSnapshotIdentifier": "two"}),
    ("CopyDBSnapshot", {"SourceDBSnapshotIdentifier": "one", "TargetDBSnapshotIdentifier": "copy"}),
    ("DeleteDBSnapshot", {"DBSnapshotIdentifier": "one"}),
    ("DeleteDBSnapshot", {"DBSnapshotIdentifier": "two"}),
    ("DeleteDBSnapshot", {"DBSnapshotIdentifier": "copy"}),
    ("StopDBInstance", {"DBInstanceIdentifier": "db1", "DBSnapshotIdentifier": "two"}),
    ("DeleteDBInstance", {"DBInstanceIdentifier": "db1", "FinalDBSnapshotIdentifier": "two"}),
    ("DeleteDBInstance", {"DBInstanceIdentifier": "db1", "SkipFinalSnapshot": True, "DeleteAutomatedBackups": False}),
)


def allowed(operation: str) -> set[str]:
    """The error shapes of the service model, and the common errors."""
    shapes = {shape.name for shape in MODEL.operation_model(operation).error_shapes}
    return shapes | {"InvalidParameterValue", "InvalidParameterCombination", "InvalidDBInstanceStateFault"}


async def one_request(world: World, draw: random.Random) -> None:
    if draw.random() < 0.3:
        operation, request = draw.choices(BACKUPS, [3] * (len(BACKUPS) - 2) + [1, 1])[0]
        with suppress(ApiError):
            await world.call(operation, **request)
        return
    if draw.random() < 0.25:
        name, value = draw.choice((("work_mem", str(draw.randrange(100, 9999))), ("shared_buffers", "4096")))
        method = "immediate" if name == "work_mem" else "pending-reboot"
        parameter = {"ParameterName": name, "ParameterValue": value, "ApplyMethod": method}
        await world.call("ModifyDBParameterGroup", DBParameterGroupName="mine", Parameters=[parameter])
        return
    weights = [5] * (len(REQUESTS) - 1) + [1]
    operation, request = draw.choices(REQUESTS, weights)[0]
    try:
        await world.call(operation, DBInstanceIdentifier="db1", **request)
    except ApiError as error:
        assert error.shape in allowed(operation), error
    if not world.describe():
        await create(world)


@pytest.mark.parametrize("seed", range(10))
def test_a_storm_of_requests_ends_consistent(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)

    async def story(world: World) -> None:
        await create(world)
        await world.settle()
        await group(world)
        await world.settle()
        for _ in range(STEPS):
            await one_request(world, draw)
            if draw.random() < 0.7:
                await world.tick(draw.choice((0.0, 0.001, 0.01, 0.1, 0.4)))
            if draw.random() < 0.03:
                world.kill(draw.choice(("control", "agent")))
                await world.revive()
            if draw.random() < 0.05:
                await world.settle()
            if draw.random() < 0.02:
                world.clock.advance(draw.choice((3600.0, 86_400.0)))
            if not world.describe():
                await create(world)
        await world.settle()
        if not world.describe():
            await create(world)
            await world.settle()
        assert set(world.words) <= TERRAFORM_TAKES, set(world.words)
        _check_consistency(world)
        check_repositories(world)

    live(tmp_path, story)


def _check_consistency(world: World) -> None:
    """One instance, one node, two addresses, one interface, and what runs is what the records say."""
    state = end_state(world)
    kinds = [row[0] for row in state["records"]]
    assert [kinds.count(kind) for kind in ("db-instance", "node", "address-lease")] == [1, 1, 2]
    assert sum("network-interface" in kind for kind in kinds) == 1
    assert world.control is not None
    with world.control.store.read() as view:
        (instance,) = view.scan(DBInstance)
    (status,) = world.statuses()
    assert instance.change == "" and instance.failure == ""
    assert (status.phase, bool(state["engines"])) in (("running", True), ("stopped", False))
    assert status.phase == instance.target
    assert {name for name, *_ in state["jobs"]} <= PATIENT | {"automated_backups"}
    waiting = [name for name, *_ in state["jobs"]]
    assert ("restart_stopped_db_instance" in waiting) == (status.phase == "stopped")
    assert ("apply_pending_modifications" in waiting) == bool(instance.pending)
    if status.phase == "running":
        assert status.started_for == instance.restart_token
