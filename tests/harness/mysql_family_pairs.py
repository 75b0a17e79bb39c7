"""Multi-AZ MariaDB and MySQL instances under the same writers, the same kills and the same verdict as PostgreSQL's."""

from __future__ import annotations

import os
import pwd
import random
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pymysql

from harness.dialects import EngineUnderTest
from harness.pairs import MultiAZ
from harness.service import Service, eventually
from harness.silence import dropped
from harness.writers import JOIN_TIMEOUT_S, RECONNECT_PAUSE_S, Row, Writers
from mainstay.engines.mariadb.words import MARIADB_WORDS
from mainstay.engines.mysql.words import MYSQL_WORDS
from mainstay.host.fencing import processes_below
from mainstay.host.processes import engine_user

LATEST = "SELECT session, sequence FROM kept ORDER BY place DESC LIMIT 200"
TABLE = (
    "CREATE TABLE kept (place bigint AUTO_INCREMENT PRIMARY KEY, session int NOT NULL, sequence int NOT NULL)"
    " ENGINE=InnoDB"
)
WORDS = {"mariadb": MARIADB_WORDS, "mysql": MYSQL_WORDS}
UNAPPLIED_BY_MYSQL = (
    "SELECT GTID_SUBTRACT(RECEIVED_TRANSACTION_SET, @@GLOBAL.gtid_executed)"
    " FROM performance_schema.replication_connection_status WHERE CHANNEL_NAME = ''"
)
MANY_ROWS, MANY_A_COMMIT, MANY_CLIENTS = 20_000, 100, 4
CONNECTION_LOST = frozenset({2006, 2013, 1927, 1053, 0})
"""Gone away, lost during the query, killed, shutting down, closed: whether the commit had happened is not told."""


class Lost(psycopg.OperationalError):
    """What became of the statement is not known."""


class Told(psycopg.OperationalError):
    """The engine said that the statement failed."""

    sqlstate = "HY000"


class _Rows:
    def __init__(self, rows: Sequence[Any]) -> None:
        self._rows = list(rows)

    def fetchall(self) -> list[Any]:
        return self._rows


class Connection:
    """A PyMySQL session as the writers use one of psycopg."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self.broken = False
        try:
            self._connection = connect()
        except (pymysql.err.MySQLError, OSError) as error:  # there may be no host to read the certificate from
            raise Lost(str(error)) from error

    def execute(self, statement: str, arguments: Sequence[object] = ()) -> _Rows:
        if "ctid" in statement:  # the writers' readers look at the end of the table; here it has a key for that
            statement, arguments = LATEST, ()
        elif statement.startswith("INSERT INTO kept VALUES"):
            statement = "INSERT INTO kept (session, sequence) VALUES (%s, %s)"
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(statement, tuple(arguments) or None)
                return _Rows(cursor.fetchall())
        except pymysql.err.MySQLError as error:
            number = error.args[0] if error.args else 0
            if number in CONNECTION_LOST:
                self.broken = True
                raise Lost(str(error)) from error
            raise Told(str(error)) from error

    def add_notice_handler(self, _handler: object) -> None:
        """There are no notices: a commit that did not wait for the standby cannot be told from one that did."""

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def as_operator(service: Service, node_id: str, *statements: str) -> list[tuple[Any, ...]]:
    """Statements at a node's own socket, as those who operate it: nothing is forbidden. The rows of the last one."""
    with _operators_session(service, node_id) as session, session.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        return list(cursor.fetchall())


def _operators_session(service: Service, node_id: str) -> Any:
    path = service.settings.runtime / "nodes" / node_id / "mysqld.sock"
    user = pwd.getpwuid(os.geteuid()).pw_name
    session = pymysql.Connection(user=user, ssl_disabled=True, autocommit=True, defer_connect=True)
    connection = socket.socket(socket.AF_UNIX)
    try:  # PyMySQL would leave a socket open that finds nobody
        connection.connect(str(path))
        session.connect(connection)
    except BaseException as error:
        connection.close()
        if isinstance(error, OSError):
            raise pymysql.err.OperationalError(2003, str(error)) from error
        raise
    return session


