"""Multi-AZ beside bare PostgreSQL: write throughput of two synchronous nodes, and the time to a new instance.

The bare pair is two servers of the same build with the very configuration files of the instance's nodes, only places
and names replaced: what differs is Mainstay around them. Every round runs all ways one after the other, each round
beginning with another one, and the ratios are taken within a round.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from bench import create
from bench.report import Table, spread
from harness.dialects import POSTGRES, EngineUnderTest
from harness.pairs import MultiAZ
from harness.service import HOMES, PASSWORD, Service, eventually, free_port
from mainstay.engines.builds import Builds
from mainstay.engines.postgresql.configuration import ADMIN_ROLE
from mainstay.host.cgroups import ROOT, ControlGroups
from mainstay.host.processes import engine_user
from mainstay.model.engine import EngineBuild
from mainstay.model.node import NodeLimits, NodeSpec

HEADING = "Multi-AZ beside two bare synchronous servers"
CREATES = 5
CLIENTS = 8
SECONDS = 4
ROUNDS = 7
SCALE = 10
BARE_ADDRESS = "127.96.201.1"
QUIET = "listen_addresses = ''\n"
"""The bare standby has no address of its own; ours has."""


class Way(msgspec.Struct, frozen=True):
    """Where the load goes to, and where it comes from."""

    address: str
    port: int
    inside: tuple[str, ...] = ()
    """What the load's command begins with, if it is not to run on this machine (`bench.link`)."""


class Tools:
    """The programs of one engine build, run as the engines' user."""

    def __init__(self, build: EngineBuild, user_name: str) -> None:
        self._build = build
        self.user = engine_user(user_name)
        self.credentials: dict[str, Any] = {}
        if self.user.user_id is not None:
            self.credentials = {"user": self.user.user_id, "group": self.user.group_id, "extra_groups": []}

    def argv(self, name: str, *arguments: str) -> list[str]:
        """One of the build's programs."""
        return [str(self._build.bin_directory / name), *arguments]

    def run(self, name: str, *arguments: str, **environment: str) -> str:
        """Its standard output. Raises `subprocess.CalledProcessError`."""
        done: subprocess.CompletedProcess[str] = subprocess.run(
            self.argv(name, *arguments),
            env=self.environment(**environment),
            cwd="/",
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
            **self.credentials,
        )
        return done.stdout

    @contextmanager
    def server(self, directory: Path, limits: NodeLimits, command: list[str], stop: int) -> Iterator[None]:
        """A server for the time of the block, which the signal `stop` ends, in a group like a node's.

        Without one a busy machine would share out its time in another way than to the nodes.
        """
        groups = ControlGroups(directory.parent.name)
        with (directory / "output").open("wb") as output:
            process = subprocess.Popen(
                command,
                env=self.environment(),
                cwd="/",
                stdout=output,
                stderr=output,
                **self.credentials,
            )
        try:
            for procs in groups.prepare(directory.name, limits):
                Path(procs).write_text(str(process.pid))
            yield
        finally:
            process.send_signal(stop)
            process.wait(60)
            groups.remove(directory.name)

    def environment(self, **more: str) -> dict[str, str]:
        """What the programs need."""
        return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "TZ": "UTC", **self._build.environment, **more}

    def take(self, directory: Path) -> None:
        """Makes everything below the engines' user's own."""
        for path in (directory, *directory.rglob("*")):
            self.user.give(path)


def run(say: Callable[[str], None]) -> list[Table]:
    """Both tables."""
    with Service() as service:
        postgresql = EngineUnderTest(POSTGRES, service.engine_version)
        created = create.table(
            postgresql, create.measure(service, postgresql, CREATES, say, MultiAZ=True), " with MultiAZ"
        )
        pair = MultiAZ(service, service.create_instance("bench", MultiAZ=True))
        pair.await_in_sync()
        build = next(one for one in Builds(service.settings).installed() if one.version == service.engine_version)
        tools = Tools(build, service.settings.engine_user)
        with place_for_a_pair() as directory, bare_pair(pair, tools, directory) as bare:
            ways = ways_beside(bare, service, pair.primary, pair.instance["Endpoint"])
            before = pair.await_in_sync()
            results = _measure(tools, ways, say)
            assert pair.record == before, "the pair did not stay in sync: what was measured is something else"
        version = service.engine_version
    return [_throughput_table(version, results), created]


@contextmanager
def place_for_a_pair() -> Iterator[Path]:
    """A directory for two bare servers, where the service's homes are too; their control groups go with it."""
    directory = Path(tempfile.mkdtemp(prefix="mainstay-bench-", dir=HOMES))
    directory.chmod(0o711)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)
        for controller in ("memory", "cpu", ""):
            with suppress(OSError):
                (ROOT / controller / directory.name).rmdir()


def ways_beside(bare: Way, service: Service, primary: str, endpoint: dict[str, Any]) -> dict[str, Way]:
    """The bare pair, and both ways to the one whose primary is this node."""
    node = next(one for one in service.nodes() if one["node"] == primary)
    return {
        "bare": bare,
        "Multi-AZ, to the node": Way(node["address"], node["port"]),
        "Multi-AZ, through the endpoint": Way(endpoint["Address"], endpoint["Port"]),
    }


