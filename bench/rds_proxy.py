"""RDS Proxy beside PgBouncer (transaction pooling) and beside no pooler: `pgbench -S` in three protocol modes, latency
at a fixed rate, logins, idle clients.

Clients over TCP loopback, each pooler with at most 20 connections to the same engine, by its Unix socket, as the proxy
always connects on one machine. Every round runs all ways one after the other, each round beginning with another one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from bench.peers import pgbouncer, version
from bench.report import Table, percentile, spread
from harness.proxy import RawClient
from harness.service import PASSWORD, Service, eventually, free_port
from mainstay.engines.builds import Builds
from mainstay.host.certificates import CertificateAuthorities
from mainstay.host.clock import SystemClock
from mainstay.host.processes import raise_file_limit
from mainstay.model.errors import Permanent

HEADING = "RDS Proxy beside PgBouncer"
POOL = 20
ROUNDS, PACED_ROUNDS = 5, 8
SCALE = 5
TRANSACTIONS = {1: 40_000, 20: 20_000, 100: 20_000, 1000: 24_000}
"""Of a run, for each number of clients: a few seconds."""

RECONNECTIONS = 3_000
RATE, RATE_OF_ONE_CLIENT = 1_000, 200
"""Transactions per second where latency is measured, at most: some share of what two cores, or one client that waits
for each answer, can do."""

PACED_S = 4
PREPARED_SINCE = (1, 21)
"""The first PgBouncer that takes prepared statements when it pools transactions."""

IDLE_CLIENTS = 10_000
WARM = 100
SETTLE_S = 2.0
IDLE_WATCH_S = 20.0


class Load(msgspec.Struct, frozen=True):
    """What pgbench does."""

    mode: str
    clients: int
    tls: bool = False
    reconnects: bool = False

    @property
    def name(self) -> str:
        """For a row of the table."""
        return self.mode + (", -C" if self.reconnects else "") + (", TLS" if self.tls else "")

    @property
    def transactions(self) -> int:
        """Of each client."""
        return (RECONNECTIONS if self.reconnects else TRANSACTIONS[self.clients]) // self.clients

    @property
    def rate(self) -> int:
        """Transactions per second of all clients where it is fixed."""
        return min(RATE, self.clients * RATE_OF_ONE_CLIENT)

    def arguments(self, transactions: int) -> tuple[str, ...]:
        """Of pgbench."""
        fixed = ("-n", "-S", "-M", self.mode, "-c", str(self.clients), "-j", "1", "-t", str(transactions))
        return (*fixed, "-C") if self.reconnects else fixed


LOADS = (
    *(Load(mode, clients) for mode in ("simple", "extended", "prepared") for clients in TRANSACTIONS),
    *(Load(mode, clients, tls=True) for mode in ("simple", "prepared") for clients in (1, 20, 100)),
    *(Load("simple", clients, tls=tls, reconnects=True) for tls in (False, True) for clients in (1, 20)),
)
PACED = (
    *(Load(mode, clients) for mode in ("simple", "prepared") for clients in (1, 20, 100)),
    Load("simple", 20, tls=True),
)


class Way(msgspec.Struct, frozen=True):
    """Where pgbench connects to, and whose CPU time counts."""

    address: str
    port: int
    pid: int = 0
    version: tuple[int, ...] = ()


def run(say: Callable[[str], None]) -> list[Table]:
    """One table: a row for each mode and number of clients."""
    with Service() as service:
        rds = service.client("rds")
        family = f"postgres{service.engine_version.split('.')[0]}"
        rds.create_db_parameter_group(DBParameterGroupName="plain", DBParameterGroupFamily=family, Description="plain")
        rds.modify_db_parameter_group(
            DBParameterGroupName="plain",
            Parameters=[{"ParameterName": "rds.force_ssl", "ParameterValue": "0", "ApplyMethod": "immediate"}],
        )
        service.create_instance("bench", DBParameterGroupName="plain", DBInstanceClass="db.t3.medium")
        (node,) = service.nodes()
        direct = Way(node["address"], node["port"])
        build = next(one for one in Builds(service.settings).installed() if one.version == service.engine_version)
        pgbench = [str(build.bin_directory / "pgbench")]
        environment = {**os.environ, **build.environment, "PGPASSWORD": PASSWORD}
        _pgbench(pgbench, environment, direct, "-i", "-q", "-s", str(SCALE))
        ways = {"direct": direct, "RDS Proxy": _proxy(service)}
        raise_file_limit()
        sockets = service.settings.runtime / "nodes" / str(node["node"])
        with _pgbouncer(sockets, direct.port, service, say) as peer:
            label = "PgBouncer"
            if peer is not None:
                ways["PgBouncer"] = peer
                label += " " + ".".join(map(str, peer.version))
            idle = _idle(ways, say)  # first: later there is memory that earlier clients have left
            return [
                _measure(pgbench, environment, ways, label, say),
                _latencies(pgbench, environment, ways, label, say),
                idle,
            ]


def _proxy(service: Service) -> Way:
    """A proxy with a pool of `POOL`, made through the API."""
    rds, iam, secrets = service.client("rds"), service.client("iam"), service.client("secretsmanager")
    value = json.dumps({"username": "app", "password": PASSWORD})
    secret = secrets.create_secret(Name="bench/app", SecretString=value)["ARN"]
    trust = {"Effect": "Allow", "Principal": {"Service": "rds.amazonaws.com"}, "Action": "sts:AssumeRole"}
    read = {"Effect": "Allow", "Action": "secretsmanager:GetSecretValue", "Resource": "*"}
    role = iam.create_role(RoleName="bench", AssumeRolePolicyDocument=json.dumps(_policy(trust)))["Role"]["Arn"]
    iam.put_role_policy(RoleName="bench", PolicyName="read", PolicyDocument=json.dumps(_policy(read)))
    default = [{"Name": "default-for-az", "Values": ["true"]}]
    subnets = [one["SubnetId"] for one in service.client("ec2").describe_subnets(Filters=default)["Subnets"]]
    rds.create_db_proxy(
        DBProxyName="bench", EngineFamily="POSTGRESQL", RoleArn=role, VpcSubnetIds=subnets, Auth=[{"SecretArn": secret}]
    )

    def shown() -> dict[str, Any]:
        found: dict[str, Any] = rds.describe_db_proxies(DBProxyName="bench")["DBProxies"][0]
        return found

    eventually(lambda: shown()["Status"] == "available")
    rds.register_db_proxy_targets(DBProxyName="bench", DBInstanceIdentifiers=["bench"])
    eventually(
        lambda: rds.describe_db_proxy_targets(DBProxyName="bench")["Targets"][0]["TargetHealth"]["State"] == "AVAILABLE"
    )
    limit = int(_max_connections(service))
    rds.modify_db_proxy_target_group(
        DBProxyName="bench",
        TargetGroupName="default",
        ConnectionPoolConfig={"MaxConnectionsPercent": max(1, POOL * 100 // limit)},
    )
    time.sleep(1.0)
    return Way(shown()["Endpoint"], 5432, service.process("proxy"))


def _policy(statement: Mapping[str, object]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": [statement]}


def _max_connections(service: Service) -> str:
    with service.connect(service.describe("bench")) as connection:
        row = connection.execute("SHOW max_connections").fetchone()
        return str(row[0]) if row else "100"


@contextmanager
def _pgbouncer(sockets: Path, engine_port: int, service: Service, say: Callable[[str], None]) -> Iterator[Way | None]:
    """PgBouncer in front of the engine whose socket is in this directory, or None where it cannot be had."""
    program = pgbouncer(service.settings.builds, say)
    if program is None:
        say("there is no pgbouncer: only direct connections beside the proxy")
        yield None
        return
    found = version(program)
    directory = Path(tempfile.mkdtemp(prefix="mainstay-bench-", dir="/var/tmp"))
    port = free_port()
    certificate, _serial = CertificateAuthorities(directory / "ca", SystemClock()).issue(("bench",), ("127.0.0.1",))
    (directory / "server.crt").write_text(certificate.certificate_pem)
    (directory / "server.key").write_text(certificate.private_key_pem)
    (directory / "users.txt").write_text(f'"app" "{PASSWORD}"\n')
    (directory / "pgbouncer.ini").write_text(
        f"""[databases]
