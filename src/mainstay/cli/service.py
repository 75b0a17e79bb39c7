"""`mainstay up`, `down` and `status`."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from typing import Any

from rich.console import Console
from rich.table import Table

from mainstay.backups.objects import probe_object_storage
from mainstay.cli.agent import ask_agent, ask_control
from mainstay.cli.nodes import replication_of, replication_words
from mainstay.cli.words import kept_words, moment, proof, restoring
from mainstay.host.layout import (
    ON_DEMAND,
    PROCESSES,
    SUPERVISOR,
    down_marker,
    environment,
    has_specs,
    lock_path,
    log_path,
    prepare,
    spawn,
)
from mainstay.host.locks import holder
from mainstay.host.users import ensure_engine_user
from mainstay.model.errors import MainstayError, Permanent, Transient
from mainstay.settings import Settings
from mainstay.supervisor.shutdown import end_process, stop_everything

START_TIMEOUT_S = 60.0
POLL_S = 0.05
DOWN = 3


def start(settings: Settings, *, detach: bool) -> None:
    """Starts the supervisor, in the foreground or in the background, and waits until the API answers.

    Raises `Permanent` with the end of the log if it does not come up, and before anything is started if the object
    storage refuses us.
    """
    prepare(settings)
    ensure_engine_user(settings.engine_user)
    if holder(lock_path(settings, SUPERVISOR)) is not None and healthy(settings) is not None:
        print(f"mainstay is running already: {endpoint_url(settings)}")
        return
    _require_usable_object_storage(settings)
    if holder(lock_path(settings, "control")) is None:
        _require_free_port(settings)
    down_marker(settings).unlink(missing_ok=True)
    if not detach:
        os.execve(  # noqa: S606 - replaces this process by the supervisor, no shell
            sys.executable, [sys.executable, "-m", "mainstay.supervisor"], environment(settings, SUPERVISOR)
        )
    child = spawn(settings, SUPERVISOR)
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        health = healthy(settings)
        if health is not None and health["agent_connected"]:
            print(f"mainstay is up: {endpoint_url(settings)}")
            return
        if child.poll() is not None and holder(lock_path(settings, SUPERVISOR)) is None:
            break
        time.sleep(POLL_S)
    raise Permanent("the service did not come up", hint=_last_words(settings))


def _require_usable_object_storage(settings: Settings) -> None:
    """One that cannot be reached now is no reason not to serve databases: backups wait for it."""
    try:
        probe_object_storage(settings)
    except Transient as error:
        print(f"mainstay: {error.message}. Databases are served; backups wait until it answers.", file=sys.stderr)


def _require_free_port(settings: Settings) -> None:
    with socket.socket(socket.AF_INET6 if ":" in settings.listen else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.listen, settings.port))
        except OSError as error:
            raise Permanent(
                f"{settings.listen}:{settings.port} cannot be listened on: {error.strerror}",
                hint="Another program or another Mainstay uses it: choose a different MAINSTAY_PORT.",
            ) from error


def _last_words(settings: Settings) -> str:
    for name in ("control", "agent", "endpoint", SUPERVISOR):
        path = log_path(settings, name)
        if path.exists():
            for line in reversed(path.read_text(errors="replace").splitlines()[-20:]):
                if "Error" in line or '"level": "error"' in line or "Permanent" in line:
                    return f"{path}: {line[:500]}"
    return f"See the logs in {log_path(settings, 'control').parent}."


def stop(settings: Settings) -> None:
    """Stops everything. Works with or without a living supervisor."""
    prepare(settings)
    down_marker(settings).touch(mode=0o600)

    async def end() -> None:
        if holder(lock_path(settings, SUPERVISOR)) is not None:
            await end_process(settings, SUPERVISOR)
        await stop_everything(settings)

    asyncio.run(end())
    print("mainstay is down")


def show_status(settings: Settings) -> int:
    """Prints processes and instances; 0 if the API answers, 3 if not."""
    console = Console()
    health = healthy(settings)
    table = Table(title=f"{settings.home}  {endpoint_url(settings)}", title_justify="left")
    for column in ("process", "state", "pid"):
        table.add_column(column)
    needed = [name for name in ON_DEMAND if has_specs(settings, name)]
    for name in (SUPERVISOR, *PROCESSES, *needed):
        pid = holder(lock_path(settings, name))
        table.add_row(name, "running" if pid else "down", str(pid or ""))
    console.print(table)
    try:
        nodes = ask_agent(settings, "nodes")
    except MainstayError:
        nodes = []
    for node in nodes:
        where = node["availability_zone"]
        words = (
            node["phase"],
            restoring(node.get("restore")),
            replication_words(replication_of(node)),
            node.get("failure", ""),
        )
        console.print("  ".join([node["db_instance_identifier"], where, *filter(None, words)]))
    for line in (*_backup_lines(settings, time.time()), *_kept_lines(settings)):
        console.print(line)
    return 0 if health is not None else DOWN


def _backup_lines(settings: Settings, now: float) -> list[str]:
    """One line for each instance with automated backups: up to when it can be restored, and when that was proven."""
    try:
        rows = ask_control(settings, "list_backups")
    except MainstayError:
        return []
    lines = []
    for row in rows:
        if row["kind"] == "automated":
            latest = "not restorable yet" if row["latest_at"] is None else f"restorable to {moment(row['latest_at'])}"
            overdue = " OVERDUE" if row["restore_test_overdue"] else ""
            proven = f"restore test: {proof(row['restore_tested'], now, 'FAILED')}{overdue}"
            damaged = row["verified"] is not None and not row["verified"]["good"]
            checked = f"verification: {proof(row['verified'], now)}" if damaged else ""
            lines.append("  ".join(filter(None, (f"backups of {row['instance']}", latest, proven, checked))))
    return lines


def _kept_lines(settings: Settings) -> list[str]:
    """One line for each data that a restore in place has set aside."""
    try:
        return [kept_words(row) for row in ask_control(settings, "list_kept_data")]
    except MainstayError:
        return []


def healthy(settings: Settings) -> dict[str, Any] | None:
    """What the API's health page tells; None if it does not answer, or another service does on this port."""
    context = None
    if endpoint_url(settings).startswith("https"):
        import ssl

        bundle = settings.home / "ca-bundle.pem"
        if not bundle.exists():
            return None
        context = ssl.create_default_context(cafile=str(bundle))
    try:
        with urllib.request.urlopen(  # noqa: S310 - our own http(s) address
            f"{endpoint_url(settings)}/_mainstay/health", timeout=2.0, context=context
        ) as answer:
            health: dict[str, Any] = json.load(answer)
            return health if health.get("service") == settings.runtime.name else None
    except (urllib.error.URLError, OSError, ValueError):
        return None


def endpoint_url(settings: Settings) -> str:
    """AWS_ENDPOINT_URL of the service."""
    import ipaddress

    address = ipaddress.ip_address(settings.listen)
    scheme = "http" if address.is_loopback else "https"
    host = f"[{address}]" if address.version == 6 else str(address)
    return f"{scheme}://{host}:{settings.port}"
