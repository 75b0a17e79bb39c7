"""Changing passwords of MySQL users."""

from __future__ import annotations

from mainstay.engines.mysql_family.logins import FamilyLogins
from mainstay.engines.mysql_family.quoting import literal
from mainstay.model.secret import Secret


class MysqlLogins(FamilyLogins):
    """`EngineLogins` for MySQL."""

    def own_change(self, password: Secret, verifier: str) -> str:
        """In clear: whoever has no CREATE USER must name his password. It travels by TLS, and the engine's logs have
        no passwords of ALTER USER in them (MySQL manual 8.1.2.3)."""
        return f"ALTER USER USER() IDENTIFIED BY {literal(password.reveal())}"

    def change(self, quoted_account: str, verifier: str) -> str:
        return f"ALTER USER {quoted_account} IDENTIFIED WITH caching_sha2_password AS {literal(verifier)}"