postgres = host={sockets} port={engine_port} dbname=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {directory}/users.txt
pool_mode = transaction
default_pool_size = {POOL}
max_client_conn = 12000
client_tls_sslmode = allow
client_tls_cert_file = {directory}/server.crt
client_tls_key_file = {directory}/server.key
{"max_prepared_statements = 200" if found >= PREPARED_SINCE else ""}
"""
    )
    directory.chmod(0o711)
    for path in directory.glob("*.*"):
        path.chmod(0o644)  # it refuses to run as root; the password in it is the harness's
    engines = sockets.stat()  # their user may use the socket
    who: dict[str, Any] = {"user": engines.st_uid, "group": engines.st_gid, "extra_groups": []}
    who = who if os.geteuid() == 0 else {}
    # A session of its own, as a service has: the kernel shares out CPU by session (sched_autogroup), and in ours
    # PgBouncer would be in one group with pgbench, the proxy in another.
    who["start_new_session"] = True
    process = subprocess.Popen([str(program), "-q", str(directory / "pgbouncer.ini")], stderr=subprocess.DEVNULL, **who)
    try:
        time.sleep(0.5)
        if process.poll() is not None:
            raise Permanent("pgbouncer did not start")
        yield Way("127.0.0.1", port, process.pid, found)
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        process.wait(30)
        shutil.rmtree(directory)


def _measure(
    pgbench: list[str], environment: dict[str, str], ways: dict[str, Way], label: str, say: Callable[[str], None]
) -> Table:
    rows = []
    for load in LOADS:
        present = {
            name: way
            for name, way in ways.items()
            if not (name == "PgBouncer" and load.mode == "prepared" and way.version < PREPARED_SINCE)
            and not (name == "direct" and (load.clients > POOL or load.reconnects))
        }
        logins = {name: _logins_cpu_s(pgbench, environment, way, load) for name, way in present.items()}
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in present}
        for number in range(ROUNDS):
            names = list(present)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                found[name].append(_once(pgbench, environment, present[name], load, logins[name]))
        say(
            f"{load.name}, {load.clients} clients: "
            + ", ".join(f"{name} {_tps(found[name])} ({_cpu(found[name])} µs)" for name in found)
        )
        rows.append(_row(load, found))
    return Table(
        title=f"pgbench -S, pool of {POOL}, median of {ROUNDS} rounds",
        columns=("mode", "clients", "direct, tps", f"{label}, tps", "RDS Proxy, tps", "proxy / PgBouncer",
                 "CPU PgBouncer, µs", "CPU proxy, µs", "CPU proxy / PgBouncer"),
        rows=tuple(rows),
        notes=(
            "CPU is the pooler's own for each transaction, without its clients' logins; with -C a transaction is a "
            "login and a query. Ratios are medians of ratios within a round.",
        ),
    )  # fmt: skip


def _row(load: Load, found: dict[str, list[tuple[float, float]]]) -> tuple[str, ...]:
    proxy, peer = found["RDS Proxy"], found.get("PgBouncer")
    ratio = cpu = "-"
    if peer:
        pairs = list(zip(proxy, peer, strict=True))
        ratio = spread([one[0] / other[0] for one, other in pairs], 2)
        cpu = spread([one[1] / other[1] for one, other in pairs], 2)
    return (
        load.name,
        str(load.clients),
        _tps(found["direct"]) if "direct" in found else "-",
        _tps(peer) if peer else "-",
        _tps(proxy),
        ratio,
        _cpu(peer) if peer else "-",
        _cpu(proxy),
        cpu,
    )


def _tps(results: list[tuple[float, float]]) -> str:
    return f"{statistics.median(tps for tps, _cpu_us in results):.0f}"


def _cpu(results: list[tuple[float, float]]) -> str:
    return f"{statistics.median(cpu_us for _tps_, cpu_us in results):.1f}"


def _logins_cpu_s(pgbench: list[str], environment: dict[str, str], way: Way, load: Load) -> float:
    """What the pooler spends on the logins of a run, and on one transaction of each client."""
    if load.reconnects or not way.pid:
        return 0.0
    before = _cpu_s(way.pid)
    _pgbench(pgbench, environment, way, *load.arguments(1), tls=load.tls)
    return _cpu_s(way.pid) - before


def _once(
    pgbench: list[str], environment: dict[str, str], way: Way, load: Load, logins_s: float
) -> tuple[float, float]:
    """Transactions per second, and the pooler's CPU microseconds for each."""
    before = _cpu_s(way.pid)
    output = _pgbench(pgbench, environment, way, *load.arguments(load.transactions), tls=load.tls)
    spent = _cpu_s(way.pid) - before - logins_s
    tps = re.search(r"^tps = ([\d.]+)", output, re.MULTILINE)
    if tps is None:
        raise Permanent(f"pgbench said: {output[-500:]}")
    done = load.clients * (load.transactions if load.reconnects else load.transactions - 1)
    return float(tps.group(1)), spent * 1e6 / done


