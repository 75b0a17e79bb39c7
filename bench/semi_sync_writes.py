"""Multi-AZ writes of MariaDB and MySQL beside a bare semi-synchronous pair with the same settings.

Writes are those of `sysbench oltp_write_only`; every round runs all ways one after the other, each round beginning with
another one, and the ratios are taken within a round.
"""

from __future__ import annotations

import os
import re
import ssl
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pymysql

from bench.link import ENDPOINTS, NETWORK, SERVERS, link, unavailable
from bench.multi_az import Tools, Way, place_for_a_pair, ways_beside
from bench.peers import sysbench
from bench.report import Table, spread
from bench.semi_sync_pair import ADDRESSES, bare_pair
from harness.dialects import EngineUnderTest
from harness.mysql_family_pairs import MysqlFamilyMultiAZ
from harness.service import HOMES, PASSWORD, Service
from mainstay.engines.builds import Builds

NAMES = {"mariadb": "MariaDB", "mysql": "MySQL"}
ROUNDS = 12
CLIENTS, SECONDS = 8, 4
TABLES, ROWS = 4, 20_000
INSTANCE_CLASS = "db.t3.medium"
"""The data is in memory and counts towards the class's limit: with a gigabyte of binary logs the engine is killed."""

TIMEOUT_S = 600.0


def ssl_of_anybody() -> ssl.SSLContext:
    """TLS to whoever answers: the bare servers and nodes have no names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def writes_beside_a_bare_pair(service: Service, engine: EngineUnderTest, say: Callable[[str], None]) -> list[Table]:
    """One table, of clients on this machine; none where sysbench cannot be had."""
    program = sysbench(service.settings.builds, say)
    if program is None:
        return []
    pair = _pair(service, engine)

    def ways(bare: Way) -> dict[str, Way]:
        return ways_beside(bare, service, pair.primary, pair.instance["Endpoint"])

    return [_table("clients on this machine", pair, engine, _results(program, pair, engine, ADDRESSES, ways, say))]


def writes_over_a_link(engine: EngineUnderTest, say: Callable[[str], None]) -> list[Table]:
    """One table, of clients that come as another machine's do; none, in words, where there can be no such clients.

    A loopback address cannot be reached by them: the service has its endpoints in a network of this machine.
    """
    if (reason := unavailable()) is not None:
        say(f"{engine.dialect.engine}: no clients of another machine: {reason}")
        return []
    with link() as made, Service(endpoint_network=str(ENDPOINTS)) as service:
        program = sysbench(service.settings.builds, say)
        if program is None:
            return []
        pair = _pair(service, engine)

        def ways(bare: Way) -> dict[str, Way]:
            endpoint = pair.instance["Endpoint"]
            return {
                "bare": Way(bare.address, bare.port, made.inside),
                "Multi-AZ, through the endpoint": Way(endpoint["Address"], endpoint["Port"], made.inside),
            }

        results = _results(program, pair, engine, SERVERS, ways, say)
        return [_table("clients behind a veth pair", pair, engine, results)]


def _pair(service: Service, engine: EngineUnderTest) -> MysqlFamilyMultiAZ:
    """A Multi-AZ instance in sync, which admits the clients of a link."""
    instance = engine.create(service, "pair", MultiAZ=True, DBName="sbtest", DBInstanceClass=INSTANCE_CLASS)
    rule = {"IpProtocol": "-1", "IpRanges": [{"CidrIp": str(NETWORK)}]}
    group = instance["VpcSecurityGroups"][0]["VpcSecurityGroupId"]
    service.client("ec2").authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
    return MysqlFamilyMultiAZ(service, engine, instance)


def _results(
    program: Path,
    pair: MysqlFamilyMultiAZ,
    engine: EngineUnderTest,
    addresses: Sequence[str],
    ways_with: Callable[[Way], dict[str, Way]],
    say: Callable[[str], None],
) -> dict[str, list[float]]:
    """Transactions a second by way, a bare pair at these addresses among the ways; deletes the instance."""
    service = pair.service
    build = Builds(service.settings).resolve(engine.dialect.engine, engine.version)
    tools = Tools(build, service.settings.engine_user)
    before = pair.await_in_sync()
    with place_for_a_pair() as directory, bare_pair(pair, build, tools, directory, addresses) as bare:
        ways = ways_with(bare)
        for way in ways.values():  # MySQL takes a password over plain TCP from those it knows already
            pymysql.connect(
                host=way.address, port=way.port, user="app", password=PASSWORD, ssl=ssl_of_anybody()
            ).close()
        results = _measure(engine.dialect.engine, program, ways, say)
        assert pair.record == before, "the pair did not stay in sync: what was measured is something else"
    service.delete_instance("pair")
    return results


def _table(clients: str, pair: MysqlFamilyMultiAZ, engine: EngineUnderTest, results: dict[str, list[float]]) -> Table:
    def ratios(name: str) -> str:
        return spread([one / other for one, other in zip(results[name], results["bare"], strict=True)], 2)

    return Table(
        title=(
            f"sysbench oltp_write_only, {NAMES[pair.name]} {engine.version}, {TABLES} tables of {ROWS} rows, {CLIENTS}"
            f" {clients}, {ROUNDS} rounds of {SECONDS} s"
        ),
        columns=("way", "transactions a second", "of bare, within a round"),
        rows=tuple((name, spread(values), ratios(name)) for name, values in results.items()),
        notes=(f"Every commit is synchronised on both nodes before it is acknowledged. All data is in {HOMES}.",),
    )


def _measure(engine: str, program: Path, ways: dict[str, Way], say: Callable[[str], None]) -> dict[str, list[float]]:
    """Transactions per second by way; the order of ways turns with every round."""
    names = list(ways)
    for name in names[:2]:  # a third is the same database as the second
        _sysbench(program, ways[name], "prepare")
    results: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-1, ROUNDS):  # the first one warms up
        for name in names[number % len(names) :] + names[: number % len(names)]:
            found = re.search(r"transactions: .*\(([\d.]+) per sec", _sysbench(program, ways[name], "run"))
            assert found is not None
            if number >= 0:
                results[name].append(float(found[1]))
        say(f"{engine}: round {number + 1} of {ROUNDS} of writes")
    return results


def _sysbench(program: Path, way: Way, command: str) -> str:
    scripts = program.parent.parent / "share/sysbench"
    script = scripts / "oltp_write_only.lua"
    plugins = next(program.parent.parent.glob("lib/*/libmariadb3/plugin"))  # how clients of MySQL log in
    options = [
        f"--mysql-host={way.address}", f"--mysql-port={way.port}", "--mysql-user=app", f"--mysql-password={PASSWORD}",
        "--mysql-db=sbtest", f"--tables={TABLES}", f"--table-size={ROWS}", f"--threads={CLIENTS}",
        f"--time={SECONDS}",
    ]  # fmt: skip
    done = subprocess.run(
        [*way.inside, str(program), str(script), *options, command],
        env={"PATH": os.environ["PATH"], "LUA_PATH": f"{scripts}/?.lua", "MARIADB_PLUGIN_DIR": str(plugins)},
        capture_output=True, text=True, check=False, timeout=TIMEOUT_S,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"sysbench {command}: {(done.stdout + done.stderr)[-1500:]}")
    return done.stdout
