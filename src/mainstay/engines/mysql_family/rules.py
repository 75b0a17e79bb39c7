"""What the RDS API wants to know about MariaDB and MySQL alike.

Sources: RDS user guide, "Settings for DB instances", "MariaDB on Amazon RDS", "MySQL on Amazon RDS".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mainstay.engines.base import Feature, ReadReplicaLimits
from mainstay.engines.mysql_family import names
from mainstay.engines.mysql_family.iam_logins import has_plugin
from mainstay.engines.mysql_family.log_places import parse_place
from mainstay.model.engine import EngineBuild, ParameterDefinition
from mainstay.model.errors import Permanent, invalid_value
from mainstay.model.option_group import EngineOption

LOG_RETENTION_MINUTES = 3 * 24 * 60
"""RDS keeps these engines' log files for a few days at most; there is no parameter for it."""

TRUE = frozenset({"1", "on", "true", "yes"})


class FamilyRules:
    """The part of `EngineRules` that does not depend on which of the two it is.

    `definitions` is given the build's catalogue reader at start-up.
    """

    name = ""
    default_port = 3306
    license_model = "general-public-license"
    log_types = ("audit", "error", "general", "slowquery")

    def __init__(self, definitions: Callable[[EngineBuild], dict[str, ParameterDefinition]]) -> None:
        self._definitions = definitions

    def lacks(self, build: EngineBuild) -> frozenset[Feature]:
        return frozenset() if has_plugin(build) else frozenset({Feature.IAM_LOGIN})

    @staticmethod
    def major_of(version: str) -> str:
        return ".".join(version.split(".")[:2])

    def family(self, major: str) -> str:
        return f"{self.name}{major}"

    def default_parameter_group(self, family: str) -> str:
        return f"default.{family}"

    def default_option_group(self, major: str) -> str:
        return f"default:{self.name}-{major.replace('.', '-')}"

    def check_master_username(self, name: str) -> None:
        names.check_username(name)

    def check_master_password(self, password: str) -> None:
        names.check_password(password)

    def check_database_name(self, name: str) -> None:
        names.check_database(name)

    def default_database(self) -> str | None:
        return None

    def require_tls(self, parameters: dict[str, str]) -> bool:
        return parameters.get("require_secure_transport", "0").lower() in TRUE

    def refuses_old_passwords(self, parameters: dict[str, str]) -> bool:
        return False

    def log_retention_minutes(self, parameters: dict[str, str]) -> int:
        return LOG_RETENTION_MINUTES

    def log_position(self, text: str) -> int:
        """ "2/17:4711": 4711 bytes into the binary log 17 of timeline 2."""
        try:
            place = parse_place(text)
        except Permanent as error:
            raise invalid_value(f"Invalid binary log position {text[:40]}: write it like 1/17:4711.") from error
        return (place.timeline << 28 | place.file) << 50 | place.offset

    def read_replica_limits(self, version: str) -> ReadReplicaLimits:
        """RDS user guide, "Working with DB instance read replicas"."""
        return ReadReplicaLimits(per_source=15, per_replica=15, levels=3)

    def definitions(self, build: EngineBuild) -> dict[str, ParameterDefinition]:
        return self._definitions(build)

    def engine_settings(self, parameters: dict[str, str]) -> dict[str, str]:
        """Every parameter is the engine's own."""
        return dict(parameters)

    def options(self) -> tuple[EngineOption, ...]:
        return ()

    def option_settings(self, options: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
        return {}
