"""Sessions of ordinary users of a PostgreSQL instance. See `EngineLogins` for what each method guarantees."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg

from mainstay.engines.postgresql.quoting import identifier, literal
from mainstay.engines.postgresql.sessions import CONNECT_TIMEOUT_S, STATEMENT_TIMEOUT_MS, Session
from mainstay.model.errors import Permanent, Transient
from mainstay.model.login_place import LoginPlace
from mainstay.model.secret import Secret

REFUSED_CLASS = "28"
"""Class 28, invalid authorization specification (PostgreSQL manual, appendix A)."""
REFUSED_TEXTS = (
    "password authentication failed",
    "is not permitted to log in",
    "does not exist",
    "permission denied for database",
    "no pg_hba.conf entry",
)

DEFAULT_DATABASE = "postgres"
"""Every instance has it, and everybody may connect to it."""


class _Refused(Exception):
    """The engine does not let this user in."""


class PostgresqlLogins:
    """`EngineLogins` for PostgreSQL."""

    async def may_log_in(self, place: LoginPlace, user: str, password: Secret) -> bool:
        try:
            async with _session(place, user, password):
                return True
        except _Refused:
            return False

    async def set_password(
        self, place: LoginPlace, user: str, password: Secret, *, target: str, new: Secret, verifier: str
    ) -> None:
        try:
            async with _session(place, user, password) as connection:
                # A commit that every standby has: a failover must not bring the old password back.
                await connection.execute(b"SET synchronous_commit = on")
                statement = f"ALTER ROLE {identifier(target)} PASSWORD {literal(verifier)}"
                await connection.execute(statement.encode())
        except _Refused as refusal:
            raise Permanent(f"the engine does not let {user} in: {refusal}") from None
        except psycopg.OperationalError as error:
            raise Transient(f"the engine does not answer: {str(error).strip()}") from error
        except psycopg.Error as error:
            raise Permanent(
                f"the engine refuses the new password of {target}: {error.diag.message_primary or error.sqlstate}"
            ) from None


@asynccontextmanager
async def _session(place: LoginPlace, user: str, password: Secret) -> AsyncIterator[Session]:
    try:
        connection = await psycopg.AsyncConnection.connect(
            host=place.host,
            hostaddr=place.address,
            port=place.port,
            user=user,
            password=password.reveal(),
            dbname=place.database or DEFAULT_DATABASE,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            sslmode="verify-full",
            sslrootcert=str(place.authorities),
            application_name="mainstay-secrets",
            options=f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c search_path=pg_catalog,pg_temp",
        )
    except psycopg.OperationalError as error:
        text = str(error).strip()
        if (error.sqlstate or "").startswith(REFUSED_CLASS) or any(words in text for words in REFUSED_TEXTS):
            raise _Refused(text) from None
        raise Transient(f"the engine does not answer: {text}") from error
    try:
        yield connection
    finally:
        await connection.close()
