"""Long work on a real engine tells how far it is in events; the interval is so small that a second is long."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.backups import Kept
from harness.service import HOMES, Service

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(300)]

ROWS = 3_000_000
"""Of 64 hexadecimal digits: some 300 MiB."""


@pytest.fixture(scope="module")
def kept() -> Iterator[Kept]:
    """An instance with a snapshot `one`."""
    with Service(progress_event_interval_s="0.05") as service:
        made = service.create_instance("source", DBInstanceClass="db.t3.medium", BackupRetentionPeriod=7)
        with service.connect(made) as session:
            session.execute(
                "CREATE TABLE bulk AS SELECT g AS id, md5(g::text) || md5((-g)::text) AS value"
                " FROM generate_series(1, %s) g",
                (ROWS,),
            )
        kept = Kept(service, "source")
        kept.await_window()
        kept.begin_snapshot("one")
        kept.await_snapshot("one")
        yield kept


def told(kept: Kept, source: str, source_type: str, category: str, beginning: str) -> list[str]:
    """Messages of this kind that begin so."""
    found = kept.rds.describe_events(SourceIdentifier=source, SourceType=source_type, EventCategories=[category])
    return [event["Message"] for event in found["Events"] if event["Message"].startswith(beginning)]


def test_a_backup_tells_its_instance_and_its_snapshot(kept: Kept) -> None:
    of_instance = told(kept, "source", "db-instance", "backup", "Backup in progress: ")
    of_snapshot = told(kept, "one", "db-snapshot", "creation", "Creation of the snapshot in progress: ")
    assert of_instance and of_snapshot
    assert {one.partition(": ")[2] for one in of_snapshot} <= {one.partition(": ")[2] for one in of_instance}
    assert len(of_snapshot) <= 10, "a tenth more each time"


def test_a_restore_and_an_export_tell_how_far_they_are(kept: Kept) -> None:
    kept.restore_snapshots({"again": "one"})
    kept.await_status("again")
    found = told(kept, "again", "db-instance", "restoration", "Restore in progress: ")
    assert found and len(found) <= 11
    directory = Path(tempfile.mkdtemp(dir=HOMES))
    try:
        kept.service.cli("backups", "export", "one", str(directory))
    finally:
        shutil.rmtree(directory)
    exported = f"Export of the snapshot to {directory} in progress: "
    *progress, end = told(kept, "one", "db-snapshot", "notification", "")
    assert progress and all(one.startswith(exported) for one in progress)
    assert end == f"The DB snapshot one was exported to {directory}"
    kept.drop("again")
