"""A thousand clients that connect at once, query once and leave: at the instance's endpoint, and through an RDS Proxy.

The proxy has ten connections to the engine (`TourProxy`). TLS and SCRAM both ways, as a client of RDS has them; each
client is a connection of its own in one asyncio process, which is most of what the times are.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import psycopg

from bench.report import Table
from harness.service import PASSWORD, Service
from mainstay.cli.tour_proxy import CONNECTIONS, TourProxy
from mainstay.host.processes import raise_file_limit

HEADING = "A thousand short clients"
CLIENTS = 1000
TIMEOUT_S = 120


class Seen(msgspec.Struct):
    """What became of the clients of one way."""

    answered: int = 0
    refused: Counter[str] = msgspec.field(default_factory=Counter)
    sessions: set[int] = msgspec.field(default_factory=set)
    """Processes of the engine that answered."""

    took_s: float = 0.0


def run(say: Callable[[str], None]) -> list[Table]:
    """One table: a row for each way."""
    raise_file_limit()
    with Service() as service:
        instance = service.create_instance("crowded")
        with service.connect(instance) as session:
            limit = int(session.execute("SHOW max_connections").fetchone()[0])  # type: ignore[index]
        proxy = TourProxy(service.client, "crowded").create("app", PASSWORD, limit)
        places = {"the instance's endpoint": instance["Endpoint"]["Address"], "RDS Proxy": proxy}
        found = {}
        for name, address in places.items():
            found[name] = asyncio.run(_crowd(service, instance, address))
            say(f"crowd: {name}: {found[name].answered} of {CLIENTS} answered")
    return [
        Table(
            title=f"{CLIENTS} clients at once, PostgreSQL {service.engine_version} with max_connections {limit}",
            columns=("through", "answered", "errors", "server connections", "seconds"),
            rows=tuple(_row(name, seen) for name, seen in found.items()),
            notes=(f"The proxy may open {CONNECTIONS} connections. {_errors(found)}",),
        )
    ]


async def _crowd(service: Service, instance: dict[str, Any], address: str) -> Seen:
    """Everybody connects, asks which process of the engine answers, and leaves."""
    seen = Seen()
    conninfo: dict[str, Any] = {
        "host": address,
        "port": instance["Endpoint"]["Port"],  # 5432, as the proxy's
        "user": "app",
        "password": PASSWORD,
        "dbname": "postgres",
        "sslmode": "verify-full",
        "sslrootcert": service.variables["MAINSTAY_CA_BUNDLE"],
        "connect_timeout": TIMEOUT_S,
    }
    started = time.monotonic()
    await asyncio.gather(*(_client(conninfo, seen) for _ in range(CLIENTS)))
    seen.took_s = time.monotonic() - started
    return seen


async def _client(conninfo: dict[str, Any], seen: Seen) -> None:
    try:
        async with await psycopg.AsyncConnection.connect(**conninfo, autocommit=True) as connection:
            row = await (await connection.execute("SELECT pg_backend_pid()")).fetchone()
        seen.sessions.update(row or ())
        seen.answered += 1
    except psycopg.Error as error:
        seen.refused[str(error).strip().rsplit("FATAL:  ", 1)[-1].splitlines()[0]] += 1


def _row(name: str, seen: Seen) -> tuple[str, ...]:
    errors = str(seen.refused.total())
    return (name, str(seen.answered), errors, str(len(seen.sessions)), f"{seen.took_s:.1f}")


def _errors(found: dict[str, Seen]) -> str:
    """What the clients were told that were not answered."""
    told = Counter[str]()
    for seen in found.values():
        told += seen.refused
    return "; ".join(f'{count} were told "{text}"' for text, count in told.most_common(3)) + ("." if told else "")
