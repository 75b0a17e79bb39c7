"""Where engines ask whether a token is a right to log in."""

from __future__ import annotations

from typing import ClassVar

from mainstay.model.records import GLOBAL_REGION, Record, Scope


class LoginListener(Record, frozen=True, kw_only=True):
    """The TCP port, on 127.0.0.1, of the service's listener for database logins. It stands in engines' configuration,
    so it stays the same from one start to the next."""

    KIND: ClassVar[str] = "login-listener"

    port: int

    def key(self) -> str:
        return "current"

    @staticmethod
    def scope_of(account_id: str) -> Scope:
        """Where the one record of the service is kept."""
        return Scope(account_id, GLOBAL_REGION)
