"""`mainstay backups list` for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from mainstay.cli.tables import show_table
from mainstay.cli.words import moment, proof
from mainstay.decide.progress import pace_words, size, span


def show_rows(rows: list[dict[str, Any]], now: float) -> None:
    """Prints what there is: automated backups, then snapshots. `now` is epoch seconds."""
    console = Console()
    automated = [row for row in rows if row["kind"] == "automated"]
    snapshots = [row for row in rows if row["kind"] != "automated"]
    if not rows:
        console.print("There are no backups.")
    if automated:
        show_table(console, [automated_words(row, now) for row in automated], "Automated backups")
    if snapshots:
        show_table(console, [snapshot_words(row, now) for row in snapshots], "Snapshots")


def automated_words(row: dict[str, Any], now: float) -> dict[str, str]:
    """One line of the table, by column."""
    window = "none yet" if row["latest_at"] is None else f"{moment(row['earliest_at'])} to {moment(row['latest_at'])}"
    lag = "not shipped" if row["lag_s"] is None else span(row["lag_s"])
    if row["archive_failure"]:
        lag += f": {row['archive_failure']}"
    gap = "" if row["gap_at"] is None else f"since {moment(row['gap_at'])}{', not healed' if row['gap_open'] else ''}"
    overdue = " OVERDUE" if row["restore_test_overdue"] else ""
    return {
        "instance": row["instance"],
        "region": row["region"] + (f" (of {row['copy_of']})" if row.get("copy_of") else ""),
        "status": row["status"],
        "backups": str(row["backups"]),
        "newest": "" if row["created_at"] is None else f"{span(now - row['created_at'])} ago",
        "size": size(row["size_bytes"]),
        "stored": size(row["stored_bytes"]),
        "key": row["kms_key_id"] or "the service's own",
        "restorable": window,
        "lag": lag,
        "gap": gap,
        "verified": proof(row["verified"], now),
        "restore test": proof(row["restore_tested"], now, "FAILED") + overdue,
    }


def snapshot_words(row: dict[str, Any], now: float) -> dict[str, str]:
    """One line of the table, by column."""
    return {
        "snapshot": row["name"],
        "instance": row["instance"],
        "region": row["region"],
        "kind": row["kind"].split()[0],
        "status": row["status"] + "".join(f": {reason}" for reason in row["failed"]) + _progress(row),
        "made as": ": ".join(filter(None, (row.get("way"), row.get("copied_because")))),
        "age": "" if row["created_at"] is None else span(now - row["created_at"]),
        "size": size(row["size_bytes"]),
        "stored": size(row["stored_bytes"]),
        "key": row["kms_key_id"] or "the service's own",
        "verified": proof(row["verified"], now),
    }


def _progress(row: dict[str, Any]) -> str:
    told = row.get("progress")
    here = ", on this host only until it is stored" if row.get("local") else ""
    return here if not told else f"{here}: {pace_words(told['bytes_done'], told['bytes_total'], told['seconds'])}"
