"""The `mainstay` command: every sub-command, each with a module of its own that is imported when it is used."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from mainstay.cli.backups import app as backups_app
from mainstay.cli.engines import app as engines_app
from mainstay.cli.proxy import app as proxy_app
from mainstay.host.logs import log_to_standard_error
from mainstay.model.errors import MainstayError
from mainstay.settings import Settings, load_settings

app = typer.Typer(
    name="mainstay",
    help="Managed relational databases that you own: the Amazon RDS API in front of real engines.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(engines_app, name="engines")
app.add_typer(proxy_app, name="proxy")
app.add_typer(backups_app, name="backups")

Home = Annotated[Path | None, typer.Option(help="Directory of the service (MAINSTAY_HOME).")]
Port = Annotated[int | None, typer.Option(help="TCP port of the AWS API (MAINSTAY_PORT).")]


def settings_of(home: Path | None = None, **flags: object) -> Settings:
    """The settings of this invocation: flags over environment over file over defaults."""
    return load_settings(os.environ, home=home, **flags)


@app.command()
def up(
    home: Home = None,
    port: Port = None,
    listen: Annotated[str | None, typer.Option(help="Address of the AWS API (MAINSTAY_LISTEN).")] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when the service answers.")] = False,
) -> None:
    """Start the service; Ctrl-C stops it, or with --detach it goes on in the background."""
    from mainstay.cli.service import start

    start(settings_of(home, port=port, listen=listen), detach=detach)


@app.command()
def down(home: Home = None) -> None:
    """Stop the service and its engines. Nothing is lost; `mainstay up` goes on where it was."""
    from mainstay.cli.service import stop

    stop(settings_of(home))


@app.command()
def status(home: Home = None) -> None:
    """What runs: processes and instances. Exits 0 if the service is up, 3 if it is down."""
    from mainstay.cli.service import show_status

    raise typer.Exit(show_status(settings_of(home)))


@app.command()
def logs(
    process: Annotated[
        str | None, typer.Argument(help="control, agent, endpoint, proxy or supervisor; all without.")
    ] = None,
    home: Home = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=100_000, help="How many lines of each.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on showing new lines.")] = False,
) -> None:
    """The service's own log lines."""
    from mainstay.cli.logs import show_logs

    show_logs(settings_of(home), process, lines, follow=follow)


@app.command()
def doctor(home: Home = None) -> None:
    """What this host can do and what is missing. Exits 1 if something stands in the way of running at all."""
    from mainstay.cli.doctor import examine

    raise typer.Exit(examine(settings_of(home)))


@app.command()
def env(home: Home = None) -> None:
    """Print `export` lines for the aws CLI, boto3 and Terraform: eval "$(mainstay env)"."""
    from mainstay.cli.environment import show_environment

    show_environment(settings_of(home))


@app.command()
def nodes(home: Home = None, as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False) -> None:
    """Engine processes: node, instance, role, AZ, pid, port and data directory."""
    from mainstay.cli.nodes import show_nodes

    show_nodes(settings_of(home), as_json=as_json)


@app.command()
def explain(
    instance: Annotated[str, typer.Argument(help="The DB instance's identifier.")],
    home: Home = None,
) -> None:
    """Why the last failover of an instance happened, or why one is not possible now."""
    from mainstay.cli.explain import show_explanation

    show_explanation(settings_of(home), instance)


@app.command()
def tour(
    home: Home = None,
    engine: Annotated[str, typer.Option(help="postgres, mariadb or mysql.")] = "postgres",
    keep: Annotated[bool, typer.Option("--keep/--delete", help="Keep the tour's instance at the end.")] = True,
) -> None:
    """Do the main job once, with real AWS API calls on a real engine, and show it."""
    from mainstay.cli.tour import run_tour

    run_tour(settings_of(home), engine, keep=keep)


def main() -> None:
    """Entry point: our errors become one sentence with a hint, not a traceback."""
    log_to_standard_error()
    try:
        app()
    except MainstayError as error:
        print(f"mainstay: {error}", file=sys.stderr)
        if error.hint:
            print(f"          {error.hint}", file=sys.stderr)
        sys.exit(1)
