"""Everything that can be seen of a world, for comparing two runs that should have ended alike."""

from __future__ import annotations

import json
from typing import Any

from simulation.world import SCOPE, World

VOLATILE = {
    "requested_at", "instance_create_time", "automatic_restart_at", "certificate", "attach_time", "created_at",
    "server_certificate_valid_till", "due_at", "deadline_at", "id", "attempts",
}  # fmt: skip


def _stable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _stable(one) for name, one in sorted(value.items()) if name not in VOLATILE}
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
        "records": [(kind, scope, key, _stable(json.loads(document))) for kind, scope, key, document in rows],
        "index": index,
        "jobs": [(job.program, job.step, job.subject, _stable(job.frame), job.overdue) for job in world.jobs()],
        "events": sorted(events),
        "files": sorted(str(path.relative_to(nodes)) for path in nodes.rglob("*") if path.name != "startup.log"),
        "sockets": sorted(path.name for path in (world.directory / "sockets").iterdir()),
        "engines": {node: (engine.tag, engine.settings) for node, engine in world.host.engines.items()},
        "accounts": [path.read_text() for path in sorted(nodes.glob("*/volume/data/accounts.json"))],
        "routes": world.host.routes,
        "violations": world.host.violations,
        "status": [one["DBInstanceStatus"] for one in world.describe()],
    }
