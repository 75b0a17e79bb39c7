"""`mainstay backups`: what there is, whether it is sound, whether it restores, and how to take it away."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from mainstay.settings import Settings, load_settings

app = typer.Typer(help="Backups: list, verify, prove that they restore, restore, export, import.", no_args_is_help=True)

Home = Annotated[Path | None, typer.Option(help="Directory of the service (MAINSTAY_HOME).")]
Region = Annotated[str, typer.Option(help="Region, where the name alone is not enough.")]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]
Instance = Annotated[str, typer.Argument(help="DB instance: identifier, DbiResourceId or ARN of its backups.")]
Snapshot = Annotated[str, typer.Argument(help="DB snapshot: identifier or ARN.")]
Paused = Annotated[str, typer.Argument(help="DB instance that `restore --paused` has made.")]
KeptName = Annotated[str, typer.Argument(help="Name of the data, as `mainstay backups kept` shows it.")]
ToTime = Annotated[str, typer.Option("--to-time", help="Up to this moment, such as 2026-11-29T09:15:00Z.")]
ToLsn = Annotated[str, typer.Option("--to-lsn", help="Up to this place in the log, such as 16/B374D848.")]
ToXid = Annotated[str, typer.Option("--to-xid", help="Up to and with this transaction.")]
Latest = Annotated[bool, typer.Option("--latest", help="Up to the latest restorable moment.")]
POLL_S = 0.5
AWAY_MAX_S = 60.0
"""For so long a service that does not answer is asked again: its control process may be starting anew."""


@app.command("list")
def list_backups(
    instance: Annotated[str, typer.Argument(help="Only what belongs to this DB instance or has this name.")] = "",
    home: Home = None,
    as_json: Json = False,
    prometheus: Annotated[
        bool, typer.Option("--prometheus", help="Automated backups in Prometheus' text format.")
    ] = False,
) -> None:
    """Automated backups and snapshots of all regions: age, sizes, restore window, lag, gaps, last proofs."""
    from mainstay.cli.agent import ask_control
    from mainstay.cli.exposition import backup_samples

    rows = ask_control(load_settings(os.environ, home=home), "list_backups", {"instance": instance})
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    if prometheus:
        print("".join(backup_samples(rows)), end="")
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
def restore(  # noqa: PLR0913 - each is an option of the command
    instance: Instance,
    new_instance: Annotated[str, typer.Argument(help="Identifier of the DB instance that is made.")],
    to_time: ToTime = "",
    to_lsn: ToLsn = "",
    to_xid: ToXid = "",
    latest: Latest = False,
    paused: Annotated[
        bool, typer.Option("--paused", help="Stop there, read-only, for a look; then `open` it or `move` it on.")
    ] = False,
    db_instance_class: Annotated[str, typer.Option("--class", help="Its class; the source's without.")] = "",
    home: Home = None,
    region: Region = "",
) -> None:
    """Restore into a new instance: to a moment, or (what the RDS API cannot) to a place in the log or with a pause."""
    place = _place(to_time, to_lsn, to_xid, latest=latest)
    more = {"target": new_instance, "paused": paused, "place": place, "db_instance_class": db_instance_class}
    made = _order("restore_further", instance, home, region, **more)
    print(f"The DB instance {made} is being made; `mainstay status` shows how far it is.")
    if paused:
        print(f"It stops read-only for a look: `mainstay backups open {made}` opens it, `move` goes on, or delete it.")


@app.command("open")
def open_restore(instance: Paused, home: Home = None, region: Region = "") -> None:
    """Open a restore that is paused for a look, as it is: from then on it is an ordinary DB instance."""
    opened = _order("open_paused", instance, home, region)
    print(f"The DB instance {opened} is being opened; it is `available` in a moment.")


@app.command()
def move(
    instance: Paused,
    to_time: ToTime = "",
    to_lsn: ToLsn = "",
    to_xid: ToXid = "",
    latest: Latest = False,
    home: Home = None,
    region: Region = "",
) -> None:
    """Move a restore that is paused for a look on to a later place, where it stops for a look again."""
    moved = _order("move_paused", instance, home, region, place=_place(to_time, to_lsn, to_xid, latest=latest))
    print(f"The restore {moved} goes on; `mainstay status` shows when it has arrived.")


@app.command("import")
def import_(
    directory: Annotated[Path, typer.Argument(help="What `pg_basebackup` has written, plain or -Ft, with its WAL.")],
    instance: Annotated[str, typer.Argument(help="DB instance that is to have this data; made for it, and empty.")],
    home: Home = None,
    region: Region = "",
    without_manifest: Annotated[
        bool,
        typer.Option("--without-manifest", help="Take one without backup_manifest: nothing checks its files."),
    ] = False,
) -> None:
    """Give an instance the data of a base backup that PostgreSQL's own tools have taken, checked; it is only read."""
    from mainstay.cli.import_backup import import_backup

    settings = load_settings(os.environ, home=home)
    aside = import_backup(settings, directory, instance, region=region, has_manifest=not without_manifest)
    print(f"{instance} is being given the data.")
    print(f"`mainstay backups discard {instance} {aside}` removes what it had before.")


