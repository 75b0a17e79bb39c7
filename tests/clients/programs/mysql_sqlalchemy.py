"""What users of SQLAlchemy do with MariaDB and MySQL, over TLS that verifies who the server is.

Argument: the driver below it. DATABASE is as in mysql_drivers.py. Fails by its exit status.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
from typing import Any

from sqlalchemy import JSON, URL, String, create_engine, func, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

DATABASE = json.loads(os.environ["DATABASE"])
DRIVER = sys.argv[1]
NAMES = {"pymysql": "pymysql", "mysql-connector": "mysqlconnector", "asyncmy": "asyncmy"}
TIMES = 2
"""The second time on a connection that was used."""


class Base(DeclarativeBase):
    """Of all tables."""


class Customer(Base):
    """A row."""

    __tablename__ = "customer_of_" + NAMES[DRIVER]
    __table_args__ = {"mysql_charset": "utf8mb4"}  # MariaDB 10.11 begins with latin1
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    about: Mapped[dict[str, Any]] = mapped_column(JSON)


def work(session: Session) -> None:
    """Commits, a failing flush, a savepoint, values that are read as they were written."""
    Base.metadata.create_all(session.connection())
    session.add_all(Customer(name=f"zwölf 😀 {number}", about={"number": number}) for number in range(50))
    session.commit()
    session.add(Customer(name="zwölf 😀 7", about={}))
    try:
        session.flush()
        raise AssertionError("a name twice")
    except IntegrityError:
        session.rollback()
    with session.begin_nested() as savepoint:
        session.add(Customer(name="of a savepoint", about={}))
        session.flush()
        savepoint.rollback()
    assert session.scalar(select(func.count()).select_from(Customer)) == 50
    found = session.scalars(select(Customer).where(Customer.name == "zwölf 😀 7")).one()
    assert found.about == {"number": 7}
    tls = session.execute(text("SHOW SESSION STATUS LIKE 'Ssl_version'")).one()
    assert tls[1] in ("TLSv1.2", "TLSv1.3")
    session.commit()
    Base.metadata.drop_all(session.connection())
    session.commit()


async def in_task(url: URL, arguments: dict[str, Any]) -> None:
    """With a driver of asyncio."""
    engine = create_async_engine(url, pool_pre_ping=True, connect_args=arguments)
    for _time in range(TIMES):
        async with AsyncSession(engine) as session:
            await session.run_sync(work)
    await engine.dispose()


def in_thread(url: URL, arguments: dict[str, Any]) -> None:
    """With a driver of the DB API."""
    engine = create_engine(url, pool_pre_ping=True, connect_args=arguments)
    for _time in range(TIMES):
        with Session(engine) as session:
            work(session)
    engine.dispose()


for user, password in DATABASE["users"]:
    address = URL.create(
        f"mysql+{NAMES[DRIVER]}", user, password, DATABASE["host"], DATABASE["port"], DATABASE["database"]
    )
    verified = {"ssl_ca": DATABASE["authorities"], "ssl_verify_cert": True, "ssl_verify_identity": True}
    if DRIVER == "asyncmy":
        asyncio.run(in_task(address, {"ssl": ssl.create_default_context(cafile=DATABASE["authorities"])}))
    else:
        in_thread(address, verified | (DATABASE["connector"] if DRIVER == "mysql-connector" else {}))
