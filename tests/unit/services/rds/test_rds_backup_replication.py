"""Replicated automated backups in the API, and what their program does with what it finds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from harness.encryption import add_key
from harness.rds_backups import SeenFleet, backed_up, create, facts, finished, prepare, programs, repositories
from harness.rds_calls import Rds
from mainstay.engines.registry import Engines
from mainstay.host.vault import Vault
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_snapshot import DBInstanceAutomatedBackup, DBSnapshot
from mainstay.model.node import ArchiveStatus
from mainstay.model.records import Scope
from mainstay.model.repository_job import JobKind, JobPhase, JobStatus, LogPromise, RepositoryJob
from mainstay.workflows.engine import Next, Outcome, Sleep, Work
from mainstay.workflows.replicate_backups import REPLICATE_BACKUPS

START, STOP = "StartDBInstanceAutomatedBackupsReplication", "StopDBInstanceAutomatedBackupsReplication"
HERE, THERE = Scope("123456789012", "us-east-1"), Scope("123456789012", "us-west-2")


@pytest.fixture
def fleet(rds: Rds, group: str) -> SeenFleet:
    return prepare(rds)


@pytest.fixture
def source(rds: Rds, fleet: SeenFleet) -> DBInstance:
    """With a backup, and log up to a moment; the calls come to the other region from now on."""
    instance = create(rds, BackupRetentionPeriod=3)
    backed_up(rds, instance, 1000.0)
    row = rds.get(DBSnapshot, "rds:db1-0")
    with rds.store.transaction() as tx:
        tx.put(msgspec.structs.replace(row, backup=placed("b0", 1000.0, "0/2000028", "0/2000100")))
    fleet.archive = ArchiveStatus(latest_restorable_at=5000.0, timeline="00000001", position="0/5000000")
    rds.scope = THERE
    return instance


def placed(backup_id: str, at: float, start: str, stop: str) -> Any:
    return msgspec.structs.replace(facts(backup_id, at), start_position=start, stop_position=stop)


def start(rds: Rds, source: DBInstance, **members: Any) -> dict[str, Any]:
    shown: dict[str, Any] = rds.call(START, SourceDBInstanceArn=source.arn, **members)["DBInstanceAutomatedBackup"]
    return shown


def copy_of(rds: Rds, source: DBInstance) -> DBInstanceAutomatedBackup:
    found: DBInstanceAutomatedBackup = rds.get(DBInstanceAutomatedBackup, source.dbi_resource_id)
    return found


def test_what_is_recorded_and_shown(rds: Rds, source: DBInstance) -> None:
    shown = start(rds, source)
    assert (shown["Status"], shown["BackupRetentionPeriod"], shown["Region"]) == ("pending", 7, "us-east-1")
    assert shown["DBInstanceArn"] == source.arn and "RestoreWindow" not in shown
    assert shown["DBInstanceAutomatedBackupsArn"].startswith("arn:aws:rds:us-west-2:123456789012:auto-backup:ab-")
    here, there = repositories(rds)
    assert here.sealed_data_key != there.sealed_data_key and there.prefix.startswith("123456789012/us-west-2/")
    assert ("replicate_backups", "backup-copy") in programs(rds)
    (described,) = rds.call("DescribeDBInstanceAutomatedBackups",
                            DBInstanceAutomatedBackupsArn=shown["DBInstanceAutomatedBackupsArn"],
                            )["DBInstanceAutomatedBackups"]  # fmt: skip
    assert described["DBInstanceAutomatedBackupsReplications"] == []
    rds.scope = HERE
    named = [{"DBInstanceAutomatedBackupsArn": shown["DBInstanceAutomatedBackupsArn"]}]
    (instance,) = rds.call("DescribeDBInstances")["DBInstances"]
    assert instance["DBInstanceAutomatedBackupsReplications"] == named
    (own,) = rds.call("DescribeDBInstanceAutomatedBackups")["DBInstanceAutomatedBackups"]
    assert own["DBInstanceAutomatedBackupsReplications"] == named


def test_what_is_refused(rds: Rds, source: DBInstance) -> None:
    def refused(operation: str = START, arn: str = source.arn, **members: Any) -> str:
        return str(rds.refused(operation, SourceDBInstanceArn=arn, **members))

    assert refused(arn="db1").startswith("InvalidParameterValue: The parameter SourceDBInstanceArn is not the ARN")
    assert refused(arn=source.arn.replace("us-east-1", "us-west-2")).endswith("us-west-2 is the source's own.")
    assert refused(arn=source.arn + "x").startswith("DBInstanceNotFoundFault")
    assert refused(arn=source.arn.replace("123456789012", "999999999999")).startswith("DBInstanceNotFoundFault")
    for days in (0, 36):
        assert refused(BackupRetentionPeriod=days).startswith("InvalidParameterValue: Invalid backup retention period")
    assert refused(KmsKeyId="alias/x").startswith("InvalidParameterCombination: KmsKeyId can't be specified")
    assert "are not replicated to us-west-2" in refused(STOP)
    start(rds, source)
    assert refused().startswith("InvalidDBInstanceAutomatedBackupStateFault")
    rds.scope = HERE
    rds.call("ModifyDBInstance", DBInstanceIdentifier="db1", BackupRetentionPeriod=0, ApplyImmediately=True)
    rds.scope = Scope("123456789012", "eu-west-1")
    assert refused().startswith("InvalidDBInstanceStateFault: Automated backups are not enabled")


def test_an_encrypted_source_needs_a_key_of_the_region(rds: Rds, fleet: SeenFleet) -> None:
    vault = rds.collaborators[Vault]
    here, there = add_key(rds.store, vault, HERE, 1, ""), add_key(rds.store, vault, THERE, 2, "")
    instance = create(rds, StorageEncrypted=True, KmsKeyId=here.key_id)
    rds.scope = THERE
    said = rds.refused(START, SourceDBInstanceArn=instance.arn)
    assert said.startswith("InvalidParameterCombination: KmsKeyId must be specified")
    shown = start(rds, instance, KmsKeyId=there.arn)
    assert (shown["KmsKeyId"], shown["Encrypted"]) == (there.arn, True)
    (_own, copied) = repositories(rds)
    assert copied.kms_key_id == there.arn


def test_stopping_what_has_nothing_yet_leaves_nothing(rds: Rds, source: DBInstance) -> None:
    start(rds, source)
    stopped = rds.call(STOP, SourceDBInstanceArn=source.arn)["DBInstanceAutomatedBackup"]
    assert stopped["Status"] == "retained" and copy_of(rds, source) is None
    assert not [job for job in rds.jobs() if job.program == "replicate_backups"]


class Steps:
    """The program of the one copy, a step at a time."""

    def __init__(self, rds: Rds, fleet: SeenFleet) -> None:
        self.rds, self.fleet = rds, fleet
        self.orders: list[RepositoryJob] = []
        self.fleet.start_job = self._ordered  # type: ignore[attr-defined]
        self.fleet.forget_job = self._forgotten  # type: ignore[attr-defined]
        self.tools = SimpleNamespace(
            store=rds.store, fleet=fleet, clock=rds.clock, randomness=rds.randomness, settings=rds.settings,
            vault=rds.collaborators[Vault], engines=rds.collaborators[Engines],
        )  # fmt: skip
        (self.job,) = [job for job in rds.jobs() if job.program == "replicate_backups"]

    async def _ordered(self, order: RepositoryJob) -> None:
        self.orders.append(order)
        self.fleet.jobs[order.job_id] = JobStatus(job_id=order.job_id, subject=order.subject, phase=JobPhase.RUNNING)

    async def _forgotten(self, job_id: str) -> None:
        self.fleet.jobs.pop(job_id, None)

    async def step(self) -> Outcome:
        """What the present step comes to, in force."""
        outcome = await REPLICATE_BACKUPS.steps[self.job.step].run(Work(self.job, cast(Any, self.tools)))
        if isinstance(outcome, Next):
            with self.rds.store.transaction() as tx:
                outcome.record(tx)
            frame = {**self.job.frame, **(outcome.frame or {})}
            self.job = msgspec.structs.replace(self.job, step=outcome.step, frame=frame)
        return outcome

    async def until_sleep(self) -> None:
        while not isinstance(await self.step(), Sleep):
            pass

    def backed_up(self, name: str, backup: Any) -> None:
        """The copied backup is complete."""
        row = self.rds.get(DBSnapshot, name)
        with self.rds.store.transaction() as tx:
            tx.put(msgspec.structs.replace(row, status="available", backup=backup))
            for job in tx.jobs(row.subject):
                tx.finish_job(job)

    def log_copied(self, **outcome: Any) -> None:
        """The last order has ended so."""
        job_id = self.orders[-1].job_id
        values = {"phase": JobPhase.DONE} | outcome
        self.fleet.jobs[job_id] = JobStatus(job_id=job_id, subject=self.job.subject, **values)


async def test_a_backup_then_the_log_behind_it_then_what_is_new(rds: Rds, source: DBInstance, fleet: SeenFleet) -> None:
    start(rds, source)
    steps = Steps(rds, fleet)
    await steps.until_sleep()
    row = rds.get(DBSnapshot, "rds:db1-0-us-east-1")
    assert (row.status, row.backup_id, row.snapshot_type) == ("creating", "b0", "automated")
    steps.backed_up(row.db_snapshot_identifier, placed("b0", 1000.0, "0/2000028", "0/2000100"))
    await steps.until_sleep()
    assert copy_of(rds, source).status == "pending", "nothing is promised before there is log"
    (order,) = steps.orders
    assert order.kind is JobKind.COPY_LOG and order.promised == LogPromise(
        timeline="00000001", start_position="0/2000028", end_position="0/5000000"
    )
    fleet.archive = ArchiveStatus(latest_restorable_at=5500.0, timeline="00000001", position="0/5800000")
    steps.log_copied()
    for _ in range(2):
        await steps.step()
    copy = copy_of(rds, source)
    assert (copy.status, copy.latest_restorable_at) == ("replicating", 5000.0), "what was promised when it was ordered"
    await steps.until_sleep()
    assert steps.orders[-1].promised == LogPromise(
        timeline="00000001", start_position="0/5000000", end_position="0/5800000"
    )
    # After a failover the new history is copied from a backup that the old one had reached.
    steps.log_copied()
    fleet.archive = ArchiveStatus(latest_restorable_at=6000.0, timeline="00000002", position="0/5900000")
    await steps.until_sleep()
    promised = steps.orders[-1].promised
    assert promised is not None and (promised.timeline, promised.start_position) == ("00000002", "0/2000028")
    (shown,) = rds.call("DescribeDBInstanceAutomatedBackups")["DBInstanceAutomatedBackups"]
    assert shown["RestoreWindow"] == {"EarliestTime": 1000.0, "LatestTime": 5500.0}


async def test_log_that_the_source_has_not_got_any_more(rds: Rds, source: DBInstance, fleet: SeenFleet) -> None:
    """The window ends there, until a later backup begins a new one."""
    start(rds, source)
    steps = Steps(rds, fleet)
    await steps.until_sleep()
    steps.backed_up("rds:db1-0-us-east-1", placed("b0", 1000.0, "0/2000028", "0/2000100"))
    await steps.until_sleep()
    steps.log_copied()
    fleet.archive = ArchiveStatus(latest_restorable_at=9000.0, timeline="00000001", position="0/9000000")
    await steps.until_sleep()
    steps.log_copied(phase=JobPhase.FAILED, failure="the log segment is missing", fatal=True)
    await steps.until_sleep()
    copy = copy_of(rds, source)
    assert copy.copy_failure == "the log segment is missing" and copy.latest_restorable_at == 5000.0
    rds.scope = HERE
    row = rds.get(DBSnapshot, "rds:db1-0")
    newer = placed("b1", 8000.0, "0/8000028", "0/8000100")
    rds.insert(msgspec.structs.replace(row, db_snapshot_identifier="rds:db1-1", backup_id="b1", backup=newer))
    rds.scope = THERE
    rds.clock.advance(3600.0)
    await steps.until_sleep()
    steps.backed_up("rds:db1-1-us-east-1", newer)
    await steps.until_sleep()
    assert steps.orders[-1].promised == LogPromise(
        timeline="00000001", start_position="0/5000000", end_position="0/9000000"
    ), "it goes on where it was, if it can"
    steps.log_copied(phase=JobPhase.FAILED, failure="the log segment is missing", fatal=True)
    await steps.until_sleep()
    (shown,) = rds.call("DescribeDBInstanceAutomatedBackups")["DBInstanceAutomatedBackups"]
    assert shown["Status"] == "replicating"
    rds.clock.advance(3600.0)
    await steps.until_sleep()
    assert steps.orders[-1].promised == LogPromise(
        timeline="00000001", start_position="0/8000028", end_position="0/9000000"
    )
    steps.log_copied()
    await steps.until_sleep()
    (shown,) = rds.call("DescribeDBInstanceAutomatedBackups")["DBInstanceAutomatedBackups"]
    assert shown["RestoreWindow"] == {"EarliestTime": 8000.0, "LatestTime": 9000.0}
    assert copy_of(rds, source).copy_failure == ""


async def test_without_its_source_it_is_retained(rds: Rds, source: DBInstance, fleet: SeenFleet) -> None:
    start(rds, source)
    steps = Steps(rds, fleet)
    await steps.until_sleep()
    steps.backed_up("rds:db1-0-us-east-1", placed("b0", 1000.0, "0/2000028", "0/2000100"))
    await steps.until_sleep()
    steps.log_copied()
    await steps.until_sleep()
    rds.scope = HERE
    rds.call("ModifyDBInstance", DBInstanceIdentifier="db1", BackupRetentionPeriod=0, ApplyImmediately=True)
    finished(rds, "db1")
    rds.scope = THERE
    await steps.until_sleep()
    copy = copy_of(rds, source)
    assert copy.status == "retained" and copy.retained_since and steps.job.step == "expire_retained"
    rds.call("DeleteDBInstanceAutomatedBackup", DbiResourceId=source.dbi_resource_id)
    assert copy_of(rds, source) is None
