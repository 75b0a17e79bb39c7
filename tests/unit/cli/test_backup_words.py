"""What people read of backups."""

from __future__ import annotations

from typing import Any

import pytest

from mainstay.cli.backup_table import automated_words, show_rows, snapshot_words
from mainstay.cli.words import proof, restoring
from mainstay.decide.progress import pace_words, size, span

NOW = 1_800_000_000.0
ROW: dict[str, Any] = {
    "kind": "automated", "name": "ab-1", "instance": "shop", "region": "us-west-2", "status": "active", "backups": 3,
    "failed": [], "created_at": NOW - 7200, "size_bytes": 3 << 30, "stored_bytes": 1 << 29, "kms_key_id": "",
    "earliest_at": NOW - 86400, "latest_at": NOW - 2, "lag_s": 2.4, "archive_failure": "", "gap_at": None,
    "gap_open": False, "verified": None, "restore_test_overdue": False,
    "restore_tested": {"at": NOW - 3 * 86400, "good": True, "failure": "", "damages": []},
}  # fmt: skip


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3 << 29, "1.5 GiB"), (5 << 40, "5.0 TiB")]
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


def test_spans() -> None:
    assert [span(seconds) for seconds in (-1, 59, 60, 7200, 200_000)] == ["0 s", "59 s", "1 min", "2 h", "2 d"]


def test_a_line_of_automated_backups() -> None:
    words = automated_words(ROW, NOW)
    assert (words["newest"], words["size"], words["stored"]) == ("2 h ago", "3.0 GiB", "512.0 MiB")
    assert words["lag"] == "2 s" and words["key"] == "the service's own" and words["gap"] == ""
    assert words["verified"] == "never" and words["restore test"] == "good, 3 d ago"
    away = ROW | {"lag_s": None, "archive_failure": "away", "gap_at": NOW - 60, "gap_open": True, "latest_at": None}
    words = automated_words(away, NOW)
    assert words["lag"] == "not shipped: away" and words["gap"].endswith(", not healed")
    assert words["restorable"] == "none yet"
    assert automated_words(ROW | {"restore_test_overdue": True}, NOW)["restore test"] == "good, 3 d ago OVERDUE"


def test_proofs_and_progress() -> None:
    damaged = {"at": NOW - 60, "good": False, "failure": "", "damages": ["pack 7", "pack 8"]}
    assert proof(damaged, NOW) == "DAMAGE, 1 min ago: pack 7 (and 1 more)"
    assert proof(damaged | {"failure": "no room"}, NOW) == "NOT POSSIBLE, 1 min ago: no room"
    files = {"phase": "files", "bytes_done": 1 << 20, "bytes_total": 4 << 20}
    assert restoring(files) == "restoring files: 1.0 MiB of 4.0 MiB (25 %)"
    assert restoring({"phase": "log", "bytes_done": 1 << 24, "bytes_total": 0}) == "restoring log: 16.0 MiB"
    assert restoring(None) == ""
    slow = {"phase": "files", "bytes_done": 1 << 30, "bytes_total": 4 << 30, "seconds": 10.0}
    assert restoring(slow) == "restoring files: 1.0 GiB of 4.0 GiB (25 %), 102.4 MiB/s, 30 s left"
    assert pace_words(1 << 20, 0, 2.0) == "1.0 MiB, 512.0 KiB/s" and pace_words(0, 5, 9.0) == "0 B of 5 B (0 %)"


def test_tables(capsys: pytest.CaptureFixture[str]) -> None:
    shot = {name: ROW[name] for name in ("instance", "region", "created_at", "size_bytes", "stored_bytes")} | {
        "kind": "manual snapshot", "name": "shot", "status": "failed", "failed": ["no room"], "kms_key_id": "arn:key",
        "verified": None,
    }  # fmt: skip
    assert snapshot_words(shot, NOW)["status"] == "failed: no room"
    making = {"bytes_done": 1 << 20, "bytes_total": 1 << 22, "seconds": 1.0}
    words = snapshot_words(shot | {"status": "creating", "failed": [], "progress": making}, NOW)
    assert words["status"] == "creating: 1.0 MiB of 4.0 MiB (25 %), 1.0 MiB/s, 3 s left"
    show_rows([ROW, shot], NOW)
    shown = capsys.readouterr().out
    assert "Automated backups" in shown and "Snapshots" in shown
    show_rows([], NOW)
    assert "There are no backups." in capsys.readouterr().out
