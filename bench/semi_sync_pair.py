"""A bare semi-synchronous pair of MariaDB servers with the very option files of a Multi-AZ instance's nodes.

Only places and names are replaced: what differs is Mainstay around them.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pymysql

from bench.multi_az import Tools, Way, limits_of
from harness.pairs import MultiAZ
from harness.service import PASSWORD, eventually
from mainstay.engines.mariadb.bootstrap import bootstrap_command, bootstrap_script, server
from mainstay.engines.mysql_family.layout import LOG_DIRECTORIES, OPTION_FILE
from mainstay.engines.mysql_family.local_sessions import SOCKET, own_name
from mainstay.model.engine import EngineBuild
from mainstay.model.node import NodeLimits

ADDRESSES = ("127.96.202.1", "127.96.202.2")


@contextmanager
def bare_pair(pair: MultiAZ, build: EngineBuild, tools: Tools, directory: Path) -> Iterator[Way]:
    """The first of the two servers, when the second acknowledges what it commits."""
    places = [directory / name for name in ("a", "b")]
    names = dict(zip((pair.primary, pair.standby), places, strict=True))
    for node_id, address in zip((pair.primary, pair.standby), ADDRESSES, strict=True):
        _copy_configuration(pair, node_id, names, address)
    tools.take(directory)
    data = places[0] / "volume/data"
    command = [*bootstrap_command(build), f"--datadir={data}"]
    subprocess.run(command, input=bootstrap_script(build), check=True, capture_output=True, timeout=120, cwd="/",
                   env=tools.environment(), **tools.credentials)  # fmt: skip
    shutil.copytree(data, places[1] / "volume/data", dirs_exist_ok=True)
    tools.take(places[1])
    port, limits = pair.instance["Endpoint"]["Port"], limits_of(pair)
    with _server(places[0], build, tools, limits, read_only=0), _server(places[1], build, tools, limits, read_only=1):
        _run(places[0], [
            "SET GLOBAL rpl_semi_sync_master_enabled = 0",  # nobody is there yet who could acknowledge
            f"CREATE USER app@'%' IDENTIFIED BY '{PASSWORD}'", "GRANT ALL ON *.* TO app@'%'",
            f"CREATE USER follower@'%' IDENTIFIED BY '{PASSWORD}'", "GRANT REPLICATION SLAVE ON *.* TO follower@'%'",
            "CREATE DATABASE sbtest",
        ])  # fmt: skip
        _run(places[1], [
            f"CHANGE MASTER TO MASTER_HOST='{ADDRESSES[0]}', MASTER_PORT={port}, MASTER_USER='follower',"
            f" MASTER_PASSWORD='{PASSWORD}', MASTER_SSL=1, MASTER_SSL_VERIFY_SERVER_CERT=0, MASTER_USE_GTID=slave_pos",
            "START SLAVE",
        ])  # fmt: skip
        eventually(lambda: _position(places[0]) == _position(places[1]))
        _run(places[0], ["SET GLOBAL rpl_semi_sync_master_enabled = 1"])
        eventually(lambda: _status(places[0], "Rpl_semi_sync_master_clients") == "1")
        assert _status(places[0], "Rpl_semi_sync_master_status") == "ON", "commits do not wait for the second server"
        yield Way(ADDRESSES[0], port)
        assert _status(places[0], "Rpl_semi_sync_master_no_tx") == "0", "commits have not waited"


def _copy_configuration(pair: MultiAZ, node_id: str, names: dict[str, Path], address: str) -> None:
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


def _server(directory: Path, build: EngineBuild, tools: Tools, limits: NodeLimits, *, read_only: int) -> Any:
    command = [server(build), f"--defaults-file={directory}/conf/{OPTION_FILE}", f"--read-only={read_only}"]
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


def _position(directory: Path) -> str:
    with _connect(directory) as session, session.cursor() as cursor:
        cursor.execute("SELECT @@GLOBAL.gtid_current_pos")
        return str(cursor.fetchone()[0])


def _status(directory: Path, name: str) -> str:
    with _connect(directory) as session, session.cursor() as cursor:
        cursor.execute("SHOW GLOBAL STATUS LIKE %s", (name,))
        return str(cursor.fetchone()[1])
