"""Multi-AZ MariaDB and MySQL instances under the same writers, the same kills and the same verdict as PostgreSQL's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import psycopg
import pymysql

from harness.dialects import EngineUnderTest
from harness.pairs import MultiAZ
from harness.service import Service, eventually
from harness.writers import Writers
from mainstay.host.fencing import processes_below

LATEST = "SELECT session, sequence FROM kept ORDER BY place DESC LIMIT 200"
TABLE = (
    "CREATE TABLE kept (place bigint AUTO_INCREMENT PRIMARY KEY, session int NOT NULL, sequence int NOT NULL)"
    " ENGINE=InnoDB"
)
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
        except pymysql.err.MySQLError as error:
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


class MysqlFamilyMultiAZ(MultiAZ):
    """One Multi-AZ MariaDB or MySQL instance of a service."""

    def __init__(self, service: Service, engine: EngineUnderTest, instance: dict[str, Any]) -> None:
        super().__init__(service, instance)
        self._engine = engine
        self.name = engine.dialect.engine

    def connect(self, **options: Any) -> Any:
        wanted = {"database": "shop", "read_timeout": 60, **options}
        return Connection(lambda: self._engine.dialect.connect(self.service, self.instance, tls=True, **wanted))

    def make_table(self) -> None:
        with self.connect() as session:
            session.execute("DROP TABLE IF EXISTS kept")
            session.execute(TABLE)

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