def _latencies(
    pgbench: list[str], environment: dict[str, str], ways: dict[str, Way], label: str, say: Callable[[str], None]
) -> Table:
    """How long a transaction takes when no more are asked for than any way can do."""
    rows = []
    for load in PACED:
        present = {name: way for name, way in ways.items() if name != "direct" or load.clients <= POOL}
        found: dict[str, list[list[float]]] = {name: [] for name in present}
        for number in range(PACED_ROUNDS):
            names = list(present)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                found[name].append(_paced(pgbench, environment, present[name], load))
        whole = {name: list(chain.from_iterable(rounds)) for name, rounds in found.items()}
        cells = [
            " / ".join(f"{percentile(whole[name], percent):.2f}" for percent in (50, 99)) if name in found else "-"
            for name in ("direct", "PgBouncer", "RDS Proxy")
        ]
        ratio = "-"
        if peers := found.get("PgBouncer"):
            pairs = zip(found["RDS Proxy"], peers, strict=True)
            rounds = [percentile(one, 99) / percentile(other, 99) for one, other in pairs]
            ratio = f"{percentile(whole['RDS Proxy'], 99) / percentile(whole['PgBouncer'], 99):.2f}"
            ratio += f" ({min(rounds):.2f}–{max(rounds):.2f})"
        say(f"{load.name} at {load.rate} tps, {load.clients} clients, p50 / p99 in ms: {cells}, {ratio}")
        rows.append((load.name, str(load.clients), str(load.rate), *cells, ratio))
    return Table(
        title=f"pgbench -S at a fixed rate, p50 / p99 in ms, of all transactions of {PACED_ROUNDS} alternating rounds",
        columns=("mode", "clients", "tps", "direct", label, "RDS Proxy", "p99, proxy / PgBouncer"),
        rows=tuple(rows),
        notes=(
            "From the moment at which a transaction was due (pgbench -R), so that waiting counts. In parentheses:"
            " single rounds, each of which has few transactions beyond its 99th percentile.",
        ),
    )


