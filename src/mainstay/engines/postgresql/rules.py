"""What the RDS API wants to know about PostgreSQL.

Sources: RDS user guide, "Settings for DB instances"; RFC 5802 and 7677 (SCRAM).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping

from mainstay.engines.base import EVERY_FEATURE, Feature, ReadReplicaLimits
from mainstay.engines.password_rules import check_master_password
from mainstay.engines.postgresql.wal import parse_lsn
from mainstay.model.engine import EngineBuild, ParameterDefinition
from mainstay.model.errors import invalid_value
from mainstay.model.option_group import EngineOption

SCRAM_ITERATIONS = 4096
PASSWORD_LENGTH = (8, 128)
RESERVED_USERS = frozenset(
    "rdsadmin rds_superuser rds_password rds_replication rds_iam public none user current_user session_user"
    " current_role".split()
)
RESERVED_DATABASES = frozenset({"template0", "template1", "rdsadmin"})
LOG_RETENTION_MINUTES = 4320
USERNAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
LSN = re.compile(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}")
DATABASE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
TRUE = frozenset({"1", "on", "true", "yes"})


class PostgresqlRules:
    """`EngineRules` for PostgreSQL. `definitions` is given the build's catalogue reader at start-up."""

    name = "postgres"
    default_port = 5432
    license_model = "postgresql-license"
    description = "PostgreSQL"
    log_types = ("postgresql", "upgrade")
    features = EVERY_FEATURE

    def __init__(self, definitions: Callable[[EngineBuild], dict[str, ParameterDefinition]]) -> None:
        self._definitions = definitions

    def lacks(self, build: EngineBuild) -> frozenset[Feature]:
        return frozenset()

    @staticmethod
    def major_of(version: str) -> str:
        return version.split(".")[0]

    def family(self, major: str) -> str:
        return f"postgres{major}"

    def default_parameter_group(self, family: str) -> str:
        return f"default.{family}"

    def default_option_group(self, major: str) -> str:
        return f"default:postgres-{major}"

    def check_master_username(self, name: str) -> None:
        if not USERNAME.fullmatch(name):
            raise invalid_value(
                f"The parameter MasterUsername is not a valid identifier. {name!r} must begin with a letter, contain"
                " only letters, digits and underscores, and have 1 to 63 characters."
            )
        if name.lower() in RESERVED_USERS or name.lower().startswith("pg_"):
            raise invalid_value(f"MasterUsername {name} cannot be used as it is a reserved word used by the engine")

    def check_master_password(self, password: str) -> None:
        check_master_password(password, *PASSWORD_LENGTH)

    def check_database_name(self, name: str) -> None:
        if not DATABASE.fullmatch(name):
            raise invalid_value(
                f"DBName {name!r} must begin with a letter or underscore, contain only letters, digits and underscores,"
                " and have 1 to 63 characters."
            )
        if name.lower() in RESERVED_DATABASES or name.lower().startswith("pg_"):
            raise invalid_value(f"Database name {name} cannot be used as it is a reserved word used by the engine")

    def default_database(self) -> str | None:
        return None

    def password_verifier(self, username: str, password: str, salt: bytes) -> str:
        """The SCRAM-SHA-256 verifier as PostgreSQL stores it (manual 53.8 pg_authid, RFC 5802 section 3).

        Passwords are printable ASCII (checked above), for which SASLprep changes nothing.
        """
        salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, SCRAM_ITERATIONS)
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        stored_key = hashlib.sha256(client_key).digest()
        server_key = hmac.digest(salted, b"Server Key", "sha256")
        encoded = [base64.b64encode(part).decode() for part in (salt, stored_key, server_key)]
        return f"SCRAM-SHA-256${SCRAM_ITERATIONS}:{encoded[0]}${encoded[1]}:{encoded[2]}"

    def require_tls(self, parameters: dict[str, str]) -> bool:
        return parameters.get("rds.force_ssl", "0") in TRUE

    def refuses_old_passwords(self, parameters: dict[str, str]) -> bool:
        """RDS user guide, "Using SCRAM for PostgreSQL password encryption": MD5 is accepted unless "scram" is set."""
        return parameters.get("rds.accepted_password_auth_method", "") == "scram"

    def log_retention_minutes(self, parameters: dict[str, str]) -> int:
        return int(parameters.get("rds.log_retention_period", LOG_RETENTION_MINUTES))

    def log_position(self, text: str) -> int:
        if not LSN.fullmatch(text):
            raise invalid_value(f"Invalid log sequence number {text[:40]}: write it like 16/B374D848.")
        return parse_lsn(text)

    def read_replica_limits(self, version: str) -> ReadReplicaLimits:
        """RDS user guide, "Working with read replicas for Amazon RDS for PostgreSQL": cascades from 14.1 on."""
        cascades = tuple(int(part) for part in version.split(".")[:2]) >= (14, 1)
        return ReadReplicaLimits(per_source=15, per_replica=5 if cascades else 0, levels=3 if cascades else 1)

    def check_transaction(self, text: str) -> None:
        """A transaction id, as `pg_current_xact_id` gives it."""
        if not (text.isascii() and text.isdigit() and 3 <= int(text) < 1 << 32):
            raise invalid_value(f"Invalid transaction id {text[:40]}: it must be a number from 3 to 4294967295.")

    def definitions(self, build: EngineBuild) -> dict[str, ParameterDefinition]:
        return self._definitions(build)

    def engine_settings(self, parameters: dict[str, str]) -> dict[str, str]:
        """rds.logical_replication = 1 is wal_level = logical; the other rds.* settings act outside the engine."""
        settings = {name: value for name, value in parameters.items() if not name.startswith("rds.")}
        if parameters.get("rds.logical_replication", "0") in TRUE:
            settings["wal_level"] = "logical"
        return settings

    def options(self) -> tuple[EngineOption, ...]:
        return ()

    def option_settings(self, options: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
        return {}
