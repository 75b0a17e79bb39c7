"""What the RDS API wants to know about MySQL and of no other engine."""

from __future__ import annotations

from mainstay.engines.base import Feature
from mainstay.engines.mysql.binlog import parse_gtid
from mainstay.engines.mysql_family.hashes import caching_sha2_password
from mainstay.engines.mysql_family.rules import FamilyRules
from mainstay.model.errors import Permanent, invalid_value


class MysqlRules(FamilyRules):
    """`EngineRules` for MySQL."""

    name = "mysql"
    description = "MySQL Community Edition"
    features = frozenset({Feature.BACKUPS, Feature.IAM_LOGIN, Feature.MULTI_AZ, Feature.READ_REPLICAS})

    def password_verifier(self, username: str, password: str, salt: bytes) -> str:
        """What caching_sha2_password stores."""
        return caching_sha2_password(password, salt)

    def check_transaction(self, text: str) -> None:
        """A GTID."""
        try:
            parse_gtid(text)
        except Permanent as error:
            raise invalid_value(
                f"Invalid transaction {text[:40]}: write its GTID, a UUID, a colon and a number."
            ) from error
