"""What `mainstay backups` is told by the control process: rows, unclear names, proofs, restores to a position."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from harness.rds_backups import DAY_S, SeenFleet, create, facts, repositories
from harness.rds_calls import Rds
from mainstay.control.backup_desk import BackupDesk
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_snapshot import DBInstanceAutomatedBackup, DBSnapshot, Proof
from mainstay.model.errors import Permanent
from mainstay.model.node import ArchiveStatus, RestoreProgress, RestoreTarget
from mainstay.model.repository_job import JobPhase, JobStatus, LogPromise, LostLog
from mainstay.services.rds.promises import log_promise
from mainstay.services.rds.restore_test_request import is_due
from mainstay.store import Job
from mainstay.workflows.automated_backups import AUTOMATED_BACKUPS, note_archive
from mainstay.workflows.engine import Next, Work, new_job
from mainstay.workflows.proofs import DAMAGES_MAX, proof_of, words
from mainstay.workflows.verify_backups import _record

NOW = 1_800_000_000.0


async def test_a_row_says_what_is_promised_and_how_it_was_proven(
    rds: Rds, desk: BackupDesk, backup: DBInstanceAutomatedBackup, fleet: SeenFleet
) -> None:
    rows = await desk.list_backups({})
    (row,) = [one for one in rows if one["kind"] == "automated"]
    now = rds.clock.wall()
    assert (row["instance"], row["backups"], row["lag_s"], row["verified"]) == ("db1", 2, 3.0, None)
    assert row["earliest_at"] == pytest.approx(now - 2 * DAY_S, abs=1) and row["latest_at"] == now - 3.0
    (repository,) = repositories(rds)
    proof = Proof(at=now, seconds=2.0, damages=("x",))
    with rds.store.transaction() as tx:
        tx.put(msgspec.structs.replace(repository, verified=proof))
    fleet.archive = ArchiveStatus(failure="the object storage is away", gap_at=now - 60)
    (row,) = [one for one in await desk.list_backups({"instance": "db1"}) if one["kind"] == "automated"]
    assert row["lag_s"] is None and row["gap_at"] == now - 60 and row["archive_failure"] == "the object storage is away"
    assert list(row["verified"]["damages"]) == ["x"] and row["gap_open"] and not row["verified"]["good"]
    assert next(one for one in rows if one["name"] == "rds:db1-1")["kind"] == "automated snapshot"
    assert await desk.list_backups({"instance": "other"}) == []


async def test_a_verification_is_joined_shown_and_ended(
    rds: Rds, desk: BackupDesk, backup: DBInstanceAutomatedBackup, fleet: SeenFleet
) -> None:
    ticket = await desk.verify_backups({"name": "DB1"})
    assert (await desk.verify_backups({"name": backup.facts.dbi_resource_id}))["subject"] == ticket["subject"]
    with pytest.raises(Permanent, match="another verification"):
        await desk.verify_backups({"name": "rds:db1-0"})
    (job,) = [one for one in rds.jobs() if one.program == "verify_backups"]
    fleet.jobs[job.frame["job_id"]] = JobStatus(
        job_id="j", subject="s", phase=JobPhase.RUNNING, bytes_done=5, bytes_total=10
    )
    look = await desk.look_at_ticket(ticket)
    assert (look["running"], look["bytes_done"], look["bytes_total"]) == (True, 5, 10)
    (repository,) = repositories(rds)
    with rds.store.transaction() as tx:
        tx.finish_job(job)
    with pytest.raises(Permanent, match="without an outcome"):
        await desk.look_at_ticket(ticket)
    with rds.store.transaction() as tx:
        tx.put(msgspec.structs.replace(repository, verified=Proof(at=rds.clock.wall(), seconds=1.0)))
    assert (await desk.look_at_ticket(ticket))["proof"]["damages"] == []


async def test_names_that_are_not_clear_are_explained(
    rds: Rds, desk: BackupDesk, backup: DBInstanceAutomatedBackup
) -> None:
    with pytest.raises(Permanent, match="no automated backups of a DB instance 'db9'"):
        await desk.verify_backups({"name": "db9"})
    with pytest.raises(Permanent, match="not what was expected"):
        await desk.verify_backups({"nam": "db1"})
    row = rds.get(DBSnapshot, "rds:db1-0")
    rds.insert(msgspec.structs.replace(row, db_snapshot_identifier="db1", snapshot_type="manual"))
    with pytest.raises(Permanent, match="'db1' names 2 things"):
        await desk.verify_backups({"name": "db1"})
    assert (await desk.verify_backups({"name": backup.arn}))["snapshot"] == ""


async def further(desk: BackupDesk, *, target: str = "db2", paused: bool = False, **place: Any) -> Any:
    return await desk.restore_further({"name": "db1", "target": target, "place": place, "paused": paused})


async def test_a_restore_to_a_place_takes_the_right_base(
    rds: Rds, desk: BackupDesk, backup: DBInstanceAutomatedBackup
) -> None:
    rows = [rds.get(DBSnapshot, name) for name in ("rds:db1-0", "rds:db1-1")]
    for row, stop in zip(rows, ("0/3000100", "0/7000100"), strict=True):
        assert row.backup is not None
        facts = msgspec.structs.replace(row.backup, stop_position=stop)
        with rds.store.transaction() as tx:
            tx.put(msgspec.structs.replace(row, backup=facts))
    places: tuple[tuple[dict[str, Any], str], ...] = (
        ({"position": "0/7000100"}, "b1"), ({"position": "0/70000FF"}, "b0"), ({"transaction": "777"}, "b0"),
    )  # fmt: skip
    for given, base in places:
        assert await further(desk, **given) == "db2"
        made = rds.get(DBInstance, "db2")
        assert made.restore_from.backup_id == base
        assert made.restore_from.target == RestoreTarget(timeline="00000001", **given)
        with rds.store.transaction() as tx:
            tx.delete(made)
    refusals: tuple[tuple[dict[str, Any], str], ...] = (
        ({"position": "0/9000001"}, "not in the log yet, which is kept up to 0/9000000"),
        ({"position": "0/3000000"}, "No automated backup leads to this place"),
        ({"position": "here"}, "Invalid log sequence number"),
        ({"transaction": "2"}, "Invalid transaction id"),
        ({}, "Exactly one of"),
        ({"position": "0/7000100", "transaction": "7"}, "Exactly one of"),
        ({"position": "0/7000100", "target": "db1"}, "already exists"),
    )  # fmt: skip
    for given, text in refusals:
        with pytest.raises(Permanent, match=text):
            await further(desk, **given)


async def test_a_paused_restore_is_moved_on_and_opened(
    rds: Rds, desk: BackupDesk, backup: DBInstanceAutomatedBackup, fleet: SeenFleet
) -> None:
    now = rds.clock.wall()
    at = float(int(now - 3600))
    await further(desk, at=at, paused=True)

    def stored() -> DBInstance:
        found: DBInstance = rds.get(DBInstance, "db2")
        return found

    def job() -> Job:
        (found,) = [one for one in rds.jobs() if one.subject == f"db:{stored().dbi_resource_id}"]
        return found

    source = stored().restore_from
    assert source is not None and source.paused and source.target == RestoreTarget(at=at, timeline="00000001")
    for method, params in ((desk.open_paused, {}), (desk.move_paused, {"place": {"latest": True}})):
        with pytest.raises(Permanent, match="has not arrived"):
            await method({"name": "db2", **params})
    fleet.restore = RestoreProgress(phase="paused", position="0/8000000", moment=at - 5)
    for place, text in (
        ({"at": at}, "is not after 0/8000000"),
        ({"position": "0/8000000"}, "is not after 0/8000000"),
        ({"at": now}, "It must be between"),
        ({}, "Exactly one of"),
    ):
        with pytest.raises(Permanent, match=text):
            await desk.move_paused({"name": "db2", "place": place})
    await desk.move_paused({"name": "db2", "place": {"at": at + 1}})
    moved = stored()
    assert moved.restore_from == msgspec.structs.replace(source, target=RestoreTarget(at=at + 1, timeline="00000001"))
    assert (moved.restart_token, moved.change, job().program) == (1, "creating", "restore_db_instance")
    with pytest.raises(Permanent, match="has not arrived"):
        await desk.open_paused({"name": "db2"})
    fleet.started_for = 1
    await desk.open_paused({"name": "db2"})
    opened = stored()
    assert opened.restart_token == 2 and not opened.waits_for_look and job().program == "restore_db_instance"
    with pytest.raises(Permanent, match="is no restore that is paused"):
        await desk.open_paused({"name": "db2"})
    with pytest.raises(Permanent, match="no DB instance 'db7'"):
        await desk.open_paused({"name": "db7"})


async def test_a_paused_restore_that_failed_can_be_moved_on(
    rds: Rds, desk: BackupDesk, backup: DBInstanceAutomatedBackup, fleet: SeenFleet
) -> None:
    """A transaction that was not in the log, say: what there is of the restore is not lost."""
    await further(desk, transaction="777", paused=True)
    made = rds.get(DBInstance, "db2")
    with rds.store.transaction() as tx:
        tx.put(msgspec.structs.replace(made, change="", failure="recovery ended"))
        for job in tx.jobs(f"db:{made.dbi_resource_id}"):
            tx.finish_job(job)
    await desk.move_paused({"name": "db2", "place": {"latest": True}})
    made = rds.get(DBInstance, "db2")
    assert (made.change, made.failure, made.restart_token) == ("creating", "", 1)
    assert [one.program for one in rds.jobs() if one.subject == f"db:{made.dbi_resource_id}"] == ["restore_db_instance"]


def test_what_the_log_must_hold(rds: Rds, backup: DBInstanceAutomatedBackup, fleet: SeenFleet) -> None:
    first = rds.get(DBSnapshot, "rds:db1-0").backup

    def promise() -> LogPromise | None:
        with rds.store.read() as view:
            return log_promise(view, backup, fleet.last_seen("node"))

    assert promise() == LogPromise(timeline="00000001", start_position=first.start_position, end_position="0/9000000")
    now = rds.clock.wall()
    fleet.archive = ArchiveStatus(latest_restorable_at=now, timeline="00000001", gap_at=now - 1.5 * DAY_S)
    healed = rds.get(DBSnapshot, "rds:db1-1").backup
    assert promise() == LogPromise(timeline="00000001", start_position=healed.start_position)
    fleet.archive = ArchiveStatus(latest_restorable_at=now, timeline="00000001", gap_at=now - 60)
    assert promise() is None, "what comes before an open gap cannot be told"


@pytest.fixture
def verifier(rds: Rds, desk: BackupDesk) -> Any:
    """Ends a verification with this part of the log lost."""

    def verified(start: str, end: str) -> None:
        (repository,) = repositories(rds)
        job = Job(
            program="verify_backups", subject=f"verify:{repository.repository_id}", scope=rds.scope, due_at=0,
            step="await_outcome", frame={"snapshot": "", "job_id": "v"}, created_at=0, deadline_at=9,
        )  # fmt: skip
        proof = Proof(at=rds.clock.wall(), seconds=1.0, damages=("the log segment is missing",))
        with rds.store.transaction() as tx:
            _record(Work(job, desk._tools), tx, proof, (LostLog(start_position=start, end_position=end),))

    return verified


def placed(rds: Rds, name: str, start: str, stop: str) -> None:
    """The automated snapshot's backup is there in the log."""
    row = rds.get(DBSnapshot, name)
    with rds.store.transaction() as tx:
        moved = msgspec.structs.replace(row.backup, start_position=start, stop_position=stop)
        tx.put(msgspec.structs.replace(row, backup=moved))


