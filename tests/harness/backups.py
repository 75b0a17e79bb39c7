"""One instance with automated backups, from outside: its restores, what its object storage holds, and harm to both."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import psutil
import psycopg
from botocore.exceptions import BotoCoreError, ClientError

from harness.service import Service, eventually
from harness.writers import Operation, Outcome, Row
from mainstay.agent.repositories import SystemRepositories
from mainstay.backups.manifests import list_backups, list_intents, pack_name, read_header
from mainstay.backups.objects import object_storage, open_objects
from mainstay.backups.repository import Repository
from mainstay.engines.postgresql.backups import PostgresqlBackups
from mainstay.host.randomness import SystemRandomness
from mainstay.model.node import NodeSpec
from mainstay.model.repository_job import RepositoryRef

NEVER = datetime(1970, 1, 1, tzinfo=UTC)
TABLES = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1"
CHECKSUM = "SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)::text FROM {} t"


class Kept:
    """An instance whose backups are looked at."""

    def __init__(self, service: Service, identifier: str, *, timeout_s: float = 120.0) -> None:
        self.service = service
        self.identifier = identifier
        self.rds = service.client("rds")
        self._instance = service.describe(identifier)
        self.resource: str = self._instance["DbiResourceId"]
        self.timeout_s = timeout_s

    # Sessions

    def connect(self, identifier: str = "") -> psycopg.Connection[Any]:
        """A session with it, for which the control plane need not answer, or with another instance."""
        return self.service.connect(self.service.describe(identifier) if identifier else self._instance)

    def checksums(self, identifier: str = "", *, without: Iterable[str] = ()) -> dict[str, tuple[int, str]]:
        """By table, whatever the order of its rows; all as of one moment."""
        found = {}
        with self.connect(identifier) as session, session.transaction():
            session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            for (table,) in session.execute(TABLES).fetchall():
                if table not in without:
                    row = session.execute(CHECKSUM.format(table)).fetchone()
                    assert row is not None
                    found[table] = row
        return found

    def rows(self, identifier: str = "") -> list[Row]:
        """What is in the writers' table."""
        with self.connect(identifier) as session:
            return session.execute("SELECT session, sequence FROM kept").fetchall()

    # Promises

    @property
    def latest(self) -> datetime:
        """LatestRestorableTime, or long ago."""
        shown: datetime = self.service.describe(self.identifier).get("LatestRestorableTime", NEVER)
        return shown

    @property
    def earliest(self) -> datetime:
        """Where the restore window begins."""
        found = self.rds.describe_db_instance_automated_backups(DbiResourceId=self.resource)
        shown: datetime = found["DBInstanceAutomatedBackups"][0]["RestoreWindow"]["EarliestTime"]
        return shown

    def await_window(self) -> None:
        """Until there is anything to restore to."""
        eventually(lambda: self.latest > NEVER and self._has_window(), timeout_s=self.timeout_s)

    def _has_window(self) -> bool:
        found = self.rds.describe_db_instance_automated_backups(DbiResourceId=self.resource)
        return any("RestoreWindow" in one for one in found["DBInstanceAutomatedBackups"])

    def await_restorable(self, moment: float) -> float:
        """Until the whole second after this moment can be restored, which is returned."""
        second = float(int(moment) + 1)
        eventually(lambda: self.latest.timestamp() >= second, timeout_s=self.timeout_s)
        return second

    # Snapshots and restores

    def begin_snapshot(self, name: str) -> None:
        """Ordered, not awaited."""
        self.rds.create_db_snapshot(DBInstanceIdentifier=self.identifier, DBSnapshotIdentifier=name)

    def await_snapshot(self, name: str) -> dict[str, Any]:
        """As soon as it is available."""
        found: dict[str, Any] = eventually(
            lambda: (one := self._snapshot(name)) and one["Status"] == "available" and one, timeout_s=self.timeout_s
        )
        return found

    def _snapshot(self, name: str) -> dict[str, Any] | None:
        """As it is shown; None while the service does not answer."""
        try:
            found: dict[str, Any] = self.rds.describe_db_snapshots(DBSnapshotIdentifier=name)["DBSnapshots"][0]
        except (BotoCoreError, ClientError):
            return None
        assert found["Status"] in ("creating", "available"), found
        return found

    def restore_snapshots(self, names: Mapping[str, str]) -> None:
        """Begins to make instances (keys) of snapshots (values)."""
        for target, name in names.items():
            self.rds.restore_db_instance_from_db_snapshot(
                DBInstanceIdentifier=target, DBSnapshotIdentifier=name, DBInstanceClass="db.t3.micro",
                BackupRetentionPeriod=0,
            )  # fmt: skip

    def restore_moments(
        self, moments: Mapping[str, float | datetime | None], *, db_instance_class: str = "db.t3.micro"
    ) -> None:
        """Begins to make instances (keys) as of these moments; None is the latest restorable time."""
        for target, moment in moments.items():
            at = datetime.fromtimestamp(moment, UTC) if isinstance(moment, float) else moment
            wanted: dict[str, Any] = {"UseLatestRestorableTime": True} if at is None else {"RestoreTime": at}
            self.rds.restore_db_instance_to_point_in_time(
                SourceDBInstanceIdentifier=self.identifier, TargetDBInstanceIdentifier=target,
                DBInstanceClass=db_instance_class, BackupRetentionPeriod=0, **wanted,
            )  # fmt: skip

    def await_status(self, identifier: str, status: str = "available") -> None:
        """Until the restored instance has it; any other end fails."""
        ends = {"available", "incompatible-restore", "failed", "incompatible-parameters"}

        def ended() -> str:
            try:
                word: str = self.service.describe(identifier)["DBInstanceStatus"]
            except (BotoCoreError, ClientError):
                return ""
            return word if word in ends else ""

        found = eventually(ended, timeout_s=self.timeout_s)
        assert found == status, f"{identifier} is {found}: {self.messages(identifier)}"

    def messages(self, identifier: str) -> list[str]:
        """What was told of an instance in the last hour."""
        found = self.rds.describe_events(SourceIdentifier=identifier, SourceType="db-instance", Duration=60)["Events"]
        return [event["Message"] for event in found]

    def refusal(self, identifier: str) -> str:
        """What was told of an instance that could not be restored."""
        self.await_status(identifier, "incompatible-restore")
        return " ".join(self.messages(identifier))

    def drop(self, *identifiers: str) -> None:
        """Without waiting for it."""
        for identifier in identifiers:
            self.rds.delete_db_instance(DBInstanceIdentifier=identifier, SkipFinalSnapshot=True)

    # The object storage

    @property
    def ref(self) -> RepositoryRef:
        """The instance's repository, with its key: from the agent's own record of the node."""
        for path in (self.service.home / "agent" / "nodes").glob("*/spec.json"):
            spec = msgspec.json.decode(path.read_bytes(), type=NodeSpec)
            if spec.dbi_resource_id == self.resource and spec.archive is not None:
                return spec.archive
        raise AssertionError(f"no node of {self.identifier} ships its log")

    @property
    def directory(self) -> Path:
        """Where its objects are."""
        return self.service.home / "objects" / self.ref.prefix

    @property
    def whole_segments(self) -> list[Path]:
        """Objects of the log's segments that have ended, oldest first."""
        return sorted(self.directory.glob("log/*/*.whole"))

    def repository(self) -> Repository:
        """To be read by the test."""
        objects = open_objects(*object_storage(self.service.settings))
        ref = self.ref
        return Repository(objects, ref.prefix.rstrip("/") + "/", bytes.fromhex(ref.data_key), SystemRandomness())

    def damages(self) -> tuple[str, ...]:
        """What a verification says during which nothing was removed: those of the service see to that themselves."""
        repositories = SystemRepositories(self.service.settings, SystemRandomness())
        present = list_backups(self.repository())
        while True:
            found = asyncio.run(repositories.verify(self.ref, present, None, PostgresqlBackups(), lambda *_: None))
            before, present = present, list_backups(self.repository())
            if set(before) <= set(present):
                return found.damages

    def litter(self) -> set[str]:
        """Packs and intents that no backup needs."""
        repository = self.repository()
        needed = {
            pack_name(pack.backup_id, pack.number)
            for one in list_backups(repository)
            for pack in read_header(repository, one).packs
        }
        packs = {str(path.relative_to(self.directory)) for path in self.directory.glob("packs/*/*")}
        return packs - needed | set(list_intents(repository))


