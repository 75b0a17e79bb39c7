"""`mainstay backups`: what there is, whether it is sound, whether it restores, and how to take it away."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from mainstay.settings import Settings, load_settings

app = typer.Typer(help="Backups: list, verify, prove that they restore, export.", no_args_is_help=True)

Home = Annotated[Path | None, typer.Option(help="Directory of the service (MAINSTAY_HOME).")]
Region = Annotated[str, typer.Option(help="Region, where the name alone is not enough.")]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]
Instance = Annotated[str, typer.Argument(help="DB instance: identifier, DbiResourceId or ARN of its backups.")]
Snapshot = Annotated[str, typer.Argument(help="DB snapshot: identifier or ARN.")]
POLL_S = 0.5
AWAY_MAX_S = 60.0
"""For so long a service that does not answer is asked again: its control process may be starting anew."""


@app.command("list")
def list_backups(
    instance: Annotated[str, typer.Argument(help="Only what belongs to this DB instance or has this name.")] = "",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Automated backups and snapshots of all regions: age, sizes, restore window, lag, gaps, last proofs."""
    from mainstay.cli.agent import ask_control

    rows = ask_control(load_settings(os.environ, home=home), "list_backups", {"instance": instance})
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    from mainstay.cli.backup_table import show_rows

    show_rows(rows, time.time())


@app.command()
def verify(
    name: Annotated[str, typer.Argument(help="DB instance or DB snapshot: identifier, id or ARN.")],
    home: Home = None,
    region: Region = "",
    as_json: Json = False,
) -> None:
    """Read everything back and check it, the log too. Exits 1 if anything is damaged or missing, and says what."""
    settings = load_settings(os.environ, home=home)
    told = _follow(settings, "verify_backups", {"name": name, "region": region}, quiet=as_json)
    _end(told, "everything is as it was written", "DAMAGE", as_json=as_json)


@app.command("restore-test")
def restore_test(instance: Instance, home: Home = None, region: Region = "", as_json: Json = False) -> None:
    """Really restore the newest moment into a new instance, check that, delete it. Exits 1 if it did not work."""
    settings = load_settings(os.environ, home=home)
    told = _follow(settings, "test_restore", {"name": instance, "region": region}, quiet=as_json)
    from mainstay.cli.words import moment

    good = f"the database as of {moment(told['moment'])} was restored, and all of it could be read"
    _end(told, good, "FAILED", as_json=as_json)


@app.command()
def restore(
    instance: Instance,
    new_instance: Annotated[str, typer.Argument(help="Identifier of the DB instance that is made.")],
    to_lsn: Annotated[
        str, typer.Option("--to-lsn", help="Up to this place in the log: 16/B374D848; of MariaDB 1/17:4711.")
    ] = "",
    to_xid: Annotated[str, typer.Option("--to-xid", help="Up to and with this transaction; of MariaDB a GTID.")] = "",
    db_instance_class: Annotated[str, typer.Option("--class", help="Its class; the source's without.")] = "",
    home: Home = None,
    region: Region = "",
) -> None:
    """Restore to a place in the log, which the RDS API cannot (to a moment: RestoreDBInstanceToPointInTime)."""
    from mainstay.cli.agent import ask_control

    params = {
        "name": instance, "region": region, "target": new_instance, "position": to_lsn, "transaction": to_xid,
        "db_instance_class": db_instance_class,
    }  # fmt: skip
    made = ask_control(load_settings(os.environ, home=home), "restore_further", params)
    print(f"The DB instance {made} is being made; `mainstay status` shows how far it is.")


@app.command()
def export(
    snapshot: Snapshot,
    directory: Annotated[Path, typer.Argument(help="Where: a directory that is empty or does not exist.")],
    home: Home = None,
    region: Region = "",
    owner: Annotated[str, typer.Option(help="System user who is to own the files (root only).")] = "",
) -> None:
    """Write a snapshot as plain files that a stock server starts from, checked; README-MAINSTAY.txt says how."""
    from mainstay.cli.export import export_snapshot

    export_snapshot(load_settings(os.environ, home=home), snapshot, directory, region=region, owner=owner)


def _follow(settings: Settings, method: str, params: dict[str, Any], *, quiet: bool) -> dict[str, Any]:
    """Asks for a look at backups and shows how far it is, until it has ended; what it came to."""
    from mainstay.cli.agent import ask_control
    from mainstay.cli.progress import bar

    ticket = ask_control(settings, method, params)
    with bar(quiet=quiet) as show:
        while True:
            look = _look(settings, ticket)
            if not look["running"]:
                found: dict[str, Any] = look["proof"]
                return found
            show(look["doing"], look["bytes_done"], look["bytes_total"])
            time.sleep(POLL_S)


def _look(settings: Settings, ticket: Any) -> dict[str, Any]:
    from mainstay.cli.agent import ask
    from mainstay.model.errors import Transient

    deadline = time.monotonic() + AWAY_MAX_S
    while True:
        try:
            look: dict[str, Any] = ask(settings, "control", "look_at_ticket", ticket)
        except Transient:
            if time.monotonic() > deadline:
                raise
        else:
            return look


def _end(told: dict[str, Any], good: str, bad: str, *, as_json: bool) -> None:
    from mainstay.cli.words import size, span

    fine = not told["damages"] and not told["failure"]
    if as_json:
        print(json.dumps({**told, "good": fine}, indent=2))
    elif fine:
        print(f"Good: {good} ({size(told['size_bytes'])} in {span(told['seconds'])}).")
    elif told["failure"]:
        print(f"Not possible: {told['failure']}")
    else:
        print(f"{bad}: {len(told['damages'])} found.")
        for one in told["damages"]:
            print(f"  {one}")
    if not fine:
        raise typer.Exit(1)