@contextmanager
def bare_pair(pair: MultiAZ, tools: Tools, directory: Path) -> Iterator[Way]:
    """Two servers with the settings of the pair's nodes, the second one synchronous standby of the first."""
    first, second = directory / "a", directory / "b"
    way = Way(BARE_ADDRESS, free_port())
    limits = limits_of(pair)
    names = {pair.primary: "a", pair.standby: "b"}
    for node_id, own in ((pair.primary, first), (pair.standby, second)):
        (own / "log").mkdir(parents=True)
        _copy_configuration(pair, node_id, own, way, names)
    tools.take(directory)
    tools.run(
        "initdb", f"--pgdata={first}/data", f"--username={ADMIN_ROLE}", "--auth=reject", "--encoding=UTF8",
        "--locale=C.UTF-8", "--data-checksums",
    )  # fmt: skip
    place = f"host={first} port={way.port} user={ADMIN_ROLE}"
    with tools.server(first, limits, _serve(tools, first), signal.SIGINT):  # a fast shutdown
        eventually(lambda: _ready(place))
        with psycopg.connect(
            f"{place} dbname=template1 options='-c synchronous_commit=local'", autocommit=True
        ) as root:
            root.execute(f"CREATE ROLE app LOGIN SUPERUSER PASSWORD '{PASSWORD}'")
        tools.run("pg_basebackup", f"--pgdata={second}/data", f"--dbname={place}", "--checkpoint=fast", "--no-password")
        (second / "data" / "standby.signal").touch()
        tools.take(second)
        with tools.server(second, limits, _serve(tools, second), signal.SIGINT):
            eventually(lambda: _in_sync(place))
            yield way


def _serve(tools: Tools, directory: Path) -> list[str]:
    files = ("-D", f"{directory}/data", "-c", f"config_file={directory}/conf/postgresql.conf")
    return tools.argv("postgres", *files)


def limits_of(pair: MultiAZ) -> NodeLimits:
    """What the pair's nodes may use."""
    spec = pair.volume(pair.primary).with_name("spec.json")
    return msgspec.json.decode(spec.read_bytes(), type=NodeSpec).limits


def _copy_configuration(pair: MultiAZ, node_id: str, own: Path, way: Way, names: dict[str, str]) -> None:
    """The node's own files, with other places and names in them."""
    theirs = pair.volume(node_id).parent
    node = next(one for one in pair.service.nodes() if one["node"] == node_id)
    shutil.copytree(theirs / "conf", own / "conf")
    text = (own / "conf" / "postgresql.conf").read_text()
    runtime = pair.service.settings.runtime / "nodes"
    for node_name, name in names.items():
        text = text.replace(str(runtime / node_name), str(own.parent / name))
        text = text.replace(str(theirs.parent / node_name), str(own.parent / name))
        text = text.replace(node_name, name)
    text = text.replace(node["address"], way.address).replace(f"port={node['port']}", f"port={way.port}")
    leads = node["role"] == "primary"
    (own / "conf" / "postgresql.conf").write_text(f"{text}port = {way.port}\n{'' if leads else QUIET}")


def _ready(place: str) -> bool:
    try:
        psycopg.connect(f"{place} dbname=template1").close()
    except psycopg.OperationalError:
        return False
    return True


def _in_sync(place: str) -> bool:
    with psycopg.connect(f"{place} dbname=template1") as session:
        row = session.execute("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'").fetchone()
        return row is not None and row[0] == 1


def _pgbench(tools: Tools, way: Way, *arguments: str) -> str:
    place = ("-h", way.address, "-p", str(way.port), "-U", "app")
    return tools.run("pgbench", *place, *arguments, "postgres", PGPASSWORD=PASSWORD, PGSSLMODE="require")


def _measure(tools: Tools, ways: dict[str, Way], say: Callable[[str], None]) -> dict[str, list[float]]:
    """Transactions per second by way; the order of ways turns with every round."""
    names = list(ways)
    for name in names[:2]:  # the third is the same database as the second
        _pgbench(tools, ways[name], "-i", "-q", "-s", str(SCALE))
    results: dict[str, list[float]] = {name: [] for name in names}
    load = ("-n", "-N", "-M", "prepared", "-c", str(CLIENTS), "-j", "2", "-T", str(SECONDS))
    for number in range(-1, ROUNDS):  # the first one warms up
        for name in names[number % 3 :] + names[: number % 3]:
            found = re.search(r"tps = ([\d.]+)", _pgbench(tools, ways[name], *load))
            assert found is not None
            if number >= 0:
                results[name].append(float(found[1]))
        say(f"multi_az: round {number + 1} of {ROUNDS}")
    return results


def _throughput_table(version: str, results: dict[str, list[float]]) -> Table:
    def ratios(name: str) -> str:
        return spread([one / bare for one, bare in zip(results[name], results["bare"], strict=True)], 2)

    return Table(
        title=f"pgbench -N, PostgreSQL {version}, {CLIENTS} clients over TLS, {ROUNDS} rounds of {SECONDS} s",
        columns=("way", "transactions a second", "of bare, within a round"),
        rows=tuple((name, spread(values), ratios(name)) for name, values in results.items()),
        notes=(f"Every commit is synchronised on both nodes before it is acknowledged. All data is in {HOMES}.",),
    )
