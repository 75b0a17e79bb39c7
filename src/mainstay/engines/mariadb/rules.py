"""What the RDS API wants to know about MariaDB and of no other engine."""

from __future__ import annotations

from collections.abc import Mapping

from mainstay.engines.base import Feature
from mainstay.engines.mariadb import audit
from mainstay.engines.mariadb.binlog import parse_gtid
from mainstay.engines.mysql_family.hashes import native_password
from mainstay.engines.mysql_family.rules import FamilyRules
from mainstay.model.errors import Permanent, invalid_value
from mainstay.model.option_group import EngineOption


class MariadbRules(FamilyRules):
    """`EngineRules` for MariaDB."""

    name = "mariadb"
    description = "MariaDB"
    features = frozenset({Feature.BACKUPS, Feature.IAM_LOGIN, Feature.MULTI_AZ, Feature.READ_REPLICAS})

    def password_verifier(self, username: str, password: str, salt: bytes) -> str:
        """What mysql_native_password stores."""
        return native_password(password)

    def check_transaction(self, text: str) -> None:
        """A GTID."""
        try:
            parse_gtid(text)
        except Permanent as error:
            raise invalid_value(f"Invalid transaction {text[:40]}: write its GTID, like 0-101-4711.") from error

    def options(self) -> tuple[EngineOption, ...]:
        return (audit.OPTION,)

    def option_settings(self, options: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
        return audit.parameters(options[audit.NAME]) if audit.NAME in options else {}
