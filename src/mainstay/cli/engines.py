"""`mainstay engines list` and `mainstay engines install`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from mainstay.settings import load_settings

app = typer.Typer(help="Engine versions: what is installed and what can be.", no_args_is_help=True)

Home = Annotated[Path | None, typer.Option(help="Directory of the service (MAINSTAY_HOME).")]


@app.command("list")
def list_engines(home: Home = None) -> None:
    """Installed versions with their origin and place, and major versions that can be installed."""
    from rich.console import Console
    from rich.table import Table

    from mainstay.engines.builds import Builds
    from mainstay.model.engine import ORIGIN_INSTALLED, ORIGIN_SYSTEM

    builds = Builds(load_settings(os.environ, home=home))
    installed = builds.installed()
    own = {(build.engine, build.major) for build in installed if build.origin == ORIGIN_INSTALLED}
    table = Table()
    for column in ("engine", "version", "origin", "place"):
        table.add_column(column, overflow="fold")
    for build in installed:
        table.add_row(build.engine, build.version, build.origin, str(build.prefix))
    for one in builds.installable():
        if (one.engine, one.major) not in own:
            table.add_row(one.engine, one.major, "installable", f"Debian {one.suite}")
    console = Console()
    console.print(table)
    for build in installed:
        lacking = [name for name in builds.vetted(build.engine) if name not in build.trusted_extensions]
        lacking = [name for name in lacking if name in build.extensions]
        if build.origin == ORIGIN_SYSTEM and lacking:
            console.print(
                f"{build.engine} {build.version} is the host's own and is not changed: its master user cannot create"
                f" {', '.join(lacking)}. `mainstay engines install {build.engine} {build.major}` brings one that can."
            )


@app.command("install")
def install_engine(
    engine: Annotated[str, typer.Argument(help="postgres, mariadb or mysql")],
    version: Annotated[str | None, typer.Argument(help="A major version such as 17.")] = None,
    home: Home = None,
    again: Annotated[
        bool, typer.Option("--again", help="Fetch Debian's present revision of a version that is installed already.")
    ] = False,
) -> None:
    """Install an engine version from Debian's packages into a directory of its own; the system's stay as they are."""
    from mainstay.engines.builds import Builds
    from mainstay.engines.registry import engines
    from mainstay.host.files import make_private_directory
    from mainstay.host.users import ensure_engine_user

    settings = load_settings(os.environ, home=home)
    make_private_directory(settings.home, mode=0o711)
    ensure_engine_user(settings.engine_user)
    builds = Builds(settings)
    shown = _Shown()
    build = builds.install(engine, version, shown, again=again)
    shown("reading the engine's parameters", 0.0)
    count = len(engines(builds).rules(engine).definitions(build))
    shown.end()
    print(f"{build.engine} {build.version}: ready, {count} parameters ({build.prefix})")


@app.command("clean")
def clean_engines(home: Home = None) -> None:
    """Remove the downloaded packages. Installed engines stay; installing one again needs the network again."""
    from mainstay.engines.builds import Builds

    freed = Builds(load_settings(os.environ, home=home)).clean(_Shown())
    print(f"{freed / 1e6:.0f} MB freed")


class _Shown:
    """Progress on one line of a terminal, or a line a phase elsewhere."""

    def __init__(self) -> None:
        self._phase = ""
        self._live = sys.stdout.isatty()

    def __call__(self, phase: str, share: float) -> None:
        if self._live:
            print(f"\r\x1b[K  {phase} … {share:4.0%}", end="", flush=True)
        elif phase != self._phase:
            print(f"  {phase} …", flush=True)
        self._phase = phase

    def end(self) -> None:
        """Leaves the line."""
        if self._live:
            print("\r\x1b[K", end="", flush=True)
