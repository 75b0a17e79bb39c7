"""`mainstay proxy list`, `sessions` and `stats`: what the proxy process of this host does now."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mainstay.cli.exposition import sample
from mainstay.settings import Settings, load_settings

if TYPE_CHECKING:
    from mainstay.model.proxy import ProxySpec

app = typer.Typer(help="DB proxies: clients, connections and pins as they are now.", no_args_is_help=True)

Home = Annotated[Path | None, typer.Option(help="Directory of the service (MAINSTAY_HOME).")]
Name = Annotated[str, typer.Argument(help="The DB proxy's name or its id (prx-…).")]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]

_GAUGES = {
    "clients": "ClientConnections",
    "connections": "DatabaseConnections",
    "borrowed": "DatabaseConnectionsCurrentlyBorrowed",
    "pinned": "DatabaseConnectionsCurrentlySessionPinned",
    "most": "MaxDatabaseConnectionsAllowed",
}
_SHOWN = ("proxy", "listens", "health", "clients", "connections", "borrowed", "pinned", "failure")


@app.command("list")
def list_proxies(home: Home = None, as_json: Json = False) -> None:
    """Every proxy of this host: where it listens, its target's health, clients and database connections now."""
    settings = load_settings(os.environ, home=home)
    specs = kept_specs(settings)
    statuses = {status["proxy_id"]: status for status in (ask_proxy(settings, "proxies") if specs else [])}
    rows = [_row(spec, statuses.get(spec.proxy_id, {})) for spec in specs]
    if not as_json:
        rows = [{column: row[column] for column in _SHOWN} for row in rows]
    _show(rows, as_json=as_json)


@app.command()
def sessions(name: Name, home: Home = None, as_json: Json = False) -> None:
    """Every client session of a proxy: who, from where, what it does, and what pins it to its connection."""
    settings = load_settings(os.environ, home=home)
    rows = ask_proxy(settings, "sessions", {"proxy_id": id_of(settings, name)})
    _show(rows, as_json=as_json)


@app.command()
def stats(
    name: Name,
    home: Home = None,
    as_json: Json = False,
    prometheus: Annotated[bool, typer.Option("--prometheus", help="Prometheus text format.")] = False,
) -> None:
    """Counters and gauges of a proxy by their CloudWatch names, since its process started."""
    settings = load_settings(os.environ, home=home)
    values = ask_proxy(settings, "stats", {"proxy_id": id_of(settings, name)})
    if prometheus:
        print(exposition(name, values), end="")
        return
    if as_json:
        print(json.dumps(values, indent=2, sort_keys=True))
        return
    _show([{"metric": metric, "value": values[metric]} for metric in sorted(values)], as_json=False)


def exposition(proxy: str, values: dict[str, float]) -> str:
    """The values in Prometheus' text format."""
    lines = []
    for metric, value in sorted(values.items()):
        plain, _, reason = metric.partition(": ")
        name = "mainstay_rds_proxy_" + re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", plain).lower()
        lines.append(sample(name, {"proxy": proxy} | ({"reason": reason} if reason else {}), value))
    return "".join(lines)


def kept_specs(settings: Settings) -> list[ProxySpec]:
    """The specs that the proxy process keeps, by name. Raises `Permanent` if another user owns them."""
    import msgspec

    from mainstay.model.errors import Permanent
    from mainstay.model.proxy import ProxySpec

    try:
        files = [path for path in (settings.home / "proxy").iterdir() if path.suffix == ".json"]
        specs = [msgspec.json.decode(file.read_bytes(), type=ProxySpec) for file in files]
    except FileNotFoundError:
        return []
    except PermissionError as error:
        raise Permanent(
            f"{error.filename} belongs to another user", hint="Run this as the user the service runs as."
        ) from error
    return sorted(specs, key=lambda spec: (spec.name, spec.region))


def id_of(settings: Settings, name: str) -> str:
    """The id of the proxy of this name or id. Raises `Permanent` if there is none, or several in different regions."""
    from mainstay.model.errors import Permanent

    specs = kept_specs(settings)
    found = [spec for spec in specs if name.lower() in (spec.name, spec.proxy_id)]
    if len(found) == 1:
        return found[0].proxy_id
    if not found:
        known = ", ".join(spec.name for spec in specs) or "none"
        raise Permanent(f"there is no DB proxy {name!r} on this host", hint=f"There are: {known}.")
    ids = ", ".join(f"{spec.proxy_id} ({spec.region})" for spec in found)
    raise Permanent(f"{name!r} is the name of several DB proxies", hint=f"Give an id: {ids}.")


def ask_proxy(settings: Settings, method: str, params: Any = None) -> Any:
    """The proxy process's answer. Raises `Permanent` if it does not run, `Transient` if it does not answer in time."""
    from mainstay.cli.agent import ask
    from mainstay.host.layout import lock_path
    from mainstay.host.locks import holder
    from mainstay.model.errors import Permanent

    if holder(lock_path(settings, "proxy")) is None:
        raise Permanent(
            "the proxy process is not running", hint="It runs while there is a DB proxy; see `mainstay status`."
        )
    return ask(settings, "proxy", method, params)


def _row(spec: ProxySpec, status: dict[str, Any]) -> dict[str, Any]:
    metrics = status.get("metrics", {})
    health = " ".join(filter(None, (status.get("target_state", ""), status.get("target_reason", ""))))
    return {
        "proxy": spec.name,
        "id": spec.proxy_id,
        "region": spec.region,
        "listens": [f"{one.address}:{one.port}" for one in spec.listeners],
        "target": spec.target,
        "health": health if spec.target else "",
        "failure": status.get("failure", ""),
        **{column: int(metrics.get(metric, 0)) for column, metric in _GAUGES.items()},
    }


def _show(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    from rich.console import Console

    from mainstay.cli.tables import show_table

    console = Console()
    if not rows:
        console.print("There is nothing to show.")
        return
    words = [
        {name: ", ".join(value) if isinstance(value, list) else str(value) for name, value in row.items()}
        for row in rows
    ]
    show_table(console, words)
