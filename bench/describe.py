"""DescribeDBInstances, signed, beside moto's server; and what one instance costs to find among few and many.

The same client sends the same pre-signed requests to both over kept-alive connections. Mainstay verifies every
signature and evaluates policies; moto does neither unless asked to.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
from collections.abc import Callable
from contextlib import ExitStack

from bench.load import answer, requests_per_s, signed
from bench.moto import KEY, install, moto_with
from bench.population import Control, control_with, identifier, resource_id
from bench.report import Table, spread

HEADING = "DescribeDBInstances"
INSTANCES = 1000
SIZES = (100, 1_000, 10_000)
CONNECTIONS = (1, 8)
ROUNDS = 3
ROUND_S = 1.5
PAGE = 100
CALL = "Action=DescribeDBInstances&Version=2014-10-31"


def run(say: Callable[[str], None]) -> list[Table]:
    """Two tables: beside moto, and per number of instances."""
    return [asyncio.run(_beside_moto(say)), asyncio.run(_by_size(say))]


def _questions(number: int, filter_name: str, value: str) -> dict[str, tuple[str, int]]:
    """What is asked, and how many instances the answer must hold."""
    by_filter = f"&Filters.Filter.1.Name={filter_name}&Filters.Filter.1.Values.Value.1={value}"
    return {
        f"first page of {PAGE}": (CALL, PAGE),
        "one identifier": (f"{CALL}&DBInstanceIdentifier={identifier(number)}", 1),
        "filter on one instance": (CALL + by_filter, 1),
    }


async def _beside_moto(say: Callable[[str], None]) -> Table:
    number = INSTANCES // 2
    with ExitStack() as stack:
        ours = stack.enter_context(control_with(INSTANCES))
        peer, version = 0, ""
        try:
            version = install(say)
            say(f"describe: making {INSTANCES} instances in moto {version}")
            peer = stack.enter_context(moto_with(INSTANCES))
        except (subprocess.SubprocessError, OSError) as error:
            say(f"describe: without moto: {error}")
        rows = []
        theirs_asked = _questions(number, "db-instance-id", identifier(number))
        for what, (body, held) in _questions(number, "dbi-resource-id", resource_id(number)).items():
            for connections in CONNECTIONS:
                say(f"describe: {what}, {connections} connection(s)")
                own, theirs = [], []
                for _ in range(ROUNDS):  # by turns, so that a busy moment of the machine meets both
                    own.append(await _rate(ours.port, ours.key, body, held, connections))
                    if peer:
                        theirs.append(await _rate(peer, KEY, theirs_asked[what][0], held, connections))
                ratio = f"{statistics.median(own) / statistics.median(theirs):.1f}" if theirs else "-"
                rows.append((what, str(connections), spread(own), spread(theirs) if theirs else "-", ratio))
    return Table(
        title=f"{INSTANCES} instances, signed requests a second",
        columns=("asked for", "connections", "Mainstay", f"moto {version}", "ratio"),
        rows=tuple(rows),
        notes=(
            "Mainstay: a control process alone over a store that holds the instances' records (bench/population.py). "
            "It verifies each signature; moto does not. The load generator shares the machine with both.",
            "The filter is dbi-resource-id for Mainstay and db-instance-id for moto, whose instances all have the same "
            "DbiResourceId.",
        ),
    )


async def _by_size(say: Callable[[str], None]) -> Table:
    rows = []
    for size in SIZES:
        say(f"describe: one identifier among {size}")
        with control_with(size) as ours:
            rates = [await _one(ours, size) for _ in range(ROUNDS)]
        rows.append((f"{size:,}", spread([1e6 / rate for rate in rates])))
    return Table(
        title="One identifier, one connection: microseconds a call by the number of instances in the store",
        columns=("instances", "µs a call"),
        rows=tuple(rows),
    )


async def _one(ours: Control, size: int) -> float:
    body, held = _questions(size // 2, "dbi-resource-id", resource_id(size // 2))["one identifier"]
    return await _rate(ours.port, ours.key, body, held, 1)


async def _rate(port: int, key: tuple[str, str], body: str, held: int, connections: int) -> float:
    """Requests a second, after a check that the answer is what was asked for."""
    request = signed(port, key, body)
    found = (await answer(port, request)).count(b"<DBInstanceIdentifier>")
    if found != held:
        raise RuntimeError(f"the answer holds {found} instances instead of {held}")
    return await requests_per_s(port, request, connections=connections, duration_s=ROUND_S)
