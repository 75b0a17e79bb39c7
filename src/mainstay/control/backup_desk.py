"""What the operator of the service asks about backups, over the control socket; `mainstay backups` is the other end.

All regions and accounts at once; whoever can open the socket runs the service. What it shows of restore windows is
what the API shows, from the same functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from mainstay.control.backup_rows import automated_row, snapshot_row
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_snapshot import (
    AVAILABLE,
    BackupRepository,
    DBInstanceAutomatedBackup,
    DBSnapshot,
    Proof,
)
from mainstay.model.errors import ApiError, Permanent, Transient
from mainstay.model.records import Scope
from mainstay.services.operations import Call
from mainstay.services.rds.data_exchange import discard, expect_import, go_back, restore_in_place
from mainstay.services.rds.events import record_event
from mainstay.services.rds.instance_view import InstanceView
from mainstay.services.rds.internal import internal_call
from mainstay.services.rds.restore_further import Place, move_paused, open_paused, restore_further
from mainstay.services.rds.restore_test_request import request_restore_test_in
from mainstay.store import Job, Reader, Transaction
from mainstay.workflows.engine import Tools, Worker
from mainstay.workflows.fleet import last_seen_leader
from mainstay.workflows.login_places import login_place
from mainstay.workflows.repositories import open_repository, require_repository
from mainstay.workflows.restore_test import scratch_of
from mainstay.workflows.verify_backups import begin_verification

Found = DBInstanceAutomatedBackup | DBSnapshot


class Named(msgspec.Struct, frozen=True, kw_only=True):
    """An instance or a snapshot as a person names it: identifier, id or ARN; `region` "" where one is enough."""

    name: str
    region: str = ""


class Further(Named, frozen=True, kw_only=True):
    """A restore that the API of RDS does not have: to a place in the log, or paused for a look."""

    target: str
    place: Place
    paused: bool = False
    db_instance_class: str = ""


class Move(Named, frozen=True, kw_only=True):
    """Where a restore that is paused for a look is to go on to."""

    place: Place


class Kept(Named, frozen=True, kw_only=True):
    """Data of an instance that was set aside."""

    kept: str


class Import(Named, frozen=True, kw_only=True):
    """Foreign data for an instance; `origin` is told to people."""

    origin: str


class Export(Named, frozen=True, kw_only=True):
    """An export that is being written, with how far it is in words, or that is complete (`progress` "")."""

    directory: str
    progress: str


class Load(Named, frozen=True, kw_only=True):
    """A dump for an instance; `database` "" for the one that it was created with."""

    database: str = ""


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """A look at backups that was asked for: `kind` is "verify" or "restore-test", `snapshot` "" for all."""

    kind: str
    scope: Scope
    repository_id: str
    snapshot: str
    subject: str
    asked_at: float


class BackupDesk:
    """Answers what is asked."""

    def __init__(self, tools: Tools, worker: Worker) -> None:
        self._tools = tools
        self._worker = worker
        self.methods = {
            "list_backups": self.list_backups,
            "verify_backups": self.verify_backups,
            "test_restore": self.test_restore,
            "look_at_ticket": self.look_at_ticket,
            "open_backup": self.open_backup,
            "tell_export": self.tell_export,
            "restore_further": self.restore_further,
            "open_paused": self.open_paused,
            "move_paused": self.move_paused,
            "restore_in_place": self.restore_in_place,
            "list_kept_data": self.list_kept_data,
            "go_back": self.go_back,
            "expect_import": self.expect_import,
            "discard": self.discard,
            "where_to_load": self.where_to_load,
        }

    async def list_backups(self, params: Any) -> Any:
        """Rows for every automated backup and every snapshot, those of one instance if it is named."""
        wanted = str((params or {}).get("instance", "")).lower()
        now = self._tools.clock.wall()
        with self._tools.store.read() as view:
            rows = []
            for backup in view.scan(DBInstanceAutomatedBackup):
                repository = view.get(BackupRepository, backup.scope, backup.repository_id)
                if repository is not None:
                    days = self._tools.settings.restore_test_interval_days
                    rows.append(automated_row(view, self._tools.fleet, backup, repository, now, days))
            for row in view.scan(DBSnapshot):
                repository = view.get(BackupRepository, row.scope, row.repository_id)
                key = "" if repository is None else repository.kms_key_id
                rows.append(snapshot_row(row, key, self._job_status(row.job_id), now))
        return [row for row in rows if wanted in ("", row["instance"], row["name"])]

    async def verify_backups(self, params: Any) -> Any:
        """Begins to read back all of an instance, or one snapshot; a `Ticket`."""
        named = _converted(params, Named)
        with self._tools.store.transaction() as tx:
            found = _find(tx, named)
            repository = require_repository(tx, found.scope, found.repository_id)
            row = found if isinstance(found, DBSnapshot) else None
            if row is not None:
                _require_stored(row)
            asked_at = self._tools.clock.wall()
            job = begin_verification(tx, asked_at, repository, row)
        return self._ticket("verify", job, repository, "" if row is None else row.db_snapshot_identifier)

    async def test_restore(self, params: Any) -> Any:
        """Begins to restore an instance's newest restorable moment for a test; a `Ticket`."""
        named = _converted(params, Named)
        with self._tools.store.transaction() as tx:
            found = _find(tx, named)
            if isinstance(found, DBSnapshot):
                raise Permanent(
                    f"{named.name} is a DB snapshot", hint="A restore test is made of an instance's automated backups."
                )
            repository = require_repository(tx, found.scope, found.repository_id)
            job = request_restore_test_in(tx, self._tools.clock.wall(), found)
        return self._ticket("restore-test", job, repository, "")

    def _ticket(self, kind: str, job: Job, repository: BackupRepository, snapshot: str) -> Any:
        self._worker.wake()
        ticket = Ticket(
            kind=kind,
            scope=repository.scope,
            repository_id=repository.repository_id,
            snapshot=snapshot,
            subject=job.subject,
            asked_at=job.created_at,
        )
        return msgspec.to_builtins(ticket)

    async def look_at_ticket(self, params: Any) -> Any:
        """How far it is: {"running", "doing", "bytes_done", "bytes_total", "proof"}; `proof` when it has ended."""
        ticket = _converted(params, Ticket)
        with self._tools.store.read() as view:
            jobs = view.jobs(ticket.subject)
            proof = _proof(view, ticket)
            repository = view.get(BackupRepository, ticket.scope, ticket.repository_id)
            scratch = None if repository is None else scratch_of(view, repository)
        if jobs:
            doing, done, total = jobs[0].step.replace("_", " "), 0, 0
            seen = None if scratch is None else last_seen_leader(self._tools.fleet, scratch)
            status = self._job_status(str(jobs[0].frame["job_id"]))
            if status is not None:
                doing, done, total = "reading back", status.bytes_done, status.bytes_total
            elif seen is not None and seen.restore is not None:
                doing = f"restoring {seen.restore.phase}"
                done, total = seen.restore.bytes_done, seen.restore.bytes_total
            return {"running": True, "doing": doing, "bytes_done": done, "bytes_total": total, "proof": None}
        if proof is None or proof.at < ticket.asked_at:
            raise Permanent("it ended without an outcome: what was looked at is gone")
        told = {"damages": [], "failure": "", "moment": None, "size_bytes": 0} | msgspec.to_builtins(proof)
        return {"running": False, "doing": "", "bytes_done": 0, "bytes_total": 0, "proof": told}

    def _job_status(self, job_id: str) -> Any:
        try:
            return self._tools.fleet.observe_job(job_id)
        except Transient:
            return None

    async def open_backup(self, params: Any) -> Any:
        """Place and key of a snapshot, for an export: {"repository", "facts", "engine"}. The key is a secret."""
        named = _converted(params, Named)
        with self._tools.store.read() as view:
            found = _find(view, named)
            if not isinstance(found, DBSnapshot):
                raise Permanent(f"{named.name} is no DB snapshot", hint="Name one of `mainstay backups list`.")
            _require_stored(found)
            repository = require_repository(view, found.scope, found.repository_id)
            opened = open_repository(view, self._tools.vault, repository)
        return {
            "repository": msgspec.to_builtins(opened),
            "facts": msgspec.to_builtins(found.backup),
            "engine": found.facts.engine,
        }

    async def tell_export(self, params: Any) -> Any:
        """An event of the snapshot, if it is still there."""
        asked, clock = _converted(params, Export), self._tools.clock
        with self._tools.store.transaction() as tx:
            found = _find(tx, asked)
            if not isinstance(found, DBSnapshot):
                raise Permanent(f"{asked.name} is no DB snapshot")
            if asked.progress:
                doing = f"Export of the snapshot to {asked.directory}"
                record_event(tx, clock, found, "MAINSTAY-EVENT-0009", doing=doing, progress=asked.progress)
            else:
                reason = f"The DB snapshot {found.db_snapshot_identifier} was exported to {asked.directory}"
                record_event(tx, clock, found, "MAINSTAY-EVENT-0002", reason=reason)

    async def restore_further(self, params: Any) -> Any:
        """Begins a restore to a place in the log, or one that is to be looked at; the new instance's identifier."""
        asked = _converted(params, Further)

        def begin(tx: Transaction) -> str:
            found = _find(tx, asked)
            if isinstance(found, DBSnapshot):
                raise Permanent(f"{asked.name} is a DB snapshot: it shows one moment only")
            request = {"DBInstanceClass": asked.db_instance_class} if asked.db_instance_class else {}
            request |= {"TargetDBInstanceIdentifier": asked.target}
            call = internal_call(tx, self._tools, found.scope)
            return restore_further(call, request, found, asked.place, paused=asked.paused)

        return self._record(begin)

    async def open_paused(self, params: Any) -> Any:
        """Opens a restore that is paused for a look; its identifier."""
        asked = _converted(params, Named)

        def go_on(tx: Transaction) -> str:
            call, instance = self._instance(tx, asked)
            open_paused(call, instance)
            return instance.db_instance_identifier

        return self._record(go_on)

    async def move_paused(self, params: Any) -> Any:
        """Moves a restore that is paused for a look on to a later place; its identifier."""
        asked = _converted(params, Move)

        def go_on(tx: Transaction) -> str:
            call, instance = self._instance(tx, asked)
            move_paused(call, instance, asked.place)
            return instance.db_instance_identifier

        return self._record(go_on)

    async def restore_in_place(self, params: Any) -> Any:
        """Begins to restore an instance in its own place; the name under which its present data is kept."""
        asked = _converted(params, Move)
        return self._record(lambda tx: restore_in_place(*self._instance(tx, asked), asked.place))

    async def go_back(self, params: Any) -> Any:
        """Begins to bring back what was set aside; the name under which the instance's present data is kept."""
        asked = _converted(params, Kept)
        return self._record(lambda tx: go_back(*self._instance(tx, asked), asked.kept))

    async def expect_import(self, params: Any) -> Any:
        """What must be known to import data into an instance: {"kept", "node_id", "engine", "version", "master"}."""
        asked = _converted(params, Import)
        made: dict[str, str] = {}

        def begin(tx: Transaction) -> str:
            call, instance = self._instance(tx, asked)
            kept = expect_import(call, instance, asked.origin)
            made.update(kept=kept, node_id=instance.node_id, engine=instance.engine, version=instance.engine_version,
                        master=instance.master_username)  # fmt: skip
            return kept

        self._record(begin)
        return made

    async def discard(self, params: Any) -> Any:
        """Removes what was set aside; its name."""
        asked = _converted(params, Kept)

        def end(tx: Transaction) -> str:
            discard(*self._instance(tx, asked), asked.kept)
            return str(asked.kept)

        return self._record(end)

    async def where_to_load(self, params: Any) -> Any:
        """What must be known to load a dump into an instance: {"engine", "version", "master", "room_gib", "place"}."""
        asked = _converted(params, Load)
        with self._tools.store.transaction() as tx:
            call, instance = self._instance(tx, asked)
            status = InstanceView(call).status(instance)
            if status != "available":
                raise Permanent(f"{instance.db_instance_identifier} is {status}, not available")
            if instance.source_dbi_resource_id:
                raise Permanent(
                    f"{instance.db_instance_identifier} is a read replica, which takes no writes",
                    hint="Load it into its source.",
                )
            place = login_place(tx, self._tools, instance, asked.database)
        return {
            "engine": instance.engine,
            "version": instance.engine_version,
            "master": instance.master_username,
            "room_gib": max(instance.allocated_storage_gib, instance.max_allocated_storage_gib or 0),
            "place": {"address": place.address, "host": place.host, "port": place.port, "database": place.database},
        }

    async def list_kept_data(self, params: Any) -> Any:
        """Rows for what was set aside, of one instance if it is named."""
        wanted = str((params or {}).get("instance", "")).lower()
        with self._tools.store.read() as view:
            return [
                {"instance": one.db_instance_identifier, "region": one.scope.region, **msgspec.to_builtins(kept)}
                for one in view.scan(DBInstance)
                for kept in one.kept_data
                if wanted in ("", one.db_instance_identifier)
            ]

    def _instance(self, tx: Transaction, named: Named) -> tuple[Call, DBInstance]:
        instance = _find_instance(tx, named)
        return internal_call(tx, self._tools, instance.scope), instance

    def _record(self, change: Callable[[Transaction], str]) -> str:
        """What the API would refuse is refused in its words."""
        try:
            with self._tools.store.transaction() as tx:
                name = change(tx)
        except ApiError as error:
            raise Permanent(error.message) from error
        self._worker.wake()
        return name


