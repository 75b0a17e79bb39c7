"""A bare semi-synchronous pair of MariaDB or MySQL servers with the very option files of a Multi-AZ instance's nodes.

Only places and names are replaced: what differs is Mainstay around them.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pymysql

from bench.multi_az import Tools, Way, limits_of
from harness.mysql_family_pairs import MysqlFamilyMultiAZ
from harness.service import PASSWORD, eventually
from mainstay.engines.mariadb.driver import MariadbDriver
from mainstay.engines.mysql.driver import MysqlDriver
from mainstay.engines.mysql_family.driver import FamilyDriver
from mainstay.engines.mysql_family.layout import LOG_DIRECTORIES, OPTION_FILE
from mainstay.engines.mysql_family.local_sessions import SOCKET, own_name
from mainstay.model.engine import EngineBuild
from mainstay.model.node import NodeLimits

ADDRESSES = ("127.96.202.1", "127.96.202.2")
DRIVERS: dict[str, Callable[[], FamilyDriver]] = {"mariadb": MariadbDriver, "mysql": MysqlDriver}


@contextmanager
def bare_pair(
    pair: MysqlFamilyMultiAZ, build: EngineBuild, tools: Tools, directory: Path, addresses: Sequence[str] = ADDRESSES
) -> Iterator[Way]:
    """The first of the two servers, when the second acknowledges what it commits."""
    places = [directory / name for name in ("a", "b")]
    names = dict(zip((pair.primary, pair.standby), places, strict=True))
    for node_id, address in zip((pair.primary, pair.standby), addresses, strict=True):
        _copy_configuration(pair, node_id, names, address)
    tools.take(directory)
    driver, data = DRIVERS[pair.name](), places[0] / "volume/data"
    asyncio.run(driver.make_data(build, data, tools.user))
    shutil.copytree(data, places[1] / "volume/data", dirs_exist_ok=True)
    tools.take(places[1])
    words, port, limits = driver.words, pair.instance["Endpoint"]["Port"], limits_of(pair)
    source, follower = words.source.upper(), words.follower.upper()
    command = [driver.server(build)]
    with (
        _server(places[0], command, tools, limits, read_only=0),
        _server(places[1], command, tools, limits, read_only=1),
    ):
        _run(places[0], [
            f"SET GLOBAL {words.semi_sync}enabled = 0",  # nobody is there yet who could acknowledge
            f"CREATE USER app@'%' IDENTIFIED BY '{PASSWORD}'", "GRANT ALL ON *.* TO app@'%'",
            f"CREATE USER follower@'%' IDENTIFIED BY '{PASSWORD}'", "GRANT REPLICATION SLAVE ON *.* TO follower@'%'",
            "CREATE DATABASE sbtest",
        ])  # fmt: skip
        _run(places[1], [
            f"{words.change} {source}_HOST='{addresses[0]}', {source}_PORT={port}, {source}_USER='follower',"
            f" {source}_PASSWORD='{PASSWORD}', {source}_SSL=1, {source}_SSL_VERIFY_SERVER_CERT=0,"
            f" {source}_CONNECT_RETRY=1, {source}_HEARTBEAT_PERIOD=1, {words.position}",
            f"START {follower}",
        ])  # fmt: skip
        eventually(lambda: _value(places[0], words.logged) == _value(places[1], words.applied) != "")
        _run(places[0], [f"SET GLOBAL {words.semi_sync}enabled = 1"])
        eventually(lambda: _status(places[0], f"{words.semi_sync}clients") == "1")
        assert _status(places[0], f"{words.semi_sync}status") == "ON", "commits do not wait for the second server"
        missed = _status(places[0], f"{words.semi_sync}no_tx")
        yield Way(addresses[0], port)
        assert _status(places[0], f"{words.semi_sync}no_tx") == missed, "commits have not waited"


def _copy_configuration(pair: MysqlFamilyMultiAZ, node_id: str, names: dict[str, Path], address: str) -> None:
    """The node's own files, with other places and names in them."""
    theirs, own = pair.volume(node_id).parent, names[node_id]
    for name in ("volume/data", "volume/tmp", "volume/exchange", *(f"log/{one}" for one in LOG_DIRECTORIES)):
        (own / name).mkdir(parents=True)
    shutil.copytree(theirs / "conf", own / "conf")
    runtime = pair.service.settings.runtime / "nodes"
    node = next(one for one in pair.service.nodes() if one["node"] == node_id)
    text = (own / "conf" / OPTION_FILE).read_text()
    text = text.replace(str(runtime / node_id), str(own)).replace(str(theirs), str(own))
    text = text.replace(f'"{node["address"]}"', f'"{address}"')
    (own / "conf" / OPTION_FILE).write_text(text)


def _server(directory: Path, program: list[str], tools: Tools, limits: NodeLimits, *, read_only: int) -> Any:
    command = [*program, f"--defaults-file={directory}/conf/{OPTION_FILE}", f"--read-only={read_only}"]
    running = tools.server(directory, limits, command, signal.SIGTERM)
    return _ready(running, directory)


@contextmanager
def _ready(running: Any, directory: Path) -> Iterator[None]:
    with running:
        eventually(lambda: _answers(lambda: _connect(directory).close()))
        yield


def _answers(connect: Callable[[], None]) -> bool:
    try:
        connect()
    except pymysql.err.MySQLError:
        return False
    return True


def _connect(directory: Path) -> Any:
    return pymysql.connect(unix_socket=str(directory / SOCKET), user=own_name(), autocommit=True)


def _run(directory: Path, statements: Sequence[str]) -> None:
    with _connect(directory) as session, session.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def _value(directory: Path, query: str) -> str:
    with _connect(directory) as session, session.cursor() as cursor:
        cursor.execute(query)
        return str(cursor.fetchone()[0])


def _status(directory: Path, name: str) -> str:
    with _connect(directory) as session, session.cursor() as cursor:
        cursor.execute("SHOW GLOBAL STATUS LIKE %s", (name,))
        return str(cursor.fetchone()[1])