@app.command()
def load(  # noqa: PLR0913 - each is an option of the command
    dump: Annotated[Path, typer.Argument(help="What `pg_dump` has written: plain, -Fc, -Ft or -Fd.")],
    instance: Annotated[str, typer.Argument(help="DB instance that it is brought into.")],
    database: Annotated[str, typer.Option(help="Database of it; the one it was created with without.")] = "",
    user: Annotated[str, typer.Option(help="User with whose rights it is done; the master user without.")] = "",
    password_file: Annotated[
        Path | None, typer.Option(help="File (mode 600) with the password; else asked for.")
    ] = None,
    no_owner: Annotated[bool, typer.Option("--no-owner", help="Of archives: leave owners out.")] = False,
    no_privileges: Annotated[bool, typer.Option("--no-privileges", help="Of archives: leave grants out.")] = False,
    home: Home = None,
    region: Region = "",
) -> None:
    """Bring a dump of PostgreSQL into a database, all of it or nothing, whoever has made the dump."""
    from mainstay.cli.load_dump import LoadRequest, load_dump

    request = LoadRequest(
        dump=dump,
        instance=instance,
        region=region,
        database=database,
        user=user,
        password_file=password_file,
        without_owners=no_owner,
        without_privileges=no_privileges,
    )
    loaded, into = load_dump(load_settings(os.environ, home=home), request)
    print(f"Loaded into {into} of {instance}: {loaded.statements} statements, {loaded.rows} rows.")
    print("Run ANALYZE in it, so that its queries are planned for what is there now.")


@app.command("restore-in-place")
def restore_in_place(
    instance: Instance,
    to_time: ToTime = "",
    to_lsn: ToLsn = "",
    to_xid: ToXid = "",
    latest: Latest = False,
    home: Home = None,
    region: Region = "",
) -> None:
    """Restore an instance in its own place: name, endpoint and settings stay, its present data is kept aside."""
    kept = _order("restore_in_place", instance, home, region, place=_place(to_time, to_lsn, to_xid, latest=latest))
    print(f"{instance} is down until it is restored; `mainstay status` shows how far it is.")
    print(f"Its present data is kept: `mainstay backups go-back {instance} {kept}` or `discard {instance} {kept}`.")


@app.command("kept")
def list_kept(
    instance: Annotated[str, typer.Argument(help="Only of this DB instance.")] = "",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Data that restores in place have set aside: what can be gone back to, or discarded."""
    from mainstay.cli.agent import ask_control
    from mainstay.cli.words import kept_words

    rows = ask_control(load_settings(os.environ, home=home), "list_kept_data", {"instance": instance})
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        print(kept_words(row))
    if not rows:
        print("Nothing is kept aside.")


@app.command("go-back")
def go_back(instance: Instance, kept: KeptName, home: Home = None, region: Region = "") -> None:
    """Put data that was kept aside in place again; the present data is kept aside in its turn."""
    aside = _order("go_back", instance, home, region, kept=kept)
    print(f"{instance} goes back to {kept}; its present data is kept as {aside}.")


@app.command()
def discard(instance: Instance, kept: KeptName, home: Home = None, region: Region = "") -> None:
    """Remove data that was kept aside, for good."""
    gone = _order("discard", instance, home, region, kept=kept)
    print(f"{gone} of {instance} is being removed.")


def _order(method: str, instance: str, home: Path | None, region: str, **more: Any) -> Any:
    """What control answers to an order about an instance."""
    from mainstay.cli.agent import ask_control

    return ask_control(load_settings(os.environ, home=home), method, {"name": instance, "region": region, **more})


def _place(to_time: str, to_lsn: str, to_xid: str, *, latest: bool) -> dict[str, Any]:
    """What control calls a `Place`; it says what is wrong with one."""
    from mainstay.model.errors import Permanent
    from mainstay.protocol.aws.scalars import timestamp_from_text

    at = None
    if to_time:
        try:
            at = timestamp_from_text(to_time).timestamp()
        except ValueError as error:
            raise Permanent(
                f"{to_time!r} is no moment", hint="Write it as 2026-11-29T09:15:00Z; without an offset it is UTC."
            ) from error
    return {"at": at, "latest": latest, "position": to_lsn, "transaction": to_xid}


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
    from mainstay.decide.progress import size, span

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