def _require_stored(row: DBSnapshot) -> None:
    if row.status != AVAILABLE or row.backup is None:
        raise Permanent(f"the DB snapshot {row.db_snapshot_identifier} is {row.status}, not available")
    if row.local:
        raise Permanent(
            f"the DB snapshot {row.db_snapshot_identifier} is not in the object storage yet",
            hint="`mainstay backups list` shows how far it is.",
        )


def _converted(params: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(params, kind)
    except msgspec.ValidationError as error:
        raise Permanent(f"not what was expected: {error}") from error


def _proof(view: Reader, ticket: Ticket) -> Proof | None:
    if ticket.snapshot:
        row = view.get(DBSnapshot, ticket.scope, ticket.snapshot)
        return None if row is None else row.verified
    repository = view.get(BackupRepository, ticket.scope, ticket.repository_id)
    if repository is None:
        return None
    return repository.verified if ticket.kind == "verify" else repository.restore_tested


def _find(view: Reader | Transaction, named: Named) -> Found:
    """The one that is meant. Raises `Permanent` saying what there is."""
    wanted = named.name
    backups = [
        one
        for one in view.scan(DBInstanceAutomatedBackup)
        if wanted.lower() in (one.facts.db_instance_identifier, one.facts.dbi_resource_id.lower())
        or wanted in (one.automated_backup_id, one.arn)
    ]
    rows = [one for one in view.scan(DBSnapshot) if wanted.lower() == one.db_snapshot_identifier or wanted == one.arn]
    both: list[Found] = [*backups, *rows]
    found = [one for one in both if named.region in ("", one.scope.region)]
    if len(found) > 1:  # who means the copy in another region says so
        own = [one for one in found if not isinstance(one, DBInstanceAutomatedBackup) or one.copy_of is None]
        found = own or found
    if len(found) == 1:
        return found[0]
    if not found:
        raise Permanent(
            f"there are no automated backups of a DB instance {wanted!r}, and there is no DB snapshot of this name",
            hint="`mainstay backups list` shows what there is.",
        )
    regions = sorted({one.scope.region for one in found})
    raise Permanent(
        f"{wanted!r} names {len(found)} things, in {', '.join(regions)}",
        hint="Give its ARN or DbiResourceId, or --region.",
    )


def _find_instance(view: Reader | Transaction, named: Named) -> DBInstance:
    """The one that is meant. Raises `Permanent`."""
    wanted = named.name.lower()
    found = [
        one
        for one in view.scan(DBInstance)
        if wanted in (one.db_instance_identifier, one.dbi_resource_id.lower(), one.arn.lower())
        and named.region in ("", one.scope.region)
    ]
    if len(found) == 1:
        return found[0]
    if not found:
        raise Permanent(f"there is no DB instance {named.name!r}", hint="`mainstay status` shows what there is.")
    regions = sorted({one.scope.region for one in found})
    raise Permanent(f"{named.name!r} names DB instances in {', '.join(regions)}", hint="Give --region.")