def workers_of(pid: int) -> list[psutil.Process]:
    """The processes below this one that move backups now."""
    found = []
    for one in psutil.Process(pid).children():
        with suppress(psutil.NoSuchProcess):  # or a zombie
            if "mainstay.backups" in " ".join(one.cmdline()):
                found.append(one)
    return found


def kill_one(service: Service, who: str) -> None:
    """kill -9 of one of our processes, or of every "worker" that moves a backup now."""
    if who != "worker":
        service.kill(who)
        return
    for worker in workers_of(service.process("agent")):
        with suppress(psutil.NoSuchProcess):
            worker.kill()


def flip(path: Path) -> None:
    """One bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def judge_restore(operations: Iterable[Operation], present: Iterable[Row], target: float) -> str:
    """What is wrong with a restore to `target` (epoch seconds), by what clients know; "" for nothing.

    Acknowledged before it: there. Begun after it: not there. Nothing twice, and nothing that nobody wrote.
    """
    history = list(operations)
    rows = list(present)
    there = set(rows)
    before = {
        one.row for one in history if one.outcome is Outcome.ACKNOWLEDGED and one.ended + one.clock_s < target - CLOCK_S
    }
    after = {one.row for one in history if one.began + one.clock_s > target + CLOCK_S}
    found = {
        "acknowledged before and missing": before - there,
        "begun after and there": after & there,
        "written by nobody": there - {one.row for one in history if one.outcome is not Outcome.FAILED},
    }
    told = [f"{len(which)} {what}, such as {min(which)}" for what, which in found.items() if which]
    if len(there) != len(rows):
        told.append(f"{len(rows) - len(there)} twice")
    return "; ".join(told)


CLOCK_S = 0.002
"""How far the wall clock may be set within one operation."""
