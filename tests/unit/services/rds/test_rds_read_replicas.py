"""CreateDBInstanceReadReplica, PromoteReadReplica and what replicas change for other operations, without any engine."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from harness.rds_calls import Rds
from mainstay.model.db_instance import DBInstance
from mainstay.model.ec2 import SecurityGroup, Subnet, Vpc
from mainstay.model.node import NodePhase, NodeRole, NodeStatus, ReplicationStatus
from mainstay.model.records import Scope
from mainstay.workflows.fleet import Fleet
from mainstay.workflows.read_replicas import following, independent, leave_deleted_source

PREFIX = "arn:aws:rds:us-east-1:123456789012:db:"
ELSEWHERE = "us-west-2"


class SeenFleet:
    """What the agents are said to see: every node runs, as a primary if nothing else is set."""

    def __init__(self) -> None:
        self.seen: dict[str, NodeStatus] = {}

    def last_seen(self, node_id: str) -> NodeStatus:
        return self.seen.get(node_id) or status(node_id)


def status(node_id: str, **fields: Any) -> NodeStatus:
    values: dict[str, Any] = {
        "node_id": node_id, "dbi_resource_id": "db-X", "db_instance_identifier": "x", "role": NodeRole.PRIMARY,
        "availability_zone": "us-east-1a", "phase": NodePhase.RUNNING, "generation": 1,
    }  # fmt: skip
    return NodeStatus(**values | fields)


@pytest.fixture
def fleet(rds: Rds, group: str) -> SeenFleet:
    """Agents that see what the test says; a default group in each VPC, and a default VPC in another region."""
    seen = SeenFleet()
    rds.collaborators[Fleet] = seen
    for vpc_id in ("vpc-1", "vpc-2"):
        rds.insert(security_group(rds.scope, vpc_id))
    far = Scope(rds.scope.account_id, ELSEWHERE)
    rds.insert(Vpc(scope=far, vpc_id="vpc-far", cidr_block="10.0.0.0/16", cidr_association_id="x", dhcp_options_id="d",
                   is_default=True), security_group(far, "vpc-far"))  # fmt: skip
    for letter in "ab":
        rds.insert(Subnet(scope=far, subnet_id=f"subnet-far-{letter}", vpc_id="vpc-far", cidr_block="10.0.0.0/24",
                          availability_zone=ELSEWHERE + letter, acl_association_id="acl",
                          default_for_az=True))  # fmt: skip
    return seen


def security_group(scope: Scope, vpc_id: str) -> SecurityGroup:
    return SecurityGroup(scope=scope, group_id="sg-" + vpc_id, name="default", description="d", vpc_id=vpc_id)


def source(rds: Rds, identifier: str = "src", **fields: Any) -> DBInstance:
    rds.call("DescribeDBParameters", DBParameterGroupName="default.postgres17")
    rds.call("DescribeOptionGroups", OptionGroupName="default:postgres-17")
    found: DBInstance = rds.instance(
        identifier, **({"instance_create_time": 1.0, "backup_retention_period_days": 1} | fields)
    )
    return found


def replicate(rds: Rds, name: str, of: str = "src", **members: Any) -> dict[str, Any]:
    shown: dict[str, Any] = rds.call(
        "CreateDBInstanceReadReplica", DBInstanceIdentifier=name, SourceDBInstanceIdentifier=of, **members
    )["DBInstance"]
    return shown


def made(rds: Rds, name: str, of: str = "src", **members: Any) -> DBInstance:
    """A replica as it is when its workflow has ended."""
    replicate(rds, name, of, **members)
    stored = rds.get(DBInstance, name)
    for job in rds.jobs():
        with rds.store.transaction() as tx:
            tx.finish_job(job)
    # Backups on, as it may itself be followed.
    stored = msgspec.structs.replace(
        stored, change="", instance_create_time=2.0, replication_status="replicating", backup_retention_period_days=1
    )
    rds.change_instance(stored)
    return stored


def shown(rds: Rds, name: str) -> dict[str, Any]:
    found: dict[str, Any] = rds.call("DescribeDBInstances", DBInstanceIdentifier=name)["DBInstances"][0]
    return found


def test_a_replica_has_what_its_source_has(rds: Rds, fleet: SeenFleet) -> None:
    first = source(rds, db_name="shop", port=6000, allocated_storage_gib=500, iops=13000, storage_throughput=600,
                   copy_tags_to_snapshot=True, deletion_protection=True, tags={"a": "b"})  # fmt: skip
    shape = replicate(rds, "Rep")
    replica = rds.get(DBInstance, "rep")
    for same in ("engine", "engine_version", "db_name", "master_username", "master_password_verifier", "port",
                 "allocated_storage_gib", "iops", "storage_throughput", "db_instance_class", "db_parameter_group_name",
                 "option_group_name", "db_subnet_group_name", "vpc_id", "preferred_backup_window"):  # fmt: skip
        assert getattr(replica, same) == getattr(first, same), same
    assert replica.dbi_resource_id != first.dbi_resource_id and replica.source_dbi_resource_id == first.dbi_resource_id
    assert (replica.tags, replica.copy_tags_to_snapshot, replica.deletion_protection) == ({}, False, False)
    assert replica.vpc_security_group_ids == ("sg-vpc-1",)
    assert shape["DBInstanceStatus"] == "creating" and shape["ReadReplicaSourceDBInstanceIdentifier"] == "src"
    assert "StatusInfos" not in shape
    assert shown(rds, "src")["ReadReplicaDBInstanceIdentifiers"] == ["rep"]
    assert {(job.program, job.subject) for job in rds.jobs()} == {
        ("create_read_replica", f"db:{replica.dbi_resource_id}"),
        ("refresh_db_instance", f"db:{first.dbi_resource_id}"),
    }


def test_what_may_differ_from_the_source(rds: Rds, fleet: SeenFleet) -> None:
    source(rds)
    replicate(rds, "rep", Port=7000, MultiAZ=True, DBInstanceClass="db.t3.small", AllocatedStorage=40,
              StorageType="gp2", DeletionProtection=True, Tags=[{"Key": "k", "Value": "v"}])  # fmt: skip
    replica = rds.get(DBInstance, "rep")
    assert (replica.port, replica.multi_az, replica.db_instance_class) == (7000, True, "db.t3.small")
    assert (replica.storage_type, replica.allocated_storage_gib, replica.iops) == ("gp2", 40, None)
    assert replica.standby_node_id and replica.secondary_availability_zone != replica.availability_zone
    assert replica.tags == {"k": "v"} and replica.deletion_protection


def test_refusals(rds: Rds, fleet: SeenFleet) -> None:
    first = source(rds)
    rds.insert(Subnet(scope=rds.scope, subnet_id="subnet-x2", vpc_id="vpc-2", cidr_block="10.0.0.0/24",
                      availability_zone="us-east-1c", acl_association_id="acl"))  # fmt: skip
    rds.call("CreateDBSubnetGroup", DBSubnetGroupName="other", DBSubnetGroupDescription="d",
             SubnetIds=["subnet-x", "subnet-y"])  # fmt: skip

    def refused(of: str = "src", **members: Any) -> str:
        request = {"DBInstanceIdentifier": "rep", "SourceDBInstanceIdentifier": of, **members}
        said: str = rds.refused("CreateDBInstanceReadReplica", **request)
        return said

    assert refused("absent") == "DBInstanceNotFoundFault: DBInstance absent not found."
    assert refused(PREFIX + "absent").startswith("DBInstanceNotFoundFault")
    assert "this service has us-east-1" in refused("arn:aws:rds:ap-east-1:123456789012:db:src").lower()
    assert refused("arn:aws:rds:us-east-1:999999999999:db:src").startswith("DBInstanceNotFoundFault")
    assert refused("arn:aws:rds:us-east-1:123456789012:pg:src").startswith("InvalidParameterValue")
    assert refused(DBInstanceIdentifier="src").startswith("DBInstanceAlreadyExistsFault")
    assert refused(KmsKeyId="key").startswith("InvalidParameterCombination: KmsKeyId can't be specified")
    assert refused(ReplicaMode="mounted").startswith("InvalidParameterCombination: Replica modes: not available")
    assert refused(AllocatedStorage=5).startswith("InvalidParameterValue")
    assert rds.refused("CreateDBInstanceReadReplica", DBInstanceIdentifier="rep").startswith("MissingParameter")
    rds.change_instance(first, change="modifying")
    assert refused() == "InvalidDBInstanceStateFault: DB instance is not in the available state"
    rds.change_instance(first)
    made(rds, "one")
    assert refused(DBSubnetGroupName="other").startswith("DBSubnetGroupNotAllowedFault")
    assert rds.get(DBInstance, "rep") is None


def test_how_many_and_how_deep(rds: Rds, fleet: SeenFleet) -> None:
    rds.collaborators.update({})
    above = source(rds)
    for number in range(15):
        rds.instance(f"r{number}", source_dbi_resource_id=above.dbi_resource_id, instance_create_time=1.0,
                     backup_retention_period_days=1)  # fmt: skip
    said = rds.refused("CreateDBInstanceReadReplica", DBInstanceIdentifier="x", SourceDBInstanceIdentifier="src")
    assert said == "InstanceQuotaExceededFault: Cannot create more than 15 read replicas of src"
    for number in range(5):
        rds.instance(f"s{number}", source_dbi_resource_id="db-R0", instance_create_time=1.0)
    said = rds.refused("CreateDBInstanceReadReplica", DBInstanceIdentifier="x", SourceDBInstanceIdentifier="r0")
    assert said == "InstanceQuotaExceededFault: Cannot create more than 5 read replicas of r0"
    rds.instance("t0", source_dbi_resource_id="db-S0", instance_create_time=1.0, backup_retention_period_days=1)
    said = rds.refused("CreateDBInstanceReadReplica", DBInstanceIdentifier="x", SourceDBInstanceIdentifier="t0")
    assert said.startswith("InvalidDBInstanceStateFault: DB instance t0 is the last of a chain of 3")


def test_a_replica_of_an_old_engine_feeds_nobody(rds: Rds, fleet: SeenFleet) -> None:
    rules = next(iter(rds.collaborators.values())).rules("postgres")
    old, new = rules.read_replica_limits("14.0"), rules.read_replica_limits("14.1")
    assert (old.per_source, old.per_replica) == (15, 0) and (new.per_replica, new.levels) == (5, 3)


def test_a_replica_in_another_region(rds: Rds, fleet: SeenFleet) -> None:
    first = source(rds, db_parameter_group_name="default.postgres17")
    near, rds.scope = rds.scope, Scope(rds.scope.account_id, ELSEWHERE)
    assert rds.refused(
        "CreateDBInstanceReadReplica", DBInstanceIdentifier="far", SourceDBInstanceIdentifier="src"
    ).startswith("DBInstanceNotFoundFault"), "in another region a source is named by its ARN"
    shape = replicate(rds, "far", first.arn, SourceRegion="us-east-1", PreSignedUrl="https://x")
    assert shape["ReadReplicaSourceDBInstanceIdentifier"] == first.arn
    assert shape["AvailabilityZone"].startswith(ELSEWHERE) and shape["DBSubnetGroup"]["VpcId"] == "vpc-far"
    far, rds.scope = rds.get(DBInstance, "far"), near
    assert shown(rds, "src")["ReadReplicaDBInstanceIdentifiers"] == [far.arn]
    demands = rds.demands("CreateDBInstanceReadReplica", DBInstanceIdentifier="x", SourceDBInstanceIdentifier=far.arn)
    assert demands[1].resource == far.arn and demands[1].context["rds:DatabaseEngine"] == "postgres"


def test_status_infos_tell_what_is_seen(rds: Rds, fleet: SeenFleet) -> None:
    source(rds)
    replica = made(rds, "rep")

    def infos() -> Any:
        return shown(rds, "rep").get("StatusInfos")

    def seen(**fields: Any) -> None:
        fleet.seen[replica.node_id] = status(replica.node_id, role=NodeRole.REPLICA, **fields)

    seen(replication=ReplicationStatus(streaming=True, lag_s=70.0))
    assert infos() == [{"StatusType": "read replication", "Normal": True, "Status": "replicating"}]
    seen(replication=ReplicationStatus(streaming=False, message="gone"))
    assert infos() == [{"StatusType": "read replication", "Normal": False, "Status": "error", "Message": "gone"}]
    for phase in (NodePhase.RUNNING, NodePhase.STARTING):
        seen(phase=phase, storage_full=True, replication=ReplicationStatus(streaming=True, lag_s=0.0, lag_bytes=0))
        assert (infos()[0]["Status"], infos()[0]["Normal"]) == ("error", False)
        assert "storage of the read replica is full" in infos()[0]["Message"]
        assert shown(rds, "rep")["DBInstanceStatus"] == "storage-full"
    seen(phase=NodePhase.STARTING)
    assert infos()[0]["Status"] == "error"
    seen()
    assert infos()[0]["Status"] == "replicating"
    rds.change_instance(replica, replication_status="terminated")
    assert (infos()[0]["Status"], infos()[0]["Normal"]) == ("terminated", False)
    assert "StatusInfos" not in shown(rds, "src")


def test_promotion_takes_the_replica_out_of_the_chain_and_keeps_its_own_replicas(rds: Rds, fleet: SeenFleet) -> None:
    first = source(rds)
    made(rds, "rep")
    made(rds, "below", "rep")
    assert rds.refused("PromoteReadReplica", DBInstanceIdentifier="src") == (
        "InvalidDBInstanceStateFault: DB Instance is not a read replica."
    )
    said = rds.refused("PromoteReadReplica", DBInstanceIdentifier="rep", BackupRetentionPeriod=36)
    assert said.startswith("InvalidParameterValue: Invalid backup retention period: 36")
    said = rds.refused("PromoteReadReplica", DBInstanceIdentifier="rep", BackupRetentionPeriod=0)
    assert said.startswith("InvalidParameterCombination: Automated backups of a read replica that has them")
    shape = rds.call("PromoteReadReplica", DBInstanceIdentifier="rep", BackupRetentionPeriod=7,
                     PreferredBackupWindow="10:00-10:30")["DBInstance"]  # fmt: skip
    assert shape["BackupRetentionPeriod"] == 7
    assert shape["DBInstanceStatus"] == "modifying" and shape["PreferredBackupWindow"] == "10:00-10:30"
    assert "ReadReplicaSourceDBInstanceIdentifier" not in shape and "StatusInfos" not in shape
    assert shape["ReadReplicaDBInstanceIdentifiers"] == ["below"]
    assert shown(rds, "src")["ReadReplicaDBInstanceIdentifiers"] == []
    programs = {(job.program, job.subject) for job in rds.jobs()}
    promoted = rds.get(DBInstance, "rep")
    assert programs == {
        ("promote_read_replica", f"db:{promoted.dbi_resource_id}"),
        ("refresh_db_instance", f"db:{first.dbi_resource_id}"),
    }
    assert rds.refused("PromoteReadReplica", DBInstanceIdentifier="rep").endswith("DB Instance is not a read replica.")


def test_what_replicas_forbid(rds: Rds, fleet: SeenFleet) -> None:
    source(rds)
    made(rds, "rep")
    assert rds.refused("StopDBInstance", DBInstanceIdentifier="rep") == (
        "InvalidDBInstanceStateFault: Cannot stop or start a Read-Replica instance"
    )
    assert rds.refused("StopDBInstance", DBInstanceIdentifier="src").startswith("InvalidDBInstanceStateFault: Cannot")
    assert rds.refused("DeleteDBInstance", DBInstanceIdentifier="rep", FinalDBSnapshotIdentifier="s") == (
        "InvalidParameterCombination: FinalDBSnapshotIdentifier can not be specified when deleting a replica instance"
    )
    said = rds.refused("ModifyDBInstance", DBInstanceIdentifier="rep", MasterUserPassword="secret-enough")
    assert said == (
        "InvalidParameterCombination: Cannot change master user password on an RDS postgres Read Replica because it"
        " uses physical replication and therefore cannot differ from its parent."
    )
    replicate(rds, "new")
    said = rds.refused("DeleteDBInstance", DBInstanceIdentifier="src", SkipFinalSnapshot=True)
    assert said.startswith("InvalidDBInstanceStateFault") and "new is being created" in said


def test_a_new_password_of_the_source_is_the_replicas_too(rds: Rds, fleet: SeenFleet) -> None:
    source(rds)
    made(rds, "rep")
    made(rds, "below", "rep")
    rds.call("ModifyDBInstance", DBInstanceIdentifier="src", MasterUserPassword="another-secret")
    verifiers = {rds.get(DBInstance, name).master_password_verifier for name in ("src", "rep", "below")}
    assert len(verifiers) == 1 and verifiers != {"x"}


def test_a_source_that_is_renamed_stays_the_source(rds: Rds, fleet: SeenFleet) -> None:
    source(rds)
    made(rds, "rep")
    rds.call("ModifyDBInstance", DBInstanceIdentifier="src", NewDBInstanceIdentifier="new", ApplyImmediately=True)
    assert shown(rds, "rep")["ReadReplicaSourceDBInstanceIdentifier"] == "new"


def test_the_replicas_of_a_deleted_source(rds: Rds, fleet: SeenFleet) -> None:
    first = source(rds)
    far_scope = Scope(rds.scope.account_id, ELSEWHERE)
    made(rds, "near")
    link = {"source_dbi_resource_id": first.dbi_resource_id, "source_identifier": "src"}
    rds.instance("failed", failure="no", **link)
    rds.instance("leaving", change="deleting", instance_create_time=1.0, **link)
    rds.instance("far", scope=far_scope, instance_create_time=1.0, replication_status="error", **link)
    with rds.store.transaction() as tx:
        tx.delete(first)
        leave_deleted_source(tx, rds.clock, first)
    near, failed, leaving = (rds.get(DBInstance, one) for one in ("near", "failed", "leaving"))
    with rds.store.read() as view:
        far = view.get(DBInstance, far_scope, "far")
    assert far is not None
    assert (near.change, near.source_dbi_resource_id) == ("modifying", "")
    assert [job.subject for job in rds.jobs() if job.program == "promote_read_replica"] == [
        f"db:{near.dbi_resource_id}"
    ], "an instance whose creation failed has no data to lead with"
    assert (leaving.change, leaving.source_dbi_resource_id) == ("deleting", first.dbi_resource_id)
    for terminated in (failed, far):
        assert terminated.replication_status == "terminated" and terminated.source_identifier == first.arn
        assert terminated.source_dbi_resource_id, "it must not take itself for a primary"


def test_when_the_workflows_have_ended(rds: Rds) -> None:
    class Spec(msgspec.Struct):
        generation: int = 3
        restart_token: int = 0

    def seen(role: NodeRole, replication: ReplicationStatus | None = None, generation: int = 3) -> NodeStatus:
        return status("n", role=role, settled_generation=generation, started_for=0, replication=replication)

    spec: Any = Spec()
    streaming, waiting = ReplicationStatus(streaming=True), ReplicationStatus(streaming=False)
    assert following(spec, seen(NodeRole.REPLICA, streaming)) and following(spec, seen(NodeRole.STANDBY))
    assert not following(spec, seen(NodeRole.REPLICA)) and not following(spec, seen(NodeRole.REPLICA, waiting))
    assert not following(spec, seen(NodeRole.REPLICA, streaming, generation=2))
    assert independent(spec, seen(NodeRole.PRIMARY)) and independent(spec, seen(NodeRole.STANDBY))
    assert not independent(spec, seen(NodeRole.REPLICA, streaming))
