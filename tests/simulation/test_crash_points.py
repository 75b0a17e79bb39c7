"""Every workflow, with control or agent killed before and after every single effect: the end is always the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from mainstay.control.backup_desk import BackupDesk
from mainstay.host.clock import SimulatedClock
from mainstay.host.randomness import SeededRandomness
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_snapshot import DBInstanceAutomatedBackup
from mainstay.model.db_subnet_group import DBSubnetGroup
from mainstay.services.ec2.assembly import default_group
from simulation.effects import Decision, undisturbed
from simulation.kill_points import kill_points
from simulation.loop import Killed, simulate
from simulation.state import end_state
from simulation.world import SCOPE, TERRAFORM_TAKES, World

Scenario = Callable[[World], Awaitable[None]]
DAY_S = 24 * 3600.0
START_WALL = 1_800_000_000.0


async def create(world: World, **members: Any) -> None:
    request: dict[str, Any] = {
        "DBInstanceIdentifier": "db1", "Engine": "postgres", "EngineVersion": "17.5", "DBInstanceClass": "db.t3.micro",
        "AllocatedStorage": 20, "MasterUsername": "chief", "MasterUserPassword": "secret-99",
        "PreferredMaintenanceWindow": "sun:05:00-sun:05:30", "PreferredBackupWindow": "03:00-03:30",
        "BackupRetentionPeriod": 0,
    }  # fmt: skip
    await world.call("CreateDBInstance", **(request | members))


async def unused_group(world: World) -> None:
    await world.call("CreateDBParameterGroup", DBParameterGroupName="mine", DBParameterGroupFamily="postgres17",
                     Description="d")  # fmt: skip


async def group(world: World) -> None:
    await unused_group(world)
    await world.call("ModifyDBInstance", DBInstanceIdentifier="db1", DBParameterGroupName="mine")
    await world.settle()
    await reboot(world)


async def modify(world: World, **changes: Any) -> None:
    await world.call("ModifyDBInstance", DBInstanceIdentifier="db1", ApplyImmediately=True, **changes)


async def set_parameter(world: World, name: str, value: str, method: str) -> None:
    await world.call("ModifyDBParameterGroup", DBParameterGroupName="mine",
                     Parameters=[{"ParameterName": name, "ParameterValue": value, "ApplyMethod": method}])  # fmt: skip


async def reboot(world: World) -> None:
    await world.call("RebootDBInstance", DBInstanceIdentifier="db1")


async def stop(world: World) -> None:
    await world.call("StopDBInstance", DBInstanceIdentifier="db1")


async def start(world: World) -> None:
    await world.call("StartDBInstance", DBInstanceIdentifier="db1")


async def delete(world: World) -> None:
    await world.call("DeleteDBInstance", DBInstanceIdentifier="db1", SkipFinalSnapshot=True)


async def larger(world: World) -> None:
    await modify(world, DBInstanceClass="db.t3.small")


async def upgrade(world: World) -> None:
    await modify(world, EngineVersion="17.6")


async def password(world: World) -> None:
    await modify(world, MasterUserPassword="another-secret-1")


async def rename(world: World) -> None:
    await modify(world, NewDBInstanceIdentifier="renamed")


async def port(world: World) -> None:
    await modify(world, DBPortNumber=6000)


async def dynamic_parameter(world: World) -> None:
    await set_parameter(world, "work_mem", "8192", "immediate")


async def static_parameter_and_reboot(world: World) -> None:
    await set_parameter(world, "shared_buffers", "4096", "pending-reboot")
    await reboot(world)


async def security_group(world: World) -> None:
    group_id = world.describe()[0]["VpcSecurityGroups"][0]["VpcSecurityGroupId"]
    await world.call("AuthorizeSecurityGroupIngress", service="ec2", GroupId=group_id,
                     IpProtocol="tcp", FromPort=5432, ToPort=5432, CidrIp="10.1.0.0/16")  # fmt: skip


async def other_vpc(world: World) -> None:
    """A VPC with two subnets and a subnet group "far"; the id of its default security group."""
    vpc = (await world.call("CreateVpc", service="ec2", CidrBlock="10.9.0.0/16"))["Vpc"]["VpcId"]
    subnets = [
        (await world.call("CreateSubnet", service="ec2", VpcId=vpc, CidrBlock=f"10.9.{number}.0/24",
                          AvailabilityZone=f"us-east-1{letter}"))["Subnet"]["SubnetId"]
        for number, letter in enumerate("ab")
    ]  # fmt: skip
    await world.call("CreateDBSubnetGroup", DBSubnetGroupName="far", DBSubnetGroupDescription="d", SubnetIds=subnets)


async def move_to_other_vpc(world: World) -> None:
    assert world.control is not None
    with world.control.store.read() as view:
        far = view.get(DBSubnetGroup, SCOPE, "far")
        assert far is not None
        vpc = far.vpc_id
        group_id = default_group(view, SCOPE, vpc).group_id
    await modify(world, DBSubnetGroupName="far", VpcSecurityGroupIds=[group_id], PubliclyAccessible=False)
    moved = world.describe()[0]
    assert moved["DBSubnetGroup"]["VpcId"] == vpc
    assert [one["VpcSecurityGroupId"] for one in moved["VpcSecurityGroups"]] == [group_id]


async def in_the_window(world: World) -> None:
    await world.call("ModifyDBInstance", DBInstanceIdentifier="db1", DBInstanceClass="db.t3.small")
    await world.settle()
    assert world.describe()[0]["PendingModifiedValues"] == {"DBInstanceClass": "db.t3.small"}
    world.clock.advance(8 * DAY_S - (world.clock.wall() - (START_WALL + DAY_S)) % DAY_S)
    await world.settle()
    until = world.clock.wall() + 7 * DAY_S
    while world.describe()[0]["PendingModifiedValues"] and world.clock.wall() < until:
        world.clock.advance(600.0)
        await world.settle()


async def seven_days(world: World) -> None:
    world.clock.advance(7 * DAY_S + 60.0)
    await world.tick()
    await world.tick()


async def delete_while_creating(world: World) -> None:
    await create(world)
    await world.tick(0.12)
    await delete(world)


async def create_with_backups(world: World) -> None:
    await create(world, BackupRetentionPeriod=1)


async def create_pair(world: World) -> None:
    await create(world, BackupRetentionPeriod=1, MultiAZ=True)


async def snapshot(world: World) -> None:
    await world.call("CreateDBSnapshot", DBInstanceIdentifier="db1", DBSnapshotIdentifier="one")


async def backups_on(world: World) -> None:
    await modify(world, BackupRetentionPeriod=7)


async def backups_off(world: World) -> None:
    await modify(world, BackupRetentionPeriod=0)


async def nightly(world: World) -> None:
    world.clock.advance(DAY_S)
    await world.tick()
    await world.settle()


async def three_nights(world: World) -> None:
    """The oldest backup goes when it is out of the retention period."""
    for _ in range(3):
        await nightly(world)


async def delete_snapshot(world: World) -> None:
    await world.call("DeleteDBSnapshot", DBSnapshotIdentifier="one")


async def restore_snapshot(world: World) -> None:
    await world.call("RestoreDBInstanceFromDBSnapshot", DBInstanceIdentifier="db2", DBSnapshotIdentifier="one",
                     BackupRetentionPeriod=0)  # fmt: skip


async def restore_latest(world: World) -> None:
    await world.call("RestoreDBInstanceToPointInTime", SourceDBInstanceIdentifier="db1",
                     TargetDBInstanceIdentifier="db2", UseLatestRestorableTime=True,
                     BackupRetentionPeriod=0)  # fmt: skip


async def operate(world: World, method: str, **params: Any) -> None:
    """What an operator asks of `mainstay backups`, asked again if control died before it was recorded."""
    while True:
        assert world.control is not None
        control, before = world.control, world.control.store.commits
        tools = replace(control.tools, randomness=SeededRandomness(99))  # the same names each time
        try:
            await BackupDesk(tools, control.worker).methods[method](params)
        except Killed:
            if control.store.commits > before:
                return
            await world.revive()
            await world.settle()
        else:
            return


async def create_apart(world: World) -> None:
    """With backups, and a security group of its own: what is restored of it comes into another one."""
    made = await world.call("CreateSecurityGroup", service="ec2", GroupName="apart", Description="d")
    await create(world, BackupRetentionPeriod=1, VpcSecurityGroupIds=[made["GroupId"]])


async def restore_paused(world: World) -> None:
    """Restored read-only, to be looked at."""
    await operate(world, "restore_further", name="db1", target="db2", paused=True, db_instance_class="db.t3.micro",
                  place={"latest": True})  # fmt: skip
    await world.settle()
    assert world.describe()[1]["DBInstanceStatus"] == "creating" and "Endpoint" in world.describe()[1]


async def move_paused(world: World) -> None:
    """On to a later moment."""
    world.clock.advance(60.0)
    await world.settle()
    await operate(world, "move_paused", name="db2", place={"latest": True})
    await world.settle()
    assert world.describe()[1]["DBInstanceStatus"] == "creating"


async def open_paused(world: World) -> None:
    await operate(world, "open_paused", name="db2")
    await world.settle()
    assert world.describe()[1]["DBInstanceStatus"] in ("available", "backing-up")


async def delete_paused(world: World) -> None:
    await world.call("DeleteDBInstance", DBInstanceIdentifier="db2", SkipFinalSnapshot=True)


async def restore_in_place(world: World) -> None:
    """What was there is kept."""
    await operate(world, "restore_in_place", name="db1", place={"latest": True})
    await world.settle()
    instance = instance_of_world(world)
    assert len(instance.kept_data) == 1 and instance.data_name not in ("", instance.kept_data[0].name)


async def go_back(world: World) -> None:
    """What was restored is kept instead."""
    (kept,) = instance_of_world(world).kept_data
    await operate(world, "go_back", name="db1", kept=kept.name)
    await world.settle()
    (restored,) = instance_of_world(world).kept_data
    assert restored.name != kept.name and instance_of_world(world).data_name == kept.name


async def discard(world: World) -> None:
    (kept,) = instance_of_world(world).kept_data
    await operate(world, "discard", name="db1", kept=kept.name)


async def restore_of_nothing_in_place(world: World) -> None:
    """The backup is gone: what was set aside comes back."""
    world.host.storage.lost = True
    await operate(world, "restore_in_place", name="db1", place={"latest": True})
    await world.settle()
    instance = instance_of_world(world)
    assert (instance.kept_data, instance.exchange) == ((), None)


def instance_of_world(world: World) -> DBInstance:
    assert world.control is not None
    with world.control.store.read() as view:
        found = view.get(DBInstance, SCOPE, "db1")
    assert found is not None
    return found


async def delete_with_final_snapshot(world: World) -> None:
    await world.call("DeleteDBInstance", DBInstanceIdentifier="db1", FinalDBSnapshotIdentifier="last")


async def delete_retaining(world: World) -> None:
    await world.call("DeleteDBInstance", DBInstanceIdentifier="db1", SkipFinalSnapshot=True,
                     DeleteAutomatedBackups=False)  # fmt: skip


async def expire_retained(world: World) -> None:
    world.clock.advance(2 * DAY_S)
    await world.tick()
    await world.settle()


async def stop_with_snapshot(world: World) -> None:
    await world.call("StopDBInstance", DBInstanceIdentifier="db1", DBSnapshotIdentifier="one")


async def delete_while_snapshotting(world: World) -> None:
    await snapshot(world)
    await delete(world)


async def copy_elsewhere(world: World) -> None:
    await world.call("CopyDBSnapshot", region="us-west-2", TargetDBSnapshotIdentifier="copy",
                     SourceDBSnapshotIdentifier=f"arn:aws:rds:us-east-1:{SCOPE.account_id}:snapshot:one")  # fmt: skip


async def replicate(world: World) -> None:
    """Its backups follow in another region: a backup, then the log behind it."""
    await world.call("StartDBInstanceAutomatedBackupsReplication", region="us-west-2",
                     SourceDBInstanceArn=f"arn:aws:rds:us-east-1:{SCOPE.account_id}:db:db1")  # fmt: skip
    await world.settle()
    while replicated(world).status == "pending":
        world.clock.advance(20.0)
        await world.settle()


def replicated(world: World) -> DBInstanceAutomatedBackup:
    assert world.control is not None
    with world.control.store.read() as view:
        (found,) = [one for one in view.scan(DBInstanceAutomatedBackup) if one.copy_of is not None]
    return found


async def stop_replication(world: World) -> None:
    await world.call("StopDBInstanceAutomatedBackupsReplication", region="us-west-2",
                     SourceDBInstanceArn=f"arn:aws:rds:us-east-1:{SCOPE.account_id}:db:db1")  # fmt: skip


SCENARIOS: dict[str, tuple[tuple[Scenario, ...], Scenario]] = {
    "create": ((), create),
    "modify_class": ((create,), larger),
    "upgrade": ((create,), upgrade),
    "password": ((create,), password),
    "rename": ((create,), rename),
    "port": ((create,), port),
    "reboot": ((create,), reboot),
    "stop": ((create,), stop),
    "start": ((create, stop), start),
    "automatic_restart": ((create, stop), seven_days),
    "delete": ((create,), delete),
    "delete_stopped": ((create, stop), delete),
    "delete_while_creating": ((), delete_while_creating),
    "dynamic_parameter": ((create, group), dynamic_parameter),
    "static_parameter": ((create, group), static_parameter_and_reboot),
    "security_group": ((create,), security_group),
    "maintenance_window": ((create,), in_the_window),
    "move_to_other_vpc": ((create, other_vpc), move_to_other_vpc),
    "create_with_backups": ((), create_with_backups),
    "snapshot": ((create,), snapshot),
    "snapshot_beside_backups": ((create_with_backups,), snapshot),
    "backups_on": ((create,), backups_on),
    "backups_off": ((create_with_backups,), backups_off),
    "backups_off_beside_snapshot": ((create_with_backups, snapshot), backups_off),
    "nightly": ((create_with_backups,), nightly),
    "expiry": ((create_with_backups, nightly), three_nights),
    "delete_snapshot": ((create, snapshot), delete_snapshot),
    "restore_snapshot": ((create, snapshot), restore_snapshot),
    "restore_latest": ((create_with_backups,), restore_latest),
    "restore_paused": ((create_apart,), restore_paused),
    "move_paused": ((create_apart, restore_paused), move_paused),
    "open_paused": ((create_apart, restore_paused), open_paused),
    "delete_paused": ((create_apart, restore_paused), delete_paused),
    "restore_in_place": ((create_with_backups,), restore_in_place),
    "go_back": ((create_with_backups, restore_in_place), go_back),
    "discard": ((create_with_backups, restore_in_place), discard),
    "restore_of_nothing_in_place": ((create_with_backups,), restore_of_nothing_in_place),
    "restore_pair_in_place": ((create_pair,), restore_in_place),
    "pair_goes_back": ((create_pair, restore_in_place), go_back),
    "restore_pair_of_nothing_in_place": ((create_pair,), restore_of_nothing_in_place),
    "delete_with_backups": ((create_with_backups,), delete),
    "delete_with_final_snapshot": ((create_with_backups,), delete_with_final_snapshot),
    "delete_retaining": ((create_with_backups,), delete_retaining),
    "expire_retained": ((create_with_backups, delete_retaining), expire_retained),
    "delete_while_snapshotting": ((create_with_backups,), delete_while_snapshotting),
    "copy_elsewhere": ((create, snapshot), copy_elsewhere),
    "replicate": ((create_with_backups,), replicate),
    "stop_replication": ((create_with_backups, replicate), stop_replication),
    "stop_with_snapshot": ((create,), stop_with_snapshot),
}


SPARSE = {"restore_pair_in_place": 11, "pair_goes_back": 11, "restore_pair_of_nothing_in_place": 11}
"""Of these, which have many, only every so many points; a prime one, so that moments and victims take turns."""

EITHER_WAY = {"delete_while_creating": ("RDS-EVENT-0005",)}


class Prepared:
    """A world in which the prelude has happened, to be copied as often as needed."""

    def __init__(self, directory: Path, prelude: tuple[Scenario, ...]) -> None:
        self._directory = directory
        self._runs = 0
        clock = SimulatedClock(START_WALL)
        self.world = World(directory / "prelude", clock)
        (directory / "prelude").mkdir()

        async def prepare() -> None:
            await self.world.first_start()
            for step in prelude:
                await step(self.world)
                await self.world.settle()
            self.wall = clock.wall()
            await self.world.down()

        simulate(clock, prepare)

    def run(self, scenario: Scenario, decision_of: Callable[[World], Decision]) -> tuple[World, dict[str, Any]]:
        """The scenario in a copy, from the start of both processes to the end state."""
        clock = SimulatedClock(self.wall)
        self._runs += 1
        directory = self._directory / f"run{self._runs}"
        world = self.world.copied_to(directory, clock)
        states: list[dict[str, Any]] = []

        async def live() -> None:
            world.host.resume()
            world.up()
            await world.settle()
            world.words.clear()
            world.effects.reset(decision_of(world))
            await scenario(world)
            await world.settle()
            states.append(end_state(world))
            await world.down()

        simulate(clock, live)
        return world, states[0]


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_kill_at_any_effect_changes_nothing_in_the_end(name: str, tmp_path: Path) -> None:
    prelude, scenario = SCENARIOS[name]
    prepared = Prepared(tmp_path, prelude)
    undisturbed_world, expected = prepared.run(scenario, lambda _world: undisturbed)
    assert set(undisturbed_world.words) <= TERRAFORM_TAKES, undisturbed_world.words
    count = len(undisturbed_world.effects.trace)
    assert count > 3
    for point in islice(kill_points(count), 0, None, SPARSE.get(name, 1)):
        world, state = prepared.run(scenario, point.decision)
        where = point.in_(world)
        for event_id in EITHER_WAY.get(name, ()):  # a kill may delay the second request
            state["events"] = [one for one in state["events"] if one != event_id]
        assert state == expected, where
        assert set(world.words) <= TERRAFORM_TAKES, (where, world.words)
