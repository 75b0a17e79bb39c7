"""Changing passwords of MariaDB users, by what mysql_native_password stores."""

from __future__ import annotations

from mainstay.engines.mysql_family.logins import FamilyLogins
from mainstay.engines.mysql_family.quoting import literal
from mainstay.model.secret import Secret


class MariadbLogins(FamilyLogins):
    """`EngineLogins` for MariaDB."""

    def own_change(self, password: Secret, verifier: str) -> str:
        return f"SET PASSWORD = {literal(verifier)}"

    def change(self, quoted_account: str, verifier: str) -> str:
        return f"SET PASSWORD FOR {quoted_account} = {literal(verifier)}"
