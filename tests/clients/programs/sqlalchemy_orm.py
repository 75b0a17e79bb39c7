"""What users of SQLAlchemy do, from more threads than the proxy has connections. Argument: psycopg or asyncpg.

Reached by libpq's variables PGHOST, PGPORT, PGUSER, PGPASSWORD, PGSSLROOTCERT. Fails by its exit status.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlalchemy import JSON, ForeignKey, create_engine, func, inspect, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload

CLIENTS, ROUNDS = 16, 4


class Base(DeclarativeBase):
    """Of all tables."""


class Customer(Base):
    """Has orders."""

    __tablename__ = "customer"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    about: Mapped[dict[str, Any]] = mapped_column(JSON)
    orders: Mapped[list[Order]] = relationship(back_populates="customer")


class Order(Base):
    """Of one customer."""

    __tablename__ = "customer_order"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customer.id"))
    amount: Mapped[int]
    customer: Mapped[Customer] = relationship(back_populates="orders")


def url(driver: str) -> str:
    """The proxy's address for a driver."""
    return f"postgresql+{driver}://{os.environ['PGUSER']}:{os.environ['PGPASSWORD']}@{os.environ['PGHOST']}:{os.environ['PGPORT']}/postgres"


def made(number: int, turn: int) -> Customer:
    """A customer with two orders."""
    orders = [Order(amount=turn), Order(amount=number)]
    return Customer(name=f"c{number}-{turn}", about={"turn": turn, "word": "zwölf"}, orders=orders)


def of_threads() -> None:
    """The synchronous ORM with psycopg."""
    engine = create_engine(
        url("psycopg"),
        pool_size=CLIENTS,
        pool_pre_ping=True,
        connect_args={"sslmode": "verify-full", "sslrootcert": os.environ["PGSSLROOTCERT"]},
    )
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with ThreadPoolExecutor(CLIENTS) as threads:
        list(threads.map(lambda number: one_thread(engine, number), range(CLIENTS)))
    with engine.connect().execution_options(isolation_level="SERIALIZABLE") as connection:
        assert connection.scalar(text("SHOW transaction_isolation")) == "serializable"
    with engine.connect() as connection:
        assert connection.scalar(text("SHOW transaction_isolation")) == "read committed"
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM customer"))
    assert {"customer", "customer_order"} <= set(inspect(engine).get_table_names())
    engine.dispose()


def one_thread(engine: Any, number: int) -> None:
    """Commits, rollbacks, savepoints, a failing flush, eager loading, a stream by a server-side cursor."""
    for turn in range(ROUNDS):
        with Session(engine) as session, session.begin():
            session.add(made(number, turn))
        with Session(engine) as session:
            session.add(made(number, turn))
            try:
                session.commit()
                raise AssertionError("a name twice")
            except IntegrityError:
                session.rollback()
            session.add(made(number, turn + 1000))
            with session.begin_nested() as savepoint:
                session.add(made(number, turn + 2000))
                session.flush()
                savepoint.rollback()
            session.rollback()
        with Session(engine) as session:
            wanted = select(Customer).where(Customer.name == f"c{number}-{turn}").options(selectinload(Customer.orders))
            found = session.scalars(wanted).one()
            assert [one.amount for one in found.orders] == [turn, number] and found.about["word"] == "zwölf"
            rows = session.execute(text("SELECT generate_series(1, 2500)").execution_options(stream_results=True))
            assert sum(len(part) for part in rows.partitions(1000)) == 2500
    with Session(engine) as session:
        mine = select(func.count()).select_from(Customer).where(Customer.name.startswith(f"c{number}-"))
        assert session.scalar(mine) == ROUNDS


async def of_tasks() -> None:
    """The asynchronous ORM with asyncpg, whose statements are prepared and cached."""
    context = ssl.create_default_context(cafile=os.environ["PGSSLROOTCERT"])
    engine = create_async_engine(
        url("asyncpg"), pool_size=CLIENTS, pool_pre_ping=True, connect_args={"ssl": context, "timeout": 60}
    )
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
        await connection.run_sync(Base.metadata.create_all)
    sessions = async_sessionmaker(engine)
    await asyncio.gather(*(one_task(sessions, number) for number in range(CLIENTS)))
    async with engine.connect() as connection:
        serializable = await connection.execution_options(isolation_level="SERIALIZABLE")
        assert await serializable.scalar(text("SHOW transaction_isolation")) == "serializable"
    async with engine.begin() as connection:
        # Every other session has prepared statements on this table.
        await connection.execute(text("ALTER TABLE customer ALTER COLUMN name TYPE varchar(100)"))
    await engine.dispose()


async def one_task(sessions: async_sessionmaker[AsyncSession], number: int) -> None:
    """Commits, rollbacks, savepoints, a failing flush, a stream."""
    for turn in range(ROUNDS):
        async with sessions() as session, session.begin():
            session.add(made(number, turn))
        async with sessions() as session:
            session.add(made(number, turn))
            try:
                await session.commit()
                raise AssertionError("a name twice")
            except IntegrityError:
                await session.rollback()
            async with session.begin_nested() as savepoint:
                session.add(made(number, turn + 2000))
                await session.flush()
                await savepoint.rollback()
            stream = await session.stream(text("SELECT generate_series(1, 500)"))
            assert len([row async for row in stream]) == 500
            await session.rollback()
    async with sessions() as session:
        mine = select(Customer).where(Customer.name.startswith(f"c{number}-")).options(selectinload(Customer.orders))
        found = (await session.scalars(mine)).all()
        assert len(found) == ROUNDS and all(one.about["word"] == "zwölf" for one in found)


if sys.argv[1] == "asyncpg":
    asyncio.run(of_tasks())
else:
    of_threads()