def shown_window(rds: Rds) -> tuple[float, float]:
    (one,) = rds.call("DescribeDBInstanceAutomatedBackups")["DBInstanceAutomatedBackups"]
    window = one["RestoreWindow"]
    latest = rds.call("DescribeDBInstances")["DBInstances"][0]["LatestRestorableTime"]
    assert latest == window["LatestTime"]
    return window["EarliestTime"], window["LatestTime"]


def test_lost_log_moves_the_latest_restorable_time_back_until_the_next_backup(
    rds: Rds, backup: DBInstanceAutomatedBackup, fleet: SeenFleet, verifier: Any
) -> None:
    now = rds.clock.wall()
    placed(rds, "rds:db1-0", "0/2000000", "0/2000100")
    placed(rds, "rds:db1-1", "0/4000000", "0/4000100")
    with rds.store.transaction() as tx:
        for hours, position in ((20, "0/5000000"), (10, "0/6000000"), (1, "0/7000000")):
            known = tx.get(DBInstanceAutomatedBackup, rds.scope, backup.facts.dbi_resource_id)
            assert known is not None
            seen = ArchiveStatus(latest_restorable_at=now - hours * 3600, timeline="00000001", position=position)
            note_archive(tx, known, seen, now - hours * 3600)
    earliest, latest = shown_window(rds)
    assert latest == now - 3.0
    verifier("0/6000000", "0/7000000")
    assert shown_window(rds) == (earliest, now - 10 * 3600)
    told = rds.events()[-1]
    assert told.event_id == "MAINSTAY-EVENT-0004" and "LatestRestorableTime has moved back" in told.message
    jobs = [job for job in rds.jobs() if job.subject == backup.subject]
    assert all(job.due_at <= now for job in jobs), "a backup is taken at once"
    # The same is told once; what is lost before it leaves less; a new backup begins a new window.
    count = len(rds.events())
    verifier("0/6000000", "0/7000000")
    assert [one for one in rds.events()[count:] if "LatestRestorableTime" in one.message] == []
    verifier("0/5000000", "0/6000000")
    assert shown_window(rds) == (earliest, now - 20 * 3600)
    row = rds.get(DBSnapshot, "rds:db1-1")
    newer = facts("b9", now - 2.0)
    rds.insert(msgspec.structs.replace(row, db_snapshot_identifier="rds:db1-9", backup_id="b9", backup=newer))
    fleet.archive = ArchiveStatus(latest_restorable_at=now - 1.0, timeline="00000001", position="0/9000000")
    assert shown_window(rds) == (now - 2.0, now - 1.0)


