"""Prometheus' text format 0.0.4, for a node exporter's textfile collector or a script."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

BACKUP_GAUGES = {
    "restore_test_age_seconds": "restore_test_age_s",
    "restore_test_overdue": "restore_test_overdue",
    "lag_seconds": "lag_s",
    "log_gap_open": "gap_open",
    "count": "backups",
    "size_bytes": "size_bytes",
    "stored_bytes": "stored_bytes",
    "earliest_restorable_timestamp_seconds": "earliest_at",
    "latest_restorable_timestamp_seconds": "latest_at",
    "created_timestamp_seconds": "created_at",
}
"""Of `mainstay backups list`: the name behind "mainstay_backup_", and the member of a row with automated backups."""


def sample(name: str, labels: Mapping[str, str], value: float) -> str:
    """One line."""
    escaped = {
        label: text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for label, text in labels.items()
    }
    told = ",".join(f'{label}="{text}"' for label, text in escaped.items())
    return f"{name}{{{told}}} {value:.15g}\n"


def backup_samples(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """What there is to say of automated backups; what is not known, or never was, is left out.

    `verified_good` and `restore_test_good` are of the last proof, 1 or 0.
    """
    automated = [row for row in rows if row["kind"] == "automated"]
    for name, member in sorted(BACKUP_GAUGES.items()):
        for row in automated:
            if row[member] is not None:
                yield sample(f"mainstay_backup_{name}", _labels(row), float(row[member]))
    for name, member in (("restore_test_good", "restore_tested"), ("verified_good", "verified")):
        for row in automated:
            if row[member] is not None:
                yield sample(f"mainstay_backup_{name}", _labels(row), float(row[member]["good"]))


def _labels(row: dict[str, Any]) -> dict[str, str]:
    return {"instance": row["instance"], "region": row["region"], "backups": row["name"]}
