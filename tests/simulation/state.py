"""Everything that can be seen of a world, for comparing two runs that should have ended alike."""

from __future__ import annotations

import json
import re
from typing import Any

from mainstay.model.db_snapshot import BackupRepository, DBInstanceAutomatedBackup, DBSnapshot
from mainstay.workflows.repositories import open_repository
from simulation.world import SCOPE, World

VOLATILE = {
    "requested_at", "instance_create_time", "automatic_restart_at", "certificate", "attach_time", "created_at",
    "due_at", "deadline_at", "id", "attempts", "changed_at", "rotated_at",
    "next_rotation_at", "sealed", "sealed_data_key", "next_backup_at", "last_backup_at", "archive_recorded_at",
    "latest_restorable_at", "log_marks", "position", "restore_proven_at", "overdue_told_at",
    "retained_since", "look_at", "retry_at", "snapshot_create_time", "original_snapshot_create_time",
    "snapshot_database_time", "started_at", "consistent_at", "start_position", "stop_position", "last_kept_log_from",
    "kept_log_from", "failures", "number", "at",
    "data_key", "updated_at", "key_lost_at", "wrapped_volume_key", "kept_at", "until", "moment", "described", "told",
    "gap_at", "gap_since",
}  # fmt: skip
STAMPS = re.compile(r"\d{8}t\d{6}z-[0-9a-f]{8}|-\d{4}-\d\d-\d\d-\d\d-\d\d")
"""When something was begun, in names."""


def _unstamped(text: str) -> str:
    return STAMPS.sub("<time>", text)


def _stable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _stable(one) for name, one in sorted(value.items()) if name not in VOLATILE}
    if isinstance(value, str):
        return _unstamped(value)
    return [_stable(one) for one in value] if isinstance(value, list) else value


def end_state(world: World) -> dict[str, Any]:
    """Records, jobs, events, node directories, engines, routes and accounts, without times, pids and random keys."""
    assert world.control is not None
    database = world.control.store._db
    rows = database.execute("SELECT kind, scope, key, document FROM records ORDER BY kind, scope, key").fetchall()
    # How often access lists changed on the way may differ; it only grows.
    rows = [row for row in rows if not row[0].endswith("security-group-revision")]
    index = database.execute("SELECT * FROM record_index ORDER BY 1, 2, 3, 4, 5").fetchall()
    with world.control.store.read() as view:
        events = [event.event_id for event in view.events(SCOPE, 0, 1e12)]
    nodes = world.directory / "nodes"
    return {
        "records": [
            (kind, scope, _unstamped(key), _stable(json.loads(document))) for kind, scope, key, document in rows
        ],
        "index": [tuple(_unstamped(str(value)) for value in row) for row in index],
        "jobs": [
            (job.program, job.step, _unstamped(job.subject), _stable(job.frame), job.overdue) for job in world.jobs()
        ],
        "events": sorted(events),
        "files": sorted(
            _unstamped(str(path.relative_to(nodes))) for path in nodes.rglob("*") if path.name != "startup.log"
        ),
        "sockets": sorted(path.name for path in (world.directory / "sockets").iterdir()),
        "engines": {node: (engine.tag, engine.settings) for node, engine in world.host.engines.items()},
        "accounts": [path.read_text() for path in sorted(nodes.glob("*/volume/data/accounts.json"))],
        "routes": world.host.routes,
        "violations": world.host.violations + world.host.storage.violations,
        "backups": {
            prefix: sorted(_unstamped(name) for name in backups)
            for prefix, backups in world.host.storage.backups.items()
        },
        "clones": {
            prefix: sorted(_unstamped(name) for name in clones)
            for prefix, clones in world.host.storage.clones.items()
            if clones
        },
        "agent_jobs": [_unstamped(job_id) for job_id in world.host.storage.jobs],
        "status": [one["DBInstanceStatus"] for one in world.describe()],
    }


def check_repositories(world: World) -> None:
    """What is stored is what is recorded, under the recorded key, and nobody works on it any more."""
    assert world.control is not None
    storage = world.host.storage
    assert (storage.violations, storage.jobs) == ([], {})
    with world.control.store.read() as view:
        repositories = {one.prefix: one for one in view.scan(BackupRepository)}
        rows = view.scan(DBSnapshot)
        records = view.scan(DBInstanceAutomatedBackup)
    assert {row.status for row in rows} <= {"available", "failed"}, (rows, world.jobs())
    recorded: dict[str, set[str]] = {}
    for row in rows:
        if row.status == "available":
            prefix = next(prefix for prefix, one in repositories.items() if one.repository_id == row.repository_id)
            recorded.setdefault(prefix, set()).add(row.backup_id)
    stored = {prefix: set(backups) for prefix, backups in storage.backups.items() if backups}
    assert stored == recorded, (rows, records, world.jobs())
    assert not any(row.local for row in rows), (rows, world.jobs())
    assert all(set(clones) <= recorded.get(prefix, set()) for prefix, clones in storage.clones.items()), storage.clones
    used = {row.repository_id for row in rows if row.status == "available"} | {
        record.repository_id for record in records
    }
    assert {one.repository_id for one in repositories.values()} == used
    for prefix, key in storage.keys.items():
        with world.control.store.read() as view:
            assert open_repository(view, world.control.vault, repositories[prefix]).data_key == key
