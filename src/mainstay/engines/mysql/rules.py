"""What the RDS API wants to know about MySQL and of no other engine."""

from __future__ import annotations

import re

from mainstay.engines.base import Feature
from mainstay.engines.mysql_family.hashes import caching_sha2_password
from mainstay.engines.mysql_family.rules import FamilyRules
from mainstay.model.errors import invalid_value

BINLOG_POSITION = re.compile(r"(?P<file>[0-9]{1,9}):(?P<offset>[0-9]{1,15})")
GTID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}:[0-9]{1,19}")


class MysqlRules(FamilyRules):
    """`EngineRules` for MySQL."""

    name = "mysql"
    description = "MySQL Community Edition"
    features = frozenset({Feature.IAM_LOGIN, Feature.MULTI_AZ, Feature.READ_REPLICAS})

    def password_verifier(self, username: str, password: str, salt: bytes) -> str:
        """What caching_sha2_password stores."""
        return caching_sha2_password(password, salt)

    def log_position(self, text: str) -> int:
        """ "17:4711": 4711 bytes into the binary log 17."""
        found = BINLOG_POSITION.fullmatch(text)
        if found is None:
            raise invalid_value(f"Invalid binary log position {text[:40]}: write it like 17:4711.")
        return int(found["file"]) << 50 | int(found["offset"])

    def check_transaction(self, text: str) -> None:
        """A GTID."""
        if not GTID.fullmatch(text):
            raise invalid_value(f"Invalid transaction {text[:40]}: write its GTID, a UUID, a colon and a number.")
