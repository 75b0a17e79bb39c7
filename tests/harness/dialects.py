"""What the conformance suite must know of an engine: how a client connects, and the SQL that differs."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from typing import Any

import msgspec
import psycopg
import pymysql

from harness.service import PASSWORD, Service
from mainstay.engines.builds import Builds
from mainstay.model.engine import ORIGIN_INSTALLED
from mainstay.settings import load_settings

VERSIONS = "TEST_ENGINE_VERSIONS"
"""In the environment of a test run: major versions, "mariadb=10.11 postgres=15", that tests take for the newest."""

ClientError = (psycopg.Error, pymysql.err.MySQLError)
"""What a client raises, whatever the engine."""


class Client:
    """A session of an unmodified driver, autocommit: `client.rows("SELECT …")`."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """The rows of one statement, none if it gives none."""
        with self._connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []

    def value(self, statement: str) -> Any:
        """The first column of the first row."""
        return self.rows(statement)[0][0]

    def close(self) -> None:
        """Ends the session."""
        self._connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """One engine as its clients see it.

    `dynamic` and `static` are parameters with a value that is not the default, and how the engine shows that value.
    `make_events` makes the events `daily` and, disabled, `resting`, if the engine has events. `tls` and `slow` are
    queries: the protocol of the session, and one that takes the seconds filled in.
    """

    engine: str
    port: int
    family: str
    connect: Callable[..., Any]
    dynamic: tuple[str, str, str]
    static: tuple[str, str, str]
    require_tls: str
    tls: str
    sleep: str
    show: str
    first_log: str
    error_log: str
    superuser_only: tuple[str, ...]
    make_events: tuple[str, ...] = ()


def _postgres(service: Service, instance: dict[str, Any], *, tls: bool, **options: Any) -> Any:
    names = {"database": "dbname"}
    wanted = {names.get(name, name): value for name, value in options.items()}
    if not tls:
        wanted |= {"sslmode": "disable", "sslrootcert": None}
    return service.connect(instance, **wanted)


def _mysql(service: Service, instance: dict[str, Any], *, tls: bool, **options: Any) -> Any:
    wanted: dict[str, Any] = {
        "host": instance["Endpoint"]["Address"],
        "port": instance["Endpoint"]["Port"],
        "user": instance["MasterUsername"],
        "password": PASSWORD,
        "autocommit": True,
        "connect_timeout": 10,
        **options,
    }
    if tls:
        wanted.setdefault("ssl", ssl.create_default_context(cafile=service.variables["MAINSTAY_CA_BUNDLE"]))
    else:
        wanted["ssl_disabled"] = True
    return pymysql.connect(**wanted)


POSTGRES = Dialect(
    engine="postgres",
    port=5432,
    family="postgres",
    connect=_postgres,
    dynamic=("work_mem", "8192", "8MB"),
    static=("max_connections", "77", "77"),
    require_tls="rds.force_ssl",
    tls="SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
    sleep="SELECT pg_sleep({seconds})",
    show="SELECT current_setting('{name}')",
    first_log="error/postgresql.log",
    error_log="ready to accept connections",
    superuser_only=("COPY (SELECT 1) TO '/tmp/outside'", "ALTER SYSTEM SET work_mem = '1MB'"),
)
MARIADB = Dialect(
    engine="mariadb",
    port=3306,
    family="mariadb",
    connect=_mysql,
    dynamic=("max_allowed_packet", "33554432", "33554432"),
    static=("ft_min_word_len", "7", "7"),
    require_tls="require_secure_transport",
    tls="SELECT VARIABLE_VALUE FROM information_schema.SESSION_STATUS WHERE VARIABLE_NAME = 'SSL_VERSION'",
    sleep="SELECT SLEEP({seconds})",
    show="SELECT @@GLOBAL.{name}",
    first_log="error/mysql-error.log",
    error_log="ready for connections",
    superuser_only=(
        "SELECT 1 INTO OUTFILE '/tmp/outside'",
        "LOAD DATA INFILE '/etc/passwd' INTO TABLE shop.owned",
        "SET GLOBAL max_connections = 5",
        "SET GLOBAL general_log_file = '/tmp/outside'",
        "SET SESSION sql_log_bin = 0",
        "SHUTDOWN",
        "RESET MASTER",
        "INSTALL SONAME '../outside'",
    ),
    make_events=(
        "CREATE EVENT daily ON SCHEDULE EVERY 1 DAY DO SELECT 1",
        "CREATE EVENT resting ON SCHEDULE EVERY 1 DAY DISABLE DO SELECT 1",
    ),
)
MYSQL = msgspec.structs.replace(
    MARIADB,
    engine="mysql",
    family="mysql",
    tls="SELECT VARIABLE_VALUE FROM performance_schema.session_status WHERE VARIABLE_NAME = 'Ssl_version'",
    superuser_only=(
        *MARIADB.superuser_only[:-1],
        "INSTALL PLUGIN outside SONAME 'outside.so'",
        "INSTALL COMPONENT 'file://outside'",
        "SET PERSIST max_connections = 5",
        "CLONE LOCAL DATA DIRECTORY = '/tmp/outside'",
        "RESET BINARY LOGS AND GTIDS",
        "DROP USER rdsadmin@localhost",
        "UPDATE mysql.user SET Super_priv = 'Y'",
    ),
)
DIALECTS = {one.engine: one for one in (POSTGRES, MARIADB, MYSQL)}


class EngineUnderTest(msgspec.Struct, frozen=True):
    """One installed version of one engine, as the suite is run on it."""

    dialect: Dialect
    version: str

    def create(self, service: Service, identifier: str = "", **members: Any) -> dict[str, Any]:
        """An available instance of this version."""
        return service.create_instance(identifier, Engine=self.dialect.engine, EngineVersion=self.version, **members)

    def connect(self, service: Service, instance: dict[str, Any], *, tls: bool = True, **options: Any) -> Client:
        """The master user, over verified TLS unless told otherwise."""
        return Client(self.dialect.connect(service, instance, tls=tls, **options))


def installed_engines() -> list[EngineUnderTest]:
    """The newest build of each major version that was installed for Mainstay itself, or of those asked for."""
    builds = os.environ.get("MAINSTAY_ENGINES")
    settings = load_settings({"MAINSTAY_ENGINES": builds} if builds else {})
    asked_for = dict(word.split("=", 1) for word in os.environ.get(VERSIONS, "").split())
    newest: dict[tuple[str, str], str] = {}
    for build in Builds(settings).installed():
        wanted = asked_for.get(build.engine, build.major) == build.major
        if build.origin == ORIGIN_INSTALLED and build.engine in DIALECTS and wanted:
            newest[build.engine, build.major] = build.version
    return [EngineUnderTest(DIALECTS[engine], version) for (engine, _major), version in sorted(newest.items())]


def newest_of(dialect: Dialect) -> list[EngineUnderTest]:
    """The newest version of one engine (see `VERSIONS`), none where it is not installed: parameters of a test."""
    return [one for one in installed_engines() if one.dialect is dialect][-1:]
