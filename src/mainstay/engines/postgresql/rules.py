"""What the RDS API wants to know about PostgreSQL.

Sources: RDS user guide, "Settings for DB instances"; RFC 5802 and 7677 (SCRAM).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable

from mainstay.model.engine import EngineBuild, ParameterDefinition
from mainstay.model.errors import invalid_value

SCRAM_ITERATIONS = 4096
PASSWORD_LENGTH = (8, 128)
PASSWORD_FORBIDDEN = frozenset("/@\" '")
RESERVED_USERS = frozenset(
    "rdsadmin rds_superuser rds_password rds_replication rds_iam public none user current_user session_user"
    " current_role".split()
)
RESERVED_DATABASES = frozenset({"template0", "template1", "rdsadmin"})
LOG_RETENTION_MINUTES = 4320
USERNAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
DATABASE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
TRUE = frozenset({"1", "on", "true", "yes"})


class PostgresqlRules:
    """`EngineRules` for PostgreSQL. `definitions` is given the build's catalogue reader at start-up."""

    name = "postgres"
    default_port = 5432
    license_model = "postgresql-license"
    description = "PostgreSQL"
    log_types = ("postgresql", "upgrade")

    def __init__(self, definitions: Callable[[EngineBuild], dict[str, ParameterDefinition]]) -> None:
        self._definitions = definitions

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
        shortest, longest = PASSWORD_LENGTH
        if len(password) < shortest:
            raise invalid_value(
                "The parameter MasterUserPassword is not a valid password because it is shorter than"
                f" {shortest} characters."
            )
        if len(password) > longest:
            raise invalid_value(
                "The parameter MasterUserPassword is not a valid password because it is longer than"
                f" {longest} characters."
            )
        if PASSWORD_FORBIDDEN & set(password) or not all(" " < character <= "~" for character in password):
            raise invalid_value(
                "The parameter MasterUserPassword is not a valid password. Only printable ASCII characters besides"
                " '/', '@', '\"', ' ' may be used."
            )

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

    def log_retention_minutes(self, parameters: dict[str, str]) -> int:
        return int(parameters.get("rds.log_retention_period", LOG_RETENTION_MINUTES))

    def definitions(self, build: EngineBuild) -> dict[str, ParameterDefinition]:
        return self._definitions(build)

    def engine_settings(self, parameters: dict[str, str]) -> dict[str, str]:
        """rds.logical_replication = 1 is wal_level = logical; the other rds.* settings act outside the engine."""
        settings = {name: value for name, value in parameters.items() if not name.startswith("rds.")}
        if parameters.get("rds.logical_replication", "0") in TRUE:
            settings["wal_level"] = "logical"
        return settings
