"""`mainstay nodes`."""

from __future__ import annotations

import json

from rich.console import Console
from rich.table import Table

from mainstay.cli.agent import ask_agent
from mainstay.settings import Settings

COLUMNS = ("node", "instance", "role", "az", "phase", "pid", "address", "port", "data_directory", "failure")


def show_nodes(settings: Settings, *, as_json: bool) -> None:
    """Every node of this host, as a table or as JSON (one object a node, keys as the columns)."""
    rows = [
        {
            "node": node["node_id"],
            "instance": node["db_instance_identifier"],
            "role": node["role"],
            "az": node["availability_zone"],
            "phase": node["phase"],
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
    table = Table()
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(row[column]) for column in COLUMNS))
    Console().print(table)
