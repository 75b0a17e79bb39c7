"""ModifyDBInstance with DBSubnetGroupName: into another VPC, at once or in the window, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from harness.rds_backups import prepare
from harness.rds_calls import Rds
from mainstay.model.db_instance import DBInstance
from mainstay.model.ec2 import InternetGateway, NetworkInterface, SecurityGroup, SecurityGroupRevision
from mainstay.services.ec2.interfaces import members_of, set_real_addresses
from mainstay.services.revisions import current_revision
from mainstay.workflows.modification import put_into_force
from mainstay.workflows.repositories import Makings

ADDRESS = "127.64.0.9"


class Moving:
    """An instance in vpc-1 and a subnet group "far" in vpc-2, where it may go."""

    def __init__(self, rds: Rds) -> None:
        self.rds = rds
        prepare(rds)
        for group_id in ("sg-2", "sg-2b"):
            rds.insert(
                SecurityGroup(scope=rds.scope, group_id=group_id, name=group_id, description="d", vpc_id="vpc-2")
            )
        for name, subnets in (("mine", ["subnet-a", "subnet-b"]), ("near", ["subnet-a2", "subnet-c"]),
                              ("far", ["subnet-x", "subnet-y"])):  # fmt: skip
            rds.call("CreateDBSubnetGroup", DBSubnetGroupName=name, DBSubnetGroupDescription="d", SubnetIds=subnets)
        rds.call("CreateDBInstance", DBInstanceIdentifier="db1", Engine="postgres", DBInstanceClass="db.t3.micro",
                 AllocatedStorage=20, MasterUsername="app", MasterUserPassword="correct-horse-7",
                 DBSubnetGroupName="mine", BackupRetentionPeriod=0, AvailabilityZone="us-east-1a")  # fmt: skip
        self.set(change="", instance_create_time=1.0)
        with rds.store.transaction() as tx:
            set_real_addresses(tx, rds.scope, self.record.network_interface_id, [ADDRESS])

    @property
    def record(self) -> DBInstance:
        found: DBInstance = self.rds.get(DBInstance, "db1")
        return found

    def set(self, **fields: Any) -> None:
        self.rds.change_instance(self.record, **fields)

    def modify(self, **members: Any) -> Any:
        return self.rds.call("ModifyDBInstance", DBInstanceIdentifier="db1", **members)["DBInstance"]

    def refused(self, **members: Any) -> str:
        said: str = self.rds.refused("ModifyDBInstance", DBInstanceIdentifier="db1", **members)
        return said

    def window(self) -> DBInstance:
        """What the maintenance window does."""
        with self.rds.store.transaction() as tx:
            makings = Makings(None, self.rds.randomness, self.rds.clock.wall())  # type: ignore[arg-type]
            return put_into_force(tx, self.rds.clock, makings, self.record, self.record)

    def members(self, group_id: str) -> list[str]:
        with self.rds.store.read() as tx:
            return [address for one in members_of(tx, self.rds.scope, group_id) for address in one.addresses]


@pytest.fixture
def moving(rds: Rds) -> Moving:
    return Moving(rds)


FAR = {"DBSubnetGroupName": "far", "VpcSecurityGroupIds": ["sg-2", "sg-2b"]}


def test_at_once(moving: Moving) -> None:
    before = moving.record
    shown = moving.modify(**FAR, ApplyImmediately=True)
    assert shown["DBInstanceStatus"] == "moving-to-vpc"
    assert (shown["DBSubnetGroup"]["DBSubnetGroupName"], shown["DBSubnetGroup"]["VpcId"]) == ("far", "vpc-2")
    assert [one["VpcSecurityGroupId"] for one in shown["VpcSecurityGroups"]] == ["sg-2", "sg-2b"]
    assert shown["PendingModifiedValues"] == {}
    after = moving.record
    assert (after.db_instance_identifier, after.dbi_resource_id) == ("db1", before.dbi_resource_id)
    assert (after.vpc_id, after.subnet_id, after.availability_zone) == ("vpc-2", "subnet-x", "us-east-1a")
    assert after.restart_token == before.restart_token + 1  # nobody stays connected from the old network
    assert moving.rds.get(NetworkInterface, before.network_interface_id) is None
    interface = moving.rds.get(NetworkInterface, after.network_interface_id)
    assert (interface.subnet_id, interface.vpc_id) == ("subnet-x", "vpc-2")
    assert moving.members("sg-vpc-1") == []  # who admits the members of its old group admits it no more
    assert ADDRESS in moving.members("sg-2") and ADDRESS in moving.members("sg-2b")
    assert [job.program for job in moving.rds.jobs() if job.program.startswith("modify")] == ["modify_db_instance"]


def test_in_the_window(moving: Moving) -> None:
    shown = moving.modify(**FAR)
    assert shown["PendingModifiedValues"] == {"DBSubnetGroupName": "far"}
    assert shown["DBSubnetGroup"]["VpcId"] == "vpc-1"
    assert [one["VpcSecurityGroupId"] for one in shown["VpcSecurityGroups"]] == ["sg-vpc-1"]
    with moving.rds.store.read() as tx:
        revision = current_revision(tx, SecurityGroupRevision, moving.rds.scope)
    after = moving.window()
    assert (after.change, after.vpc_id, after.vpc_security_group_ids) == ("moving-to-vpc", "vpc-2", ("sg-2", "sg-2b"))
    assert not after.pending
    with moving.rds.store.read() as tx:
        assert (
            current_revision(tx, SecurityGroupRevision, moving.rds.scope) > revision
        )  # what pushes access lists sees it


def test_taken_back(moving: Moving) -> None:
    moving.modify(**FAR)
    shown = moving.modify(DBSubnetGroupName="mine")
    assert shown["PendingModifiedValues"] == {} and not moving.record.pending


def test_within_the_vpc(moving: Moving) -> None:
    shown = moving.modify(DBSubnetGroupName="near", ApplyImmediately=True)
    assert shown["DBInstanceStatus"] == "modifying"
    after = moving.record
    assert (after.subnet_id, after.vpc_security_group_ids) == ("subnet-a2", ("sg-vpc-1",))
    assert moving.rds.get(NetworkInterface, after.network_interface_id).subnet_id == "subnet-a2"


def test_refusals(moving: Moving) -> None:
    different = "InvalidParameterCombination: The DB instance and EC2 security group are in different VPCs."
    assert moving.refused(DBSubnetGroupName="far").startswith(different)  # its present groups cannot go with it
    assert moving.refused(DBSubnetGroupName="far", VpcSecurityGroupIds=["sg-vpc-1"]).startswith(different)
    assert moving.refused(VpcSecurityGroupIds=["sg-2"]).startswith(different)
    assert moving.refused(DBSubnetGroupName="no").startswith("DBSubnetGroupNotFoundFault")
    cannot = "InvalidVPCNetworkStateFault: DB instance db1 cannot move to vpc-2: "
    assert moving.refused(**FAR, MultiAZ=True).startswith(cannot + "it is a Multi-AZ DB instance")
    moving.set(source_dbi_resource_id="db-OTHER")
    assert moving.refused(**FAR).startswith(cannot + "it is a read replica")
    moving.set(source_dbi_resource_id="")
    moving.rds.instance("rep", source_dbi_resource_id=moving.record.dbi_resource_id)
    assert moving.refused(**FAR).startswith(cannot + "it has read replicas")
    assert moving.record.vpc_id == "vpc-1" and not moving.record.pending


def test_one_that_is_public_needs_a_gateway_there(moving: Moving) -> None:
    moving.set(publicly_accessible=True)
    assert "no internet gateway" in moving.refused(**FAR)
    shown = moving.modify(**FAR, PubliclyAccessible=False, ApplyImmediately=True)
    assert shown["PubliclyAccessible"] is False
    moving.set(publicly_accessible=True, change="", vpc_id="vpc-1")
    moving.rds.insert(InternetGateway(scope=moving.rds.scope, gateway_id="igw-2", vpc_id="vpc-2"))
    moving.modify(**FAR)


def test_multi_az_waits_for_the_move(moving: Moving) -> None:
    moving.modify(**FAR)
    assert "will move to another VPC" in moving.refused(MultiAZ=True)


@pytest.mark.parametrize("gone", ["group", "replica"])
def test_what_has_come_between_is_told_and_the_rest_goes_on(moving: Moving, gone: str) -> None:
    moving.modify(**FAR, DBInstanceClass="db.t3.small")
    if gone == "group":
        with moving.rds.store.transaction() as tx:
            tx.delete(moving.rds.get(SecurityGroup, "sg-2b"))
    else:
        moving.rds.instance("rep", source_dbi_resource_id=moving.record.dbi_resource_id)
    after = moving.window()
    assert (after.vpc_id, after.db_subnet_group_name, after.db_instance_class) == ("vpc-1", "mine", "db.t3.small")
    assert after.vpc_security_group_ids == ("sg-vpc-1",) and not after.pending
    assert [one.message for one in moving.rds.events() if "was not moved to DB subnet group far" in one.message]
