"""Events tell how far backups, copies, exports and restores are: to whom, in which words, and nothing twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from harness.encryption import add_key
from harness.rds_backups import SeenFleet, complete, create, facts
from mainstay.control.backup_desk import BackupDesk
from mainstay.host.vault import Vault
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_snapshot import DBInstanceAutomatedBackup, DBSnapshot
from mainstay.model.errors import Permanent
from mainstay.model.node import Node, NodePhase, RestoreProgress
from mainstay.model.rds_event import CATEGORIES
from mainstay.model.repository_job import JobPhase, JobStatus
from mainstay.store import Event, StoreFull, Transaction
from mainstay.workflows.engine import Tools, Worker, new_job
from mainstay.workflows.make_db_snapshot import MAKE_SNAPSHOT
from mainstay.workflows.programs import PROGRAMS
from mainstay.workflows.progress import FRAME

MIB = 1 << 20
TOLD = {"MAINSTAY-EVENT-0007", "MAINSTAY-EVENT-0008", "MAINSTAY-EVENT-0009", "MAINSTAY-EVENT-0010"}


class Following(SeenFleet):
    """Agents that take orders and say of them what the test says."""

    async def start_job(self, job: Any) -> None:
        self.jobs.setdefault(job.job_id, JobStatus(job_id=job.job_id, subject=job.subject, phase=JobPhase.RUNNING))

    async def put_node(self, spec: Any) -> None:
        """They see what the test says."""

    async def forget_job(self, job_id: str) -> None:
        self.jobs.pop(job_id, None)


class Bench:
    """The real worker over the service's store, on a clock that the test holds."""

    def __init__(self, rds: Any, desk: BackupDesk, fleet: SeenFleet) -> None:
        self.rds, self.fleet = rds, Following()
        self.fleet.__dict__.update(fleet.__dict__)
        self.tools: Tools = desk._tools
        object.__setattr__(self.tools, "fleet", self.fleet)

    async def look(self, after_s: float = 0.0) -> None:
        """One more turn of the crank by a worker that knows nothing of before, `after_s` later."""
        self.rds.clock.advance(after_s)
        worker = Worker(PROGRAMS, self.tools)
        for job in self.rds.jobs():
            worker.wake(job.subject)
        for _ in range(3):
            await worker.drain()

    def note(self, job_id: str, done_mib: int, **members: Any) -> None:
        """What the agents say of a job of 100 MiB that began at the start."""
        began = {"started_at": self.began, "bytes_done": done_mib * MIB, "bytes_total": 100 * MIB}
        self.fleet.jobs[job_id] = msgspec.structs.replace(self.fleet.jobs[job_id], **(began | members))

    def begin(self) -> None:
        self.began = self.rds.clock.wall()

    @property
    def told(self) -> list[tuple[str, str, str]]:
        """Events of progress: whose, of which kind of source and what, in the order in which they were recorded."""
        found: list[Event] = [event for event in self.rds.events() if event.event_id in TOLD]
        for event in found:
            assert event.categories[0] in CATEGORIES[event.source_type], event
        return [(event.source_type, event.categories[0], event.message) for event in found]


@pytest.fixture
def bench(rds: Any, desk: BackupDesk, fleet: SeenFleet) -> Bench:
    return Bench(rds, desk, fleet)


def snapshot(rds: Any) -> DBSnapshot:
    create(rds, BackupRetentionPeriod=0)
    rds.call("CreateDBSnapshot", DBSnapshotIdentifier="one", DBInstanceIdentifier="db1")
    row: DBSnapshot = rds.get(DBSnapshot, "one")
    return row


async def test_a_snapshot_tells_its_instance_and_itself(rds: Any, bench: Bench) -> None:
    row = snapshot(rds)
    await bench.look()
    bench.begin()
    bench.note(row.job_id, 0)
    await bench.look(59)
    bench.note(row.job_id, 20)
    assert bench.told == []
    await bench.look(1)
    words = "in progress: 20.0 MiB of 100.0 MiB (20 %), 341.3 KiB/s, 4 min left"
    first = [
        ("db-snapshot", "creation", f"Creation of the snapshot {words}"),
        ("db-instance", "backup", f"Backup {words}"),
    ]
    assert bench.told == first
    bench.note(row.job_id, 60)
    for _ in range(4):
        await bench.look(70)
    assert bench.told == first, "seldom"
    await bench.look(20)
    assert len(bench.told) == 4 and "60 %" in bench.told[-1][2]
    for _ in range(5):
        await bench.look(100)
    assert len(bench.told) == 4, "nothing more has been done"
    bench.note(row.job_id, 100, phase=JobPhase.DONE)
    await bench.look(100)
    assert len(bench.told) == 4


async def test_a_crash_between_step_and_record_tells_it_once(rds: Any, bench: Bench, monkeypatch: Any) -> None:
    """The event is there exactly if it is remembered that it was told."""
    row = snapshot(rds)
    await bench.look()
    bench.begin()
    bench.note(row.job_id, 50)
    rightly = rds.store.transaction

    @contextmanager
    def full() -> Iterator[Transaction]:
        with rightly() as tx:
            yield tx
            raise StoreFull("no space left")

    monkeypatch.setattr(rds.store, "transaction", full)
    await bench.look(60)
    assert bench.told == [] and all(FRAME not in job.frame for job in rds.jobs())
    monkeypatch.undo()
    for _ in range(3):
        await bench.look(1)
    assert len(bench.told) == 2