def _length(interval: tuple[str, str]) -> int:
    first, last = interval
    return int(last or first) - int(first) + 1


def _sequence(gtid: str) -> int:
    """MariaDB's GTIDs are `domain-server-sequence`; there is one domain here."""
    return int(gtid.rpartition("-")[2] or 0)


class MysqlFamilyMultiAZ(MultiAZ):
    """One Multi-AZ MariaDB or MySQL instance of a service."""

    def __init__(self, service: Service, engine: EngineUnderTest, instance: dict[str, Any]) -> None:
        super().__init__(service, instance)
        self._engine = engine
        self.name = engine.dialect.engine

    def connect(self, **options: Any) -> Any:
        wanted = {"database": "shop", "read_timeout": 60, **options}
        return Connection(lambda: self._engine.dialect.connect(self.service, self.instance, tls=True, **wanted))

    def stranded(self, node_id: str) -> Writers:
        """Clients that talk to one node directly, whoever leads. They wait for the standby like all others."""
        node = self._node(node_id)
        trusting = ssl.create_default_context(cafile=self.service.variables["MAINSTAY_CA_BUNDLE"])
        trusting.check_hostname = False  # a node has no name
        wanted = {"host": node["address"], "port": node["port"], "ssl": trusting, "connect_timeout": 2}
        return Writers(lambda: self.connect(**wanted), writers=2, readers=0)

    def make_table(self) -> None:
        with self.connect() as session:
            session.execute("DROP TABLE IF EXISTS kept")
            session.execute(TABLE)

    def as_operator(self, node_id: str, *statements: str) -> list[tuple[Any, ...]]:
        """See the function of this name."""
        return as_operator(self.service, node_id, *statements)

    def rows_of(self, node_id: str) -> list[Row]:
        """What is in the writers' table of one node."""
        found = self.as_operator(node_id, "SELECT session, sequence FROM shop.kept")
        return [(int(session), int(sequence)) for session, sequence in found]

    def operating(self, node_id: str) -> Any:
        """A session at a node's own socket, as those who operate it."""
        return _operators_session(self.service, node_id)

    def commits_wait(self, node_id: str) -> bool:
        """Whether commits on this node wait for its standby, which is there to acknowledge them."""
        semi_sync = WORDS[self.name].semi_sync
        found = dict(self.as_operator(node_id, f"SHOW GLOBAL STATUS LIKE '{semi_sync}%'"))
        known = {name.lower(): value for name, value in found.items()}
        enabled = self.as_operator(node_id, f"SELECT @@GLOBAL.{semi_sync}enabled")[0][0]
        return bool(enabled) and (known[f"{semi_sync}status"], known[f"{semi_sync}clients"]) == ("ON", "1")

    def unapplied(self) -> int:
        """Transactions that the standby has received and not applied: what a failover would have to wait for."""
        with _operators_session(self.service, self.standby) as session, session.cursor() as cursor:
            if self.name == "mysql":
                cursor.execute(UNAPPLIED_BY_MYSQL)
                return sum(map(_length, re.findall(r":(\d+)(?:-(\d+))?", cursor.fetchone()[0])))
            cursor.execute("SHOW SLAVE STATUS")
            received = dict(zip((column[0] for column in cursor.description), cursor.fetchone(), strict=True))
            cursor.execute(WORDS[self.name].applied)
            # It went on applying between the two: rather too little than too much.
            return max(0, _sequence(received["Gtid_IO_Pos"]) - _sequence(cursor.fetchone()[0]))

    def damage(self, node_id: str) -> list[tuple[Any, ...]]:
        """What the engine finds wrong in the writers' table of one node, its pages and its indexes."""
        checked = self.as_operator(node_id, "CHECK TABLE shop.kept EXTENDED")
        return [row for row in checked if row[2] != "status" or row[3] != "OK"]

    @contextmanager
    def unstartable(self, node_id: str) -> Iterator[None]:
        """The node's engine, once it has ended, does not come up again for the time of the block."""
        tablespace: Path = self.volume(node_id) / "data" / "ibdata1"
        mode = tablespace.stat().st_mode & 0o777
        tablespace.chmod(0)
        try:
            yield
        finally:
            tablespace.chmod(mode)

    @contextmanager
    def isolated(self, node_id: str) -> Iterator[None]:
        """Nothing passes between the node that leads and its standby, nor between the endpoint and its clients.

        In silence: no connection ends. Who talks to the node directly is on its side and goes on.
        """
        node, endpoint = self._node(node_id), self.instance["Endpoint"]
        user = engine_user(self.service.settings.engine_user)
        followers = [
            str(connection.laddr.port)
            for pid in self.processes(self.standby)
            for connection in psutil.Process(pid).net_connections("tcp")
            if connection.raddr and tuple(connection.raddr) == (node["address"], node["port"])
        ]
        assert followers, "the standby follows nobody over TCP"
        matches = (
            f"meta skuid {user.user_id} ip daddr {node['address']} tcp dport {node['port']}",
            f"ip saddr {node['address']} tcp sport {node['port']} tcp dport {{ {', '.join(followers)} }}",
            f"ip daddr {endpoint['Address']} tcp dport {endpoint['Port']}",
        )
        with dropped(matches):
            yield

    def _node(self, node_id: str) -> dict[str, Any]:
        return next(node for node in self.service.nodes() if node["node"] == node_id)

    def postmaster(self, node_id: str) -> int:
        """Pid of the engine's only process."""
        pids = processes_below(self.volume(node_id))
        return pids[0] if pids else 0

    @contextmanager
    def busy_applier(self) -> Iterator[None]:
        """Clients that change many rows with every commit: the standby is always behind with applying them."""
        with self.connect() as session:
            session.execute("DROP TABLE IF EXISTS many")
            session.execute("CREATE TABLE many (id int PRIMARY KEY, value int NOT NULL, text char(60), KEY (value))")
            session.execute(f"INSERT INTO many VALUES {', '.join(f'({one}, 0, 1)' for one in range(MANY_ROWS))}")
        ended = threading.Event()
        threads = [threading.Thread(target=self._change_many, args=(ended,), daemon=True) for _ in range(MANY_CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            for thread in threads:
                thread.join(JOIN_TIMEOUT_S)
            assert not any(thread.is_alive() for thread in threads), "a client hangs"

    def _change_many(self, ended: threading.Event) -> None:
        while not ended.is_set():
            try:
                with self.connect() as session:
                    while not ended.is_set():
                        first = random.randrange(MANY_ROWS - MANY_A_COMMIT)
                        rows = f"id BETWEEN {first} AND {first + MANY_A_COMMIT - 1}"
                        with suppress(Told):  # two may wait for each other: the engine ends one
                            session.execute(f"UPDATE many SET value = value + 1 WHERE {rows}")
            except Lost:
                ended.wait(RECONNECT_PAUSE_S)

    def kill_rounds_here(
        self, writers: Writers, rounds: int, whats: Sequence[str], *, dwell_s: float = 0.0
    ) -> tuple[list[float], list[int]]:
        """As `kill_rounds`, without a link between the nodes, as they talk over TCP.

        Also returns what was to be applied right before each kill (`unapplied`), which is within `2 * dwell_s` of the
        moment when the pair was in sync and the writers were at work.
        """
        kills, backlogs = [], []
        for number in range(rounds):
            self.await_in_sync()
            count = writers.acknowledged()
            eventually(lambda count=count: writers.acknowledged() >= count + 30, interval_s=0.01)
            time.sleep(random.uniform(0.0, 2 * dwell_s))
            before = self.await_in_sync()
            backlogs.append(self.unapplied())
            kills.append(self.kill(before.primary, whats[number % len(whats)]))
            after = self.await_epoch(before.epoch + 1)
            assert after.primary == before.standby
            writers.resumed()
        self.await_in_sync()
        return kills, backlogs
