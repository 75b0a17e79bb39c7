"""Accounts whose sum never changes, and clients that move money between them: a torn restore shows another sum."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import psycopg

ACCOUNTS = 10
START = 1000
TOTAL = ACCOUNTS * START
TABLE = f"CREATE TABLE bank AS SELECT g AS account, {START} AS balance FROM generate_series(1, {ACCOUNTS}) g"
MOVE = "UPDATE bank SET balance = balance + %s WHERE account = %s"
SUM = "SELECT count(*), sum(balance) FROM bank"
JOIN_TIMEOUT_S = 30.0


class Bank:
    """Moves money in transactions of two updates for the length of the block; reconnects when it must."""

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]], *, clients: int = 2, seed: int = 0) -> None:
        self._connect = connect
        self._ended = threading.Event()
        self._chance = random.Random(seed)
        self._threads = [threading.Thread(target=self._move, daemon=True) for _ in range(clients)]
        self.moved = 0

    def __enter__(self) -> Bank:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(JOIN_TIMEOUT_S)
        assert kind is not None or not any(thread.is_alive() for thread in self._threads), "clients hang"

    def _move(self) -> None:
        while not self._ended.is_set():
            try:
                with self._connect() as session:
                    while not self._ended.wait(0.005):
                        accounts = sorted(self._chance.sample(range(1, ACCOUNTS + 1), 2))  # one order: no deadlocks
                        amount = self._chance.randint(-50, 50)
                        with session.transaction():
                            session.execute(MOVE, (amount, accounts[0]))
                            session.execute(MOVE, (-amount, accounts[1]))
                        self.moved += 1
            except psycopg.Error:
                self._ended.wait(0.05)


def is_balanced(session: psycopg.Connection[Any]) -> bool:
    """Whether every account is there and none of the money is lost or made."""
    return session.execute(SUM).fetchone() == (ACCOUNTS, TOTAL)