async def test_an_attempt_that_is_made_anew_does_not_begin_to_tell_anew(rds: Any, bench: Bench) -> None:
    row = snapshot(rds)
    await bench.look()
    bench.begin()
    bench.note(row.job_id, 90)
    await bench.look(60)
    assert len(bench.told) == 2
    bench.fleet.jobs.clear()  # an agent that was killed knows no jobs
    await bench.look(10)
    bench.begin()
    bench.note(row.job_id, 10)
    await bench.look(100)
    assert len(bench.told) == 2
    await bench.look(200)
    assert len(bench.told) == 4 and "10 %" in bench.told[-1][2]


async def test_a_copy_tells_itself_where_it_comes_from(rds: Any, bench: Bench) -> None:
    row = snapshot(rds)
    complete(rds, "one")
    key = add_key(rds.store, rds.collaborators[Vault], rds.scope, 11)
    rds.call("CopyDBSnapshot", SourceDBSnapshotIdentifier="one", TargetDBSnapshotIdentifier="two", KmsKeyId=key.key_id)
    copy: DBSnapshot = rds.get(DBSnapshot, "two")
    assert copy.copy_of is not None and row.db_snapshot_identifier == "one"
    await bench.look()
    bench.begin()
    bench.note(copy.job_id, 25)
    await bench.look(60)
    (told,) = bench.told
    assert told[:2] == ("db-snapshot", "notification")
    assert told[2].startswith("Copy of snapshot one from region us-east-1 in progress: 25.0 MiB of 100.0 MiB (25 %)")
    bench.note(copy.job_id, 100, phase=JobPhase.DONE, backup=facts(copy.backup_id, bench.began))
    await bench.look()
    assert "Finished copy of snapshot one from region us-east-1" in [event.message for event in rds.events()]


async def test_a_snapshot_on_its_host_only_tells_that_it_is_being_stored(rds: Any, bench: Bench) -> None:
    row = snapshot(rds)
    await bench.look()
    made = complete(rds, "one")
    with rds.store.transaction() as tx:
        tx.put(msgspec.structs.replace(made, local=True))
    bench.begin()
    with rds.store.transaction() as tx:
        frame = {"db_snapshot_identifier": "one", "backup_id": row.backup_id, "repository_id": row.repository_id,
                 "job_id": row.job_id, "clone": True}  # fmt: skip
        tx.add_job(new_job(MAKE_SNAPSHOT, row.subject, row.scope, rds.clock.wall(), frame))
    await bench.look()
    bench.note(row.job_id, 40)
    await bench.look(60)
    (told,) = bench.told
    assert told[:2] == ("db-snapshot", "notification")
    assert told[2].startswith("Storing of the snapshot in progress: 40.0 MiB of")


async def test_a_verification_tells_whom_it_is_about(
    rds: Any, bench: Bench, desk: BackupDesk, backup: DBInstanceAutomatedBackup
) -> None:
    for name, whose in (("db1", "db-instance"), ("rds:db1-0", "db-snapshot")):
        before = len(bench.told)
        await desk.verify_backups({"name": name})
        (job,) = [one for one in rds.jobs() if one.program == "verify_backups"]
        await bench.look()
        bench.begin()
        bench.note(job.frame["job_id"], 30)
        await bench.look(60)
        (told,) = bench.told[before:]
        assert told[0] == whose and told[2].startswith("Verification") and "30 %" in told[2]
        with rds.store.transaction() as tx:
            tx.finish_job(next(one for one in tx.jobs() if one.program == "verify_backups"))


async def test_a_restore_tells_of_its_files_and_then_of_the_log(rds: Any, bench: Bench) -> None:
    snapshot(rds)
    complete(rds, "one")
    rds.call("RestoreDBInstanceFromDBSnapshot", DBInstanceIdentifier="db2", DBSnapshotIdentifier="one")
    bench.fleet.phase = NodePhase.CREATING
    for done, seconds in ((10, 30.0), (20, 60.0), (30, 90.0)):
        bench.fleet.restore = RestoreProgress(
            phase="files", bytes_done=done * MIB, bytes_total=100 * MIB, seconds=seconds
        )
        await bench.look(30)
    assert rds.get(DBInstance, "db2").change == "creating" and rds.get(Node, rds.get(DBInstance, "db2").node_id)
    words = "Restore in progress: 20.0 MiB of 100.0 MiB (20 %), 341.3 KiB/s, 4 min left"
    assert bench.told == [("db-instance", "restoration", words)]
    bench.fleet.restore = RestoreProgress(phase="log", bytes_done=64 * MIB, seconds=64.0)
    await bench.look(64)
    assert len(bench.told) == 1
    bench.fleet.restore = RestoreProgress(phase="log", bytes_done=640 * MIB, seconds=320.0)
    await bench.look(256)
    assert bench.told[1:] == [("db-instance", "restoration", "Replay of the log in progress: 640.0 MiB, 2.0 MiB/s")]
    bench.fleet.restore = RestoreProgress(phase="paused", position="0/1")
    await bench.look(1000)
    assert len(bench.told) == 2


async def test_an_export_tells_its_snapshot(rds: Any, bench: Bench, desk: BackupDesk) -> None:
    snapshot(rds)
    complete(rds, "one")
    await desk.tell_export({"name": "one", "directory": "/out", "progress": "5 B of 10 B (50 %)"})
    assert bench.told == [
        ("db-snapshot", "notification", "Export of the snapshot to /out in progress: 5 B of 10 B (50 %)")
    ]
    await desk.tell_export({"name": "one", "directory": "/out", "progress": ""})
    assert rds.events()[-1].message == "The DB snapshot one was exported to /out"
    with pytest.raises(Permanent, match="there is no DB snapshot"):
        await desk.tell_export({"name": "nine", "directory": "/out", "progress": ""})