def test_when_a_restore_test_is_due(rds: Rds, backup: DBInstanceAutomatedBackup) -> None:
    (repository,) = repositories(rds)
    made = repository.created_at
    assert not is_due(repository, made + 6.4 * DAY_S, 7) and is_due(repository, made + 6.6 * DAY_S, 7)
    assert not is_due(repository, made + 900 * DAY_S, 0)
    tested = msgspec.structs.replace(repository, restore_tested=Proof(at=made + DAY_S, seconds=1.0))
    assert not is_due(tested, made + 7.4 * DAY_S, 7) and is_due(tested, made + 7.6 * DAY_S, 7)
    failed = msgspec.structs.replace(repository, restore_tested=Proof(at=made, seconds=1.0, failure="no room"))
    assert is_due(failed, made + DAY_S, 7) and not is_due(failed, made + 0.4 * DAY_S, 7)


async def test_an_overdue_restore_test_is_shown_and_told_once(
    rds: Rds, desk: BackupDesk, backup: DBInstanceAutomatedBackup
) -> None:
    (repository,) = repositories(rds)
    made, job = repository.created_at, new_job(AUTOMATED_BACKUPS, backup.subject, rds.scope, rds.clock.wall())

    async def look(days: float) -> tuple[float | None, bool]:
        rds.clock.advance(made + days * DAY_S - rds.clock.wall())
        outcome = await AUTOMATED_BACKUPS.steps["await_time"].run(Work(job, desk._tools))
        if isinstance(outcome, Next) and outcome.step == "await_time":
            with rds.store.transaction() as tx:
                outcome.record(tx)
        (row,) = [one for one in await desk.list_backups({}) if one["kind"] == "automated"]
        return row["restore_test_age_s"], row["restore_test_overdue"]

    def told() -> list[str]:
        return [event.message for event in rds.events() if event.event_id == "MAINSTAY-EVENT-0005"]

    assert await look(8.9) == (None, False)
    assert await look(9.1) == (None, True)
    assert await look(10.0) == (None, True)
    (only,) = told()
    assert only.startswith("No restore test of the backups of this DB instance was good for 9 days")
    await look(17.0)
    assert len(told()) == 2, "again after another interval"
    with rds.store.transaction() as tx:
        (repository,) = repositories(rds)
        tx.put(msgspec.structs.replace(repository, restore_proven_at=made + 17 * DAY_S))
    assert await look(18.0) == (DAY_S, False)


