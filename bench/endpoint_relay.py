"""What an endpoint costs: pgbench -S straight to the engine, through the relay, the kernel path and haproxy.

`python -m bench endpoint_relay`, or `python -m bench.endpoint_relay --seconds 5 --rounds 5 --clients 1,8,32`.
Starts a scratch PostgreSQL, the real endpoint process and haproxy in TCP mode, all on loopback.
Every round runs all paths one after the other, each round beginning with another one, and the ratios are taken within
a round: a machine that gets slower or busier meanwhile harms all alike. Nothing is left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import pwd
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil

from bench.peers import haproxy
from bench.report import Table, show, spread
from mainstay.host.layout import down_marker, prepare
from mainstay.host.rpc import RpcClient
from mainstay.model.route import Route
from mainstay.settings import Settings, load_settings

HEADING = "An endpoint: relay and kernel path beside haproxy"
CLIENTS = (1, 8, 32)
SECONDS = 5
ROUNDS = 5
BIN = Path("/usr/lib/postgresql/15/bin")
ENGINE = "127.96.200.1"
RELAYED, TRANSLATED, HAPROXY = "127.95.200.1", "127.95.200.2", "127.95.200.3"
HAPROXY_CONFIG = """
global
  maxconn 2000
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
listen bench
  bind {bind}
  server engine {engine}
"""


def free_port(address: str) -> int:
    """A port that is free on this address just now."""
    with socket.create_server((address, 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def postgresql(directory: Path) -> Iterator[tuple[str, int]]:
    """A scratch server without fsync, filled for pgbench; its address and port."""
    port, data = free_port(ENGINE), directory / "data"
    user: list[str | Path] = []
    if os.geteuid() == 0:
        account = pwd.getpwnam("postgres")
        os.chown(directory, account.pw_uid, account.pw_gid)
        user = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "cwd": "/"}
    subprocess.run([*user, BIN / "initdb", "-D", data, "-A", "trust", "-U", "postgres"], check=True, **quiet)
    with (data / "postgresql.conf").open("a") as file:
        file.write(f"listen_addresses='{ENGINE}'\nport={port}\nunix_socket_directories=''\n")
        file.write("fsync=off\nmax_connections=200\nssl=off\n")
    ctl: list[str | Path] = [*user, BIN / "pg_ctl", "-D", data, "-w"]
    subprocess.run([*ctl, "-l", directory / "log", "start"], check=True, **quiet)
    try:
        place = ["-h", ENGINE, "-p", str(port), "-U", "postgres"]
        fill: list[str | Path] = [BIN / "pgbench", *place, "-i", "-q", "-s", "5", "postgres"]
        subprocess.run(fill, check=True, stderr=subprocess.DEVNULL, **quiet)
        yield ENGINE, port
    finally:
        subprocess.run([*ctl, "-m", "immediate", "stop"], check=False, **quiet)


@contextmanager
def running(command: Sequence[str | Path], env: dict[str, str] | None = None) -> Iterator[int]:
    """A process for the time of the block, in a session of its own as a service's is; its id."""
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env=env, start_new_session=True, **quiet)
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


def routes_to(engine: tuple[str, int], relayed: int, translated: int) -> list[Route]:
    """The same engine on both of our paths."""

    def route(name: str, address: str, port: int) -> Route:
        return Route(
            endpoint_id=f"bench-{name}",
            address=address,
            port=port,
            epoch=1,
            target_address=engine[0],
            target_port=engine[1],
            admits=("127.0.0.0/8",),
            path="kernel" if name == "kernel" else "relay",
        )

    return [route("relay", RELAYED, relayed), route("kernel", TRANSLATED, translated)]


async def put_routes(settings: Settings, routes: list[Route]) -> bool:
    """Sends the routes to the endpoint process; whether the kernel carries the one that is meant for it."""
    client = RpcClient(settings.runtime / "endpoint.sock")
    client.start()
    try:
        for _ in range(50):
            if not str((await client.call("stats"))["kernel_unavailable"]).startswith("not tried"):
                break
            await asyncio.sleep(0.1)
        answers = [await client.call("put_route", msgspec.to_builtins(route)) for route in routes]
        return bool(answers[-1]["path"] == "kernel")
    finally:
        await client.stop()


def pgbench(place: tuple[str, int], clients: int, seconds: int) -> float:
    """Transactions per second of one run."""
    address = ["-h", place[0], "-p", str(place[1]), "-U", "postgres"]
    load = ["-S", "-n", "-c", str(clients), "-j", str(min(clients, 2)), "-T", str(seconds)]
    answer = subprocess.run([BIN / "pgbench", *address, *load, "postgres"], capture_output=True, text=True, check=True)
    found = re.search(r"tps = ([\d.]+)", answer.stdout)
    assert found is not None, answer.stdout
    return float(found[1])