def _paced(pgbench: list[str], environment: dict[str, str], way: Way, load: Load) -> list[float]:
    """Milliseconds of each transaction after the first second."""
    with tempfile.TemporaryDirectory(prefix="mainstay-bench-") as logs:
        paced = ("-R", str(load.rate), "-l", "--log-prefix", f"{logs}/log")
        count = load.rate * PACED_S // load.clients
        _pgbench(pgbench, environment, way, *load.arguments(count), *paced, tls=load.tls)
        lines = [line.split() for path in Path(logs).iterdir() for line in path.read_text().splitlines()]
    # client, number, microseconds, script, epoch seconds, microseconds
    times = [(int(line[4]) + int(line[5]) / 1e6, int(line[2]) / 1e3) for line in lines]
    begun_s = min(ended_s for ended_s, _took_ms in times) + 1
    return [took_ms for ended_s, took_ms in times if ended_s >= begun_s]


def _cpu_s(pid: int) -> float:
    """CPU seconds since start, to the nanosecond; a tick of 10 ms is too coarse."""
    if not pid:
        return 0.0
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9


def _pgbench(pgbench: list[str], environment: dict[str, str], way: Way, *arguments: str, tls: bool = False) -> str:
    done = subprocess.run(
        [*pgbench, "-h", way.address, "-p", str(way.port), "-U", "app", *arguments, "postgres"],
        env={**environment, "PGSSLMODE": "require" if tls else "disable"},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise Permanent(f"pgbench failed: {done.stderr[-500:]}")
    return done.stdout


def _idle(ways: dict[str, Way], say: Callable[[str], None]) -> Table:
    """What many clients cost that do nothing."""
    rows = []
    for name, way in ways.items():
        if not way.pid:
            continue
        with ExitStack() as clients:
            for _ in range(WARM):
                clients.enter_context(_client(way))
            time.sleep(SETTLE_S)
            before = _pss_bytes(way.pid)
            started, spent = time.monotonic(), _cpu_s(way.pid)
            for _ in range(IDLE_CLIENTS):
                clients.enter_context(_client(way))
            took_s, login_s = time.monotonic() - started, _cpu_s(way.pid) - spent
            time.sleep(SETTLE_S)
            held = _pss_bytes(way.pid) - before
            spent = _cpu_s(way.pid)
            time.sleep(IDLE_WATCH_S)
            idle_percent = (_cpu_s(way.pid) - spent) / IDLE_WATCH_S * 100
        say(f"{IDLE_CLIENTS} idle clients of {name}: {held / IDLE_CLIENTS:.0f} bytes each, {idle_percent:.2f} %")
        rows.append((name, f"{IDLE_CLIENTS / took_s:.0f}", f"{login_s / IDLE_CLIENTS * 1e6:.0f}",
                     f"{held / IDLE_CLIENTS / 1000:.1f}", f"{idle_percent:.2f}"))  # fmt: skip
    return Table(
        title=f"{IDLE_CLIENTS} idle clients, without TLS",
        columns=("pooler", "logins per second, one after the other", "CPU of a login, µs",
                 "memory each, kB", "CPU, % of one core"),
        rows=tuple(rows),
        notes=("Memory is the growth of the process's PSS; what the kernel keeps for a socket is not in it.",),
    )  # fmt: skip


@contextmanager
def _client(way: Way) -> Iterator[RawClient]:
    client = RawClient.tcp(way.port, way.address)
    try:
        client.log_in()
        yield client
    finally:
        client.close()


def _pss_bytes(pid: int) -> int:
    found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0
