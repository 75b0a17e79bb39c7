"""What the RDS API wants to know about MariaDB and of no other engine."""

from __future__ import annotations

from mainstay.engines.base import Feature
from mainstay.engines.mysql_family.hashes import native_password
from mainstay.engines.mysql_family.rules import FamilyRules


class MariadbRules(FamilyRules):
    """`EngineRules` for MariaDB."""

    name = "mariadb"
    description = "MariaDB"
    features = frozenset({Feature.MULTI_AZ, Feature.READ_REPLICAS})

    def password_verifier(self, username: str, password: str, salt: bytes) -> str:
        """What mysql_native_password stores."""
        return native_password(password)