def measure(
    paths: dict[str, tuple[str, int]],
    clients: Sequence[int],
    seconds: int,
    rounds: int,
    say: Callable[[str], None],
) -> dict[tuple[str, int], list[float]]:
    """All results by path and number of clients; the order of paths turns with every round."""
    results: dict[tuple[str, int], list[float]] = {}
    names = list(paths)
    for number in range(rounds):
        say(f"endpoint_relay: round {number + 1} of {rounds}")
        turned = names[number % len(names) :] + names[: number % len(names)]
        for count in clients:
            for name in turned:
                results.setdefault((name, count), []).append(pgbench(paths[name], count, seconds))
    return results


def rows(
    results: dict[tuple[str, int], list[float]], paths: Sequence[str], clients: Sequence[int]
) -> Iterator[tuple[str, ...]]:
    """Transactions per second, and the median of the ratios within each round to the direct way and to haproxy."""

    def ratio(name: str, peer: str, count: int) -> str:
        if peer not in paths:
            return "-"
        pairs = zip(results[name, count], results[peer, count], strict=True)
        return f"{statistics.median(one / other for one, other in pairs):.2f}"

    for count in clients:
        for name in paths:
            figures = (spread(results[name, count]), ratio(name, "direct", count), ratio(name, "haproxy", count))
            yield (f"{count} × {name}", *figures)


def resident(pid: int) -> str:
    """Memory of a process and its children now, in words."""
    process = psutil.Process(pid)
    own, *children = (f"{one.memory_info().rss / 1e6:.0f} MB" for one in (process, *process.children()))
    return own + (f", its processes that carry {' and '.join(children)}" if children else "")


def run(
    say: Callable[[str], None], clients: Sequence[int] = CLIENTS, seconds: int = SECONDS, rounds: int = ROUNDS
) -> list[Table]:
    """Starts everything, measures and stops everything."""
    notes = []
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mainstay-bench-", dir="/tmp")))
        directory.chmod(0o711)
        scratch, home = directory / "postgresql", directory / "home"
        scratch.mkdir()
        engine = stack.enter_context(postgresql(scratch))
        settings = Settings(home=home)
        prepare(settings)
        stack.callback(shutil.rmtree, settings.runtime, ignore_errors=True)
        down_marker(settings).touch()  # only the endpoint process is wanted: nobody may start the others
        environment = {**os.environ, "MAINSTAY_HOME": str(home), "MAINSTAY_ENDPOINT_PATH": "auto"}
        pid = stack.enter_context(running([sys.executable, "-m", "mainstay.endpoint"], environment))
        paths = {
            "direct": engine,
            "relay": (RELAYED, free_port(RELAYED)),
            "kernel": (TRANSLATED, free_port(TRANSLATED)),
        }
        if not asyncio.run(put_routes(settings, routes_to(engine, paths["relay"][1], paths["kernel"][1]))):
            notes.append("The kernel path was skipped: it needs root and nftables.")
            del paths["kernel"]
        peer = haproxy(load_settings({}).builds, say)
        if peer is None:
            notes.append("haproxy was skipped: it is not installed, and could not be had from Debian.")
        else:
            paths["haproxy"] = (HAPROXY, free_port(HAPROXY))
            config = directory / "haproxy.cfg"
            place = {"bind": "{}:{}".format(*paths["haproxy"]), "engine": "{}:{}".format(*engine)}
            config.write_text(HAPROXY_CONFIG.format(**place))
            stack.enter_context(running([peer, "-db", "-f", config]))
            time.sleep(1)
        results = measure(paths, clients, seconds, rounds, say)
        notes.append(f"After all runs the endpoint process took {resident(pid)} (RSS).")
    return [
        Table(
            title=f"pgbench -S over loopback, {rounds} rounds of {seconds} s per path",
            columns=("clients × path", "transactions/s", "of direct", "of haproxy"),
            rows=tuple(rows(results, list(paths), clients)),
            notes=tuple(notes),
        )
    ]


def main() -> None:
    """Runs with the numbers of the command line and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=SECONDS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--clients", default=",".join(map(str, CLIENTS)))
    arguments = parser.parse_args()
    clients = [int(count) for count in arguments.clients.split(",")]
    for table in run(lambda text: print(text, file=sys.stderr), clients, arguments.seconds, arguments.rounds):
        print(show(table))


if __name__ == "__main__":
    main()
