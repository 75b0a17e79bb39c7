"""Restores in place, going back, imports: what is recorded, and what is refused in words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from harness.rds_backups import SeenFleet, create, finished
from harness.rds_calls import Rds
from mainstay.control.backup_desk import BackupDesk
from mainstay.engines.base import Feature
from mainstay.engines.mariadb.rules import MariadbRules
from mainstay.engines.postgresql.rules import PostgresqlRules
from mainstay.model.db_instance import DataChange, DBInstance, PendingModification
from mainstay.model.db_snapshot import DBInstanceAutomatedBackup
from mainstay.model.errors import Permanent
from mainstay.model.node import NodeTarget
from mainstay.workflows.automated_backups import gap_of
from mainstay.workflows.converge import _record_end
from mainstay.workflows.db_instances import MODIFY
from mainstay.workflows.engine import Finish, Next, Work
from mainstay.workflows.exchange_data import EXCHANGE, PART_PAIR, _exchanged, _parted
from mainstay.workflows.node_specs import _kept_data, _membership, _waits_for_parting


def stored(rds: Rds, name: str = "db1") -> DBInstance:
    found: DBInstance = rds.get(DBInstance, name)
    return found


def change(rds: Rds, **fields: Any) -> None:
    with rds.store.transaction() as tx:
        tx.put(msgspec.structs.replace(stored(rds), **fields))


def end(rds: Rds) -> None:
    """The exchange has come to its end, and its job with it."""
    with rds.store.transaction() as tx:
        for job in tx.jobs(f"db:{stored(rds).dbi_resource_id}"):
            tx.finish_job(job)
        tx.put(msgspec.structs.replace(stored(rds), change="").exchanged)


async def test_a_restore_in_place_keeps_what_is_there_and_what_can_be_restored(
    rds: Rds, desk: BackupDesk, backup: DBInstanceAutomatedBackup, fleet: SeenFleet
) -> None:
    now = rds.clock.wall()
    before, at = stored(rds), float(int(now - 3600))
    aside = await desk.restore_in_place({"name": "db1", "place": {"at": at}})
    after = stored(rds)
    assert after.exchange is not None and after.exchange.aside == aside and after.exchange.wanted != aside
    assert after.exchange.restore_from is not None and after.exchange.restore_from.target.at == at
    assert (after.change, after.restart_token) == ("modifying", before.restart_token + 1)
    assert [one.name for one in after.kept_data] == [aside] and after.restoring_from == after.exchange.restore_from
    kept = _kept_data(after, after.node_id)
    assert set(kept["kept"]) == {aside, after.exchange.wanted} and kept["exchange"].wanted == after.exchange.wanted
    with rds.store.read() as view:
        changed = view.get(DBInstanceAutomatedBackup, backup.scope, backup.facts.dbi_resource_id)
    assert changed is not None
    gap = gap_of(changed)
    assert (gap.since, gap.until) == (at, now), "what happened in between is not promised any more"
    with pytest.raises(Permanent, match="not in available state"):
        await desk.go_back({"name": "db1", "kept": aside})
    with pytest.raises(Permanent, match="is being exchanged"):
        await desk.discard({"name": "db1", "kept": aside})
    end(rds)
    assert stored(rds).data_name == after.exchange.wanted and stored(rds).exchange is None
    (row,) = await desk.list_kept_data({"instance": "db1"})
    assert (row["name"], row["instance"]) == (aside, "db1") and "was restored in place to" in row["described"]
    with pytest.raises(Permanent, match=f"keeps no data 'other' aside, but {aside}"):
        await desk.go_back({"name": "db1", "kept": "other"})
    assert await desk.go_back({"name": "db1", "kept": aside}) == after.exchange.wanted
    assert stored(rds).exchange == DataChange(wanted=aside, aside=after.exchange.wanted)
    end(rds)
    assert [one.name for one in stored(rds).kept_data] == [after.exchange.wanted]
    await desk.discard({"name": "db1", "kept": after.exchange.wanted})
    assert stored(rds).kept_data == () and _kept_data(stored(rds), before.node_id) == {"kept": ()}


async def test_an_exchange_that_fails_is_undone_and_one_that_fails_again_is_told(
    rds: Rds, desk: BackupDesk, backup: DBInstanceAutomatedBackup
) -> None:
    aside = await desk.restore_in_place({"name": "db1", "place": {"latest": True}})
    wanted = stored(rds).exchange.wanted  # type: ignore[union-attr]

    def exchange() -> Any:
        (job,) = [one for one in rds.jobs() if one.program == EXCHANGE.name]
        return job

    def failed(reason: str) -> Any:
        job = exchange()
        outcome = EXCHANGE.failed(Work(job, desk._tools), Permanent(reason))
        with rds.store.transaction() as tx:
            outcome.record(tx)  # type: ignore[union-attr]
            if isinstance(outcome, Next):
                tx.put_job(msgspec.structs.replace(job, frame={**job.frame, **(outcome.frame or {})}))
        return outcome

    assert failed("damaged").step == "put_node"
    undone = stored(rds)
    assert undone.exchange == DataChange(wanted=aside, aside=wanted) and undone.change == "modifying"
    assert exchange().frame["failure"] == "damaged" and undone.exchanged.kept_data == ()
    assert isinstance(failed("still damaged"), Finish)
    assert (stored(rds).change, stored(rds).failure) == ("", "still damaged")
    assert [one.name for one in stored(rds).kept_data] == [aside], "it is there for whoever looks at it"


async def test_what_cannot_be_exchanged_is_refused(
    rds: Rds, desk: BackupDesk, backup: DBInstanceAutomatedBackup
) -> None:
    async def refused(text: str) -> None:
        with pytest.raises(Permanent, match=text):
            await desk.restore_in_place({"name": "db1", "place": {"latest": True}})

    for fields, text in (
        ({"pending": PendingModification(multi_az=True)}, "is to be converted in its next maintenance window"),
        ({"source_dbi_resource_id": "db-OTHER"}, "read replicas or is one"),
        ({"engine_version": "16.5"}, "The backup is of version 17.5, the DB instance of 16.5"),
        ({"change": "rebooting"}, "not in available state"),
    ):
        before = stored(rds)
        change(rds, **fields)
        await refused(text)
        with rds.store.transaction() as tx:
            tx.put(before)
    for _ in range(5):
        await desk.restore_in_place({"name": "db1", "place": {"latest": True}})
        end(rds)
        rds.clock.advance(1.0)
    await refused("5 other data are kept aside already")
    with pytest.raises(Permanent, match="has automated backups, and imported data has another history"):
        await desk.expect_import({"name": "db1", "origin": "/somewhere"})
    create(rds, "plain", BackupRetentionPeriod=0)
    with pytest.raises(Permanent, match="not enabled for instance plain"):
        await desk.restore_in_place({"name": "plain", "place": {"latest": True}})
    plan = await desk.expect_import({"name": "plain", "origin": "/somewhere"})
    assert (plan["engine"], plan["version"], plan["master"]) == ("postgres", "17.5", "chief")
    assert [one.name for one in stored(rds, "plain").kept_data] == [plan["kept"]]
    await desk.go_back({"name": "plain", "kept": plan["kept"]})
    (job,) = [one for one in rds.jobs() if one.program == EXCHANGE.name and "plain" not in one.subject]
    assert "imported from /somewhere" in job.frame["told"]
    with rds.store.transaction() as tx:
        tx.finish_job(job)
        tx.put(msgspec.structs.replace(stored(rds, "plain"), change="").exchanged)
    rds.call("ModifyDBInstance", DBInstanceIdentifier="plain", BackupRetentionPeriod=1, ApplyImmediately=True)
    finished(rds, "plain")
    (replaced,) = stored(rds, "plain").kept_data
    with pytest.raises(Permanent, match="imported data has another history"):
        await desk.go_back({"name": "plain", "kept": replaced.name})


def paired(rds: Rds) -> DBInstance:
    """It has a standby, in the zone of another of its subnets."""
    change(rds, multi_az=True, standby_node_id="node-other", secondary_availability_zone="us-east-1b")
    return stored(rds)


def ended(rds: Rds, desk: BackupDesk, program: str, ending: Any) -> DBInstance:
    """The workflow of this name has come to its end."""
    (job,) = [one for one in rds.jobs() if one.program == program]
    with rds.store.transaction() as tx:
        tx.finish_job(job)
        _record_end(Work(job, desk._tools), tx, ending, None)  # type: ignore[arg-type]
    return stored(rds)


def stays(instance: DBInstance) -> list[str]:
    """The nodes that are to run."""
    return [one for one in instance.node_ids if _membership(instance, one, None)["target"] is NodeTarget.RUNNING]


async def test_a_pair_is_parted_before_its_data_is_exchanged_and_formed_again(
    rds: Rds, desk: BackupDesk, backup: DBInstanceAutomatedBackup
) -> None:
    before = paired(rds)
    node_id = before.node_id
    aside = await desk.restore_in_place({"name": "db1", "place": {"latest": True}})
    parting = stored(rds)
    assert (parting.change, parting.multi_az, parting.restart_token) == ("modifying", False, before.restart_token)
    for recorded in (parting, parting.with_nodes_swapped):  # whoever leads: there is what shall be exchanged
        assert stays(recorded) == [node_id] and _waits_for_parting(recorded)
        assert "exchange" not in _kept_data(recorded, node_id), "its standby could still take over"
        assert aside in _kept_data(recorded, node_id)["kept"] and _kept_data(recorded, "node-other") == {}
    assert parting.restoring_from is not None, "its backup must not be cleared away meanwhile"

    change(rds, **msgspec.structs.asdict(parting.with_nodes_swapped))  # it was made to lead, and that is not told yet
    alone = ended(rds, desk, PART_PAIR.name, _parted)
    assert (alone.node_ids, alone.change, alone.exchange) == ((node_id,), "modifying", parting.exchange)
    assert _kept_data(alone, node_id)["exchange"].aside == aside and not _waits_for_parting(alone)

    formed = ended(rds, desk, EXCHANGE.name, _exchanged)
    assert (formed.change, formed.multi_az, formed.exchange, formed.node_id) == ("modifying", True, None, node_id)
    assert formed.standby_node_id not in ("", "node-other") and set(stays(formed)) == set(formed.node_ids)
    assert [one.program for one in rds.jobs() if one.subject == f"db:{formed.dbi_resource_id}"].count(MODIFY.name) == 1
    assert _kept_data(formed, node_id)["kept"] == (aside,) and _kept_data(formed, formed.standby_node_id) == {}

    change(rds, change="", **{"node_id": formed.standby_node_id, "standby_node_id": node_id})  # a failover
    with pytest.raises(Permanent, match="RebootDBInstance with ForceFailover"):
        await desk.go_back({"name": "db1", "kept": aside})
    assert stays(msgspec.structs.replace(stored(rds), multi_az=False)) == [node_id], "what is kept is not thrown away"


async def test_a_pair_that_cannot_be_parted_is_one_again(
    rds: Rds, desk: BackupDesk, backup: DBInstanceAutomatedBackup
) -> None:
    before = paired(rds)
    await desk.restore_in_place({"name": "db1", "place": {"latest": True}})
    (job,) = [one for one in rds.jobs() if one.program == PART_PAIR.name]
    with rds.store.transaction() as tx:
        PART_PAIR.failed(Work(job, desk._tools), Permanent("broken")).record(tx)  # type: ignore[union-attr]
        tx.finish_job(job)
    after = stored(rds)
    assert (after.multi_az, after.node_ids, after.kept_data, after.exchange) == (True, before.node_ids, (), None)
    assert MODIFY.name in [one.program for one in rds.jobs()]


async def test_an_engine_without_it_is_refused(
    rds: Rds, desk: BackupDesk, backup: DBInstanceAutomatedBackup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PostgresqlRules, "features", frozenset({Feature.BACKUPS}))
    with pytest.raises(Permanent, match="Restores in place and imports: not available for engine postgres"):
        await desk.restore_in_place({"name": "db1", "place": {"latest": True}})
    with pytest.raises(Permanent, match="Restores that pause for a look: not available for engine postgres"):
        await desk.restore_further({"name": "db1", "target": "new", "place": {"latest": True}, "paused": True})
    assert {Feature.PAUSED_RESTORES, Feature.DATA_EXCHANGE}.isdisjoint(MariadbRules.features)
