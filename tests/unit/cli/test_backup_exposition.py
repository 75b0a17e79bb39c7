"""`mainstay backups list --prometheus`."""

from __future__ import annotations

from typing import Any

from mainstay.cli.exposition import BACKUP_GAUGES, backup_samples


def test_what_is_known_of_automated_backups_is_told_and_nothing_else() -> None:
    row: dict[str, Any] = {
        "kind": "automated", "name": "ab-1", "instance": "shop", "region": "us-west-2", "verified": None,
        "restore_tested": {"good": True}, **dict.fromkeys(BACKUP_GAUGES.values()), "restore_test_age_s": 12.5,
        "restore_test_overdue": False, "stored_bytes": 1 << 40,
    }  # fmt: skip
    labels = '{instance="shop",region="us-west-2",backups="ab-1"}'
    assert "".join(backup_samples([row, {"kind": "manual snapshot"}])).splitlines() == [
        f"mainstay_backup_restore_test_age_seconds{labels} 12.5",
        f"mainstay_backup_restore_test_overdue{labels} 0",
        f"mainstay_backup_stored_bytes{labels} 1099511627776",
        f"mainstay_backup_restore_test_good{labels} 1",
    ]