async def test_a_snapshot_that_is_made_shows_how_far_it_is(rds: Rds, desk: BackupDesk, fleet: SeenFleet) -> None:
    create(rds)
    rds.call("CreateDBSnapshot", DBSnapshotIdentifier="one", DBInstanceIdentifier="db1")
    row = rds.get(DBSnapshot, "one")
    fleet.jobs[row.job_id] = JobStatus(job_id=row.job_id, subject="s", phase=JobPhase.RUNNING, bytes_done=5,
                                       bytes_total=10, started_at=rds.clock.wall() - 4)  # fmt: skip
    (shown,) = [one for one in await desk.list_backups({}) if one["name"] == "one"]
    assert shown["progress"] == {"bytes_done": 5, "bytes_total": 10, "seconds": 4.0}


def test_proofs_are_bounded_and_told_in_words() -> None:
    many = proof_of(at=NOW, since=NOW - 2, damages=tuple(f"object {number}: " + "x" * 5000 for number in range(150)))
    assert len(many.damages) == DAMAGES_MAX + 1 and many.damages[-1] == "and 50 more"
    assert max(map(len, many.damages)) == 1000 and not many.good
    assert words(many, "It", "is good", "found damage").startswith("It found damage: object 0: ")
    assert words(many, "It", "is good", "found damage").endswith("; and 96 more")
    assert words(proof_of(at=NOW, since=NOW - 2), "It", "was good", "") == "It was good in 2 s."
    assert words(proof_of(at=NOW, since=NOW, failure="no"), "It", "was good", "") == "It was not possible: no"
