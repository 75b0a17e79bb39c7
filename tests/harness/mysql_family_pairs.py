"""Multi-AZ MariaDB and MySQL instances under the same writers, the same kills and the same verdict as PostgreSQL's."""

from __future__ import annotations

import os
import pwd
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pymysql

from harness.dialects import EngineUnderTest
from harness.pairs import MultiAZ
from harness.service import Service, eventually
from harness.silence import dropped
from harness.writers import Row, Writers
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
    path = service.settings.runtime / "nodes" / node_id / "mysqld.sock"
    user = pwd.getpwuid(os.geteuid()).pw_name
    with pymysql.connect(unix_socket=str(path), user=user, ssl_disabled=True, autocommit=True) as session:
        cursor = session.cursor()
        for statement in statements:
            cursor.execute(statement)
        return list(cursor.fetchall())


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

    def kill_rounds_here(self, writers: Writers, rounds: int, whats: Sequence[str]) -> list[float]:
        """As `kill_rounds`, without a link between the nodes: they talk over TCP."""
        kills = []
        for number in range(rounds):
            before = self.await_in_sync()
            count = writers.acknowledged()
            eventually(lambda count=count: writers.acknowledged() >= count + 30, interval_s=0.01)
            before = self.await_in_sync()
            kills.append(self.kill(before.primary, whats[number % len(whats)]))
            after = self.await_epoch(before.epoch + 1)
            assert after.primary == before.standby
            eventually(lambda since=kills[-1]: writers.acknowledged_since(since), interval_s=0.01)
        self.await_in_sync()
        return kills
