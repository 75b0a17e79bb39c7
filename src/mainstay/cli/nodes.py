"""`mainstay nodes`."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console

from mainstay.cli.agent import ask_agent
from mainstay.cli.tables import show_table
from mainstay.cli.words import restoring
from mainstay.decide.replication_status import STORAGE_FULL
from mainstay.settings import Settings


def show_nodes(settings: Settings, *, as_json: bool) -> None:
    """Every node of this host, as a table or as JSON (one object a node, keys as the columns).

    `replication` of a read replica is {"streaming", "lag_s", "lag_bytes", …} (`model.node.ReplicationStatus`), else
    null; `restore` of an instance that is being restored {"phase", "bytes_done", "bytes_total"}, else null.
    """
    rows = [
        {
            "node": node["node_id"],
            "instance": node["db_instance_identifier"],
            "role": node["role"],
            "az": node["availability_zone"],
            "phase": node["phase"],
            "replication": replication_of(node),
            "restore": node.get("restore"),
            "pid": node.get("pid", 0),
            "address": node.get("address", ""),
            "port": node.get("port", 0),
            "data_directory": node.get("data_directory", ""),
            "failure": node.get("failure", ""),
        }
        for node in ask_agent(settings, "nodes")
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    console = Console()
    if not rows:
        console.print("There are no nodes.")
        return
    for row in rows:
        row["replication"] = replication_words(row["replication"])
        row["restore"] = restoring(row["restore"])
    show_table(console, [{name: str(value or "") for name, value in row.items()} for row in rows])


def replication_of(node: dict[str, Any]) -> dict[str, Any] | None:
    """How a node follows, as the agent tells it; of one whose storage is full what DescribeDBInstances says then."""
    replication: dict[str, Any] | None = node.get("replication")
    if replication is None or not node.get("storage_full"):
        return replication
    return {**replication, "streaming": False, "lag_s": None, "message": STORAGE_FULL}


def replication_words(replication: dict[str, Any] | None) -> str:
    """How a read replica follows, in a few words; "" for a node that is none, or of which it is not known."""
    if replication is None:
        return ""
    lag_s, lag_bytes = replication.get("lag_s"), replication.get("lag_bytes")
    seconds = "unknown" if lag_s is None else f"{lag_s:.1f} s"
    behind = "" if lag_bytes is None else f", {lag_bytes} bytes"
    state = "streaming" if replication["streaming"] else replication.get("message", "not streaming")
    return f"{state}, {'paused, ' if replication.get('paused') else ''}lag {seconds}{behind}"
