"""What the tour must know of an engine to be its client: how to connect, the SQL that differs, how a person logs in."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import psycopg
import pymysql

from mainstay.model.errors import Permanent

CONNECT_TIMEOUT_S = 30
ClientErrors = (psycopg.Error, pymysql.err.MySQLError)


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """Where and as whom a client logs in, over TLS that is verified."""

    host: str
    port: int
    user: str
    password: str
    database: str
    authorities: str


class TourSession:
    """A session of an unmodified driver; every statement commits by itself."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def rows(self, statement: str, arguments: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The rows of the statement, none if it gives none. Raises one of `ClientErrors`."""
        with self._connection.cursor() as cursor:
            cursor.execute(statement, tuple(arguments) or None)
            return list(cursor.fetchall()) if cursor.description else []

    def one(self, statement: str) -> object:
        """The first column of the first row, None without one."""
        rows = self.rows(statement)
        return rows[0][0] if rows else None

    def close(self) -> None:
        """Ends the session."""
        self._connection.close()

    def __enter__(self) -> TourSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TourEngine(Protocol):
    """One engine as the tour meets it."""

    name: str
    title: str
    pooled: bool
    """Whether RDS Proxies carry its protocol."""

    parameter: tuple[str, str]
    parameter_text: str
    parameter_query: str
    parameter_shown: str
    orders_table: str
    orders: str
    version_query: str
    tls_query: str
    max_connections_query: str

    def connect(self, login: Login) -> TourSession:
        """A session. Raises one of `ClientErrors`."""

    def login_file(self, login: Login) -> tuple[str, str]:
        """Name and content of the file that keeps the password for a person's client."""

    def login_command(self, login: Login, file: Path, programs: Path) -> str:
        """What a person types to log in, with the client in `programs`: the engine's own, of its version."""


class _Postgres:
    name = "postgres"
    title = "PostgreSQL"
    pooled = True
    parameter = ("work_mem", "12288")
    parameter_text = "work_mem = 12 MB"
    parameter_query = "SHOW work_mem"
    parameter_shown = "12MB"
    orders_table = "CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY, amount numeric)"
    orders = "INSERT INTO orders (amount) SELECT random() * 100 FROM generate_series(1, %s)"
    version_query = "SELECT split_part(version(), ' on ', 1)"
    tls_query = "SELECT version || ' ' || cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    max_connections_query = "SHOW max_connections"

    def connect(self, login: Login) -> TourSession:
        return TourSession(
            psycopg.connect(
                host=login.host,
                port=login.port,
                user=login.user,
                password=login.password,
                dbname=login.database,
                sslmode="verify-full",
                sslrootcert=login.authorities,
                connect_timeout=CONNECT_TIMEOUT_S,
                autocommit=True,
            )
        )

    def login_file(self, login: Login) -> tuple[str, str]:
        return "tour.pgpass", f"*:*:*:{login.user}:{login.password}\n"

    def login_command(self, login: Login, file: Path, programs: Path) -> str:
        return (
            f"PGPASSFILE={file} {programs / 'psql'} 'host={login.host} port={login.port} user={login.user}"
            f" dbname={login.database} sslmode=verify-full sslrootcert={login.authorities}'"
        )


class _Mariadb:
    name = "mariadb"
    title = "MariaDB"
    pooled = False
    parameter = ("long_query_time", "2.5")
    parameter_text = "long_query_time = 2.5 s"
    parameter_query = "SELECT @@GLOBAL.long_query_time"
    parameter_shown = "2.5"
    orders_table = "CREATE TABLE orders (id bigint AUTO_INCREMENT PRIMARY KEY, amount decimal(12, 4))"
    orders = "INSERT INTO orders (amount) SELECT RAND() * 100 FROM seq_1_to_100000 LIMIT %s"
    version_query = "SELECT CONCAT('MariaDB ', SUBSTRING_INDEX(VERSION(), '-', 1))"
    tls_query = (
        "SELECT GROUP_CONCAT(VARIABLE_VALUE ORDER BY VARIABLE_NAME DESC SEPARATOR ' ')"
        " FROM information_schema.SESSION_STATUS WHERE VARIABLE_NAME IN ('SSL_VERSION', 'SSL_CIPHER')"
    )
    max_connections_query = "SELECT @@GLOBAL.max_connections"
    login_options: tuple[str, dict[str, str]] = ("mariadb", {"ssl-verify-server-cert": "1"})
    """The client program, and how it is told to verify the server's name."""

    def connect(self, login: Login) -> TourSession:
        return TourSession(
            pymysql.connect(
                host=login.host,
                port=login.port,
                user=login.user,
                password=login.password,
                database=login.database,
                ssl=ssl.create_default_context(cafile=login.authorities),
                connect_timeout=CONNECT_TIMEOUT_S,
                autocommit=True,
            )
        )

    def login_file(self, login: Login) -> tuple[str, str]:
        client, verify = self.login_options
        options = {
            "host": login.host, "port": login.port, "user": login.user, "password": login.password,
            "database": login.database, "ssl-ca": login.authorities, **verify,
        }  # fmt: skip
        return f"tour.{client}.cnf", "[client]\n" + "".join(f"{name}={value}\n" for name, value in options.items())

    def login_command(self, login: Login, file: Path, programs: Path) -> str:
        return f"{programs / self.login_options[0]} --defaults-file={file}"


class _Mysql(_Mariadb):
    name = "mysql"
    title = "MySQL"
    orders = (
        "INSERT INTO orders (amount) WITH RECURSIVE numbers (n) AS"
        " (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < %s) SELECT RAND() * 100 FROM numbers"
    )
    version_query = "SELECT CONCAT('MySQL ', SUBSTRING_INDEX(VERSION(), '-', 1))"
    tls_query = _Mariadb.tls_query.replace("information_schema.SESSION_STATUS", "performance_schema.session_status")
    login_options = ("mysql", {"ssl-mode": "VERIFY_IDENTITY"})


ENGINES: dict[str, TourEngine] = {engine.name: engine for engine in (_Postgres(), _Mariadb(), _Mysql())}


def tour_engine(name: str) -> TourEngine:
    """The engine of this name. Raises `Permanent`."""
    if name not in ENGINES:
        raise Permanent(f"the tour knows no engine {name!r}", hint=f"Engines: {', '.join(ENGINES)}.")
    return ENGINES[name]
