"""Logging in to an engine as one of its users, to check or change a password: what rotating a user's secret needs.

One implementation per engine, found by the engine's name; it refuses to know secrets and instances.
"""

from __future__ import annotations

from typing import Protocol

from mainstay.engines.mariadb.logins import MariadbLogins
from mainstay.engines.mysql.logins import MysqlLogins
from mainstay.engines.postgresql.logins import PostgresqlLogins
from mainstay.model.login_place import LoginPlace
from mainstay.model.secret import Secret


class EngineLogins(Protocol):
    """Sessions of ordinary users, over verified TLS."""

    async def may_log_in(self, place: LoginPlace, user: str, password: Secret) -> bool:
        """Whether the engine lets the user in with this password. Raises `Transient` if it does not answer."""

    async def set_password(
        self, place: LoginPlace, user: str, password: Secret, *, target: str, new: Secret, verifier: str
    ) -> None:
        """As `user`, gives `target` the password `new`, of which the engine is told the verifier where it takes one.

        Raises `Permanent` if the engine refuses the login or the change, `Transient` if it does not answer.
        """


_LOGINS: dict[str, EngineLogins] = {
    "mariadb": MariadbLogins(),
    "mysql": MysqlLogins(),
    "postgres": PostgresqlLogins(),
}


def logins(engine: str) -> EngineLogins:
    """The engine's sessions."""
    return _LOGINS[engine]
