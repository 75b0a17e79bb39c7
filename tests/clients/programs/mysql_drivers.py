"""What users of the Python drivers of MariaDB and MySQL do, over TLS that verifies who the server is.

Argument: the driver. DATABASE in the environment is JSON: host, port, database, authorities (a file), users (pairs of
name and password), elsewhere (an address of the same server that its certificate does not name), others (a file with
other authorities), connector (further options of MySQL's own driver). Fails by its exit status.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
from collections.abc import Callable
from typing import Any

DATABASE = json.loads(os.environ["DATABASE"])
DRIVER = sys.argv[1]
TABLE = "of_" + DRIVER.replace("-", "_")
ROWS = [(number, bytes(range(256)) * number, f"zwölf 😀 {number}") for number in range(200)]
MADE = f"CREATE TABLE {TABLE} (a int PRIMARY KEY, b longblob, c varchar(100) CHARACTER SET utf8mb4)"
INSERT = f"INSERT INTO {TABLE} VALUES (%s, %s, %s)"
READ = f"SELECT a, b, c FROM {TABLE} ORDER BY a"
TLS = "SHOW SESSION STATUS LIKE 'Ssl_version'"
REFUSED, DUPLICATE = 1045, 1062
NOT_HERE = 77
"""Exit status where the driver cannot be loaded."""


def place(host: str, user: str, password: str) -> dict[str, Any]:
    """What every driver calls by the same names."""
    return {
        "host": host, "port": DATABASE["port"], "user": user, "password": password, "database": DATABASE["database"],
    }  # fmt: skip


def with_pymysql(host: str, user: str, password: str, authorities: str) -> Any:
    """PyMySQL."""
    import pymysql

    tls = {"ssl_ca": authorities, "ssl_verify_cert": True, "ssl_verify_identity": True}
    return pymysql.connect(**place(host, user, password), **tls)


def with_connector(host: str, user: str, password: str, authorities: str) -> Any:
    """MySQL's own driver, in C or in Python."""
    import mysql.connector

    tls = {"ssl_ca": authorities, "ssl_verify_cert": True, "ssl_verify_identity": True}
    pure = DRIVER.endswith("-pure")
    return mysql.connector.connect(**place(host, user, password), **tls, **DATABASE["connector"], use_pure=pure)


def c_is_here() -> bool:
    """Whether MySQL's driver is there in C: it needs libraries of the host."""
    from mysql.connector import HAVE_CEXT

    return bool(HAVE_CEXT)


def number_of(error: BaseException) -> int:
    """The engine's number of an error, of whichever driver."""
    return int(getattr(error, "errno", None) or error.args[0])


def refused(attempt: Callable[[], object]) -> BaseException:
    """The error of what must fail."""
    try:
        attempt()
    except Exception as error:
        return error
    raise AssertionError("it was not refused")


def of_threads(connect: Callable[..., Any]) -> None:
    """Drivers of the DB API."""
    host, authorities = DATABASE["host"], DATABASE["authorities"]
    for user, password in DATABASE["users"]:
        connection = connect(host, user, password, authorities)
        cursor = connection.cursor()
        cursor.execute(TLS)
        assert cursor.fetchone()[1] in ("TLSv1.2", "TLSv1.3")
        cursor.execute(MADE)
        cursor.executemany(INSERT, ROWS)
        connection.commit()
        cursor.execute(f"DELETE FROM {TABLE}")
        connection.rollback()
        cursor.execute(READ)
        assert [tuple(row) for row in cursor.fetchall()] == ROWS
        assert number_of(refused(lambda cursor=cursor: cursor.execute(INSERT, ROWS[7]))) == DUPLICATE
        connection.rollback()
        if DRIVER.startswith("mysql-connector"):
            prepared = connection.cursor(prepared=True)
            for number in range(20):
                prepared.execute(f"SELECT c FROM {TABLE} WHERE a = %s", (number,))
                assert prepared.fetchall() == [(ROWS[number][2],)]
            prepared.close()
        cursor.execute(f"DROP TABLE {TABLE}")
        connection.close()
        assert number_of(refused(lambda user=user: connect(host, user, "wrong", authorities))) == REFUSED
        for elsewhere in ((DATABASE["elsewhere"], authorities), (host, DATABASE["others"])):
            error = refused(lambda u=user, p=password, e=elsewhere: connect(e[0], u, p, e[1]))
            assert "certificate" in str(error).lower(), error


async def of_tasks() -> None:
    """asyncmy."""
    import asyncmy

    async def connect(host: str, user: str, password: str, authorities: str) -> Any:
        context = ssl.create_default_context(cafile=authorities)
        return await asyncmy.connect(**place(host, user, password), ssl=context)

    async def failed(attempt: Any) -> BaseException:
        try:
            await attempt
        except Exception as error:
            return error
        raise AssertionError("it was not refused")

    host, authorities = DATABASE["host"], DATABASE["authorities"]
    for user, password in DATABASE["users"]:
        connection = await connect(host, user, password, authorities)
        async with connection.cursor() as cursor:
            await cursor.execute(TLS)
            assert (await cursor.fetchone())[1] in ("TLSv1.2", "TLSv1.3")
            await cursor.execute(MADE)
            await cursor.executemany(INSERT, ROWS)
            await connection.commit()
            await cursor.execute(f"DELETE FROM {TABLE}")
            await connection.rollback()
            await cursor.execute(READ)
            assert [tuple(row) for row in await cursor.fetchall()] == ROWS
            assert number_of(await failed(cursor.execute(INSERT, ROWS[7]))) == DUPLICATE
            await connection.rollback()
            await cursor.execute(f"DROP TABLE {TABLE}")
        await connection.ensure_closed()
        assert number_of(await failed(connect(host, user, "wrong", authorities))) == REFUSED
        for address, trusted in ((DATABASE["elsewhere"], authorities), (host, DATABASE["others"])):
            error = await failed(connect(address, user, password, trusted))
            assert "certificate" in str(error).lower(), error


if DRIVER == "asyncmy":
    asyncio.run(of_tasks())
elif DRIVER == "mysql-connector" and not c_is_here():
    sys.exit(NOT_HERE)
else:
    of_threads(with_pymysql if DRIVER == "pymysql" else with_connector)
