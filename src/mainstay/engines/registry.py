"""Which engines there are. A new engine is one line in each of the two functions."""

from __future__ import annotations

from mainstay.engines.base import EngineDriver, EngineRules
from mainstay.engines.builds import Builds
from mainstay.engines.mariadb.catalogue import Catalogue as MariadbCatalogue
from mainstay.engines.mariadb.driver import MariadbDriver
from mainstay.engines.mariadb.rules import MariadbRules
from mainstay.engines.mysql.catalogue import Catalogue as MysqlCatalogue
from mainstay.engines.mysql.driver import MysqlDriver
from mainstay.engines.mysql.rules import MysqlRules
from mainstay.engines.postgresql.catalogue import Catalogue as PostgresqlCatalogue
from mainstay.engines.postgresql.driver import PostgresqlDriver
from mainstay.engines.postgresql.rules import PostgresqlRules
from mainstay.model.errors import invalid_value


class Engines:
    """The engines as the API sees them: rules by name, and the builds that are installed."""

    def __init__(self, builds: Builds, rules: dict[str, EngineRules]) -> None:
        self.builds = builds
        self._rules = rules

    def rules(self, engine: str) -> EngineRules:
        """The rules of the engine. Raises `ApiError` InvalidParameterValue for one we do not know."""
        found = self._rules.get(engine)
        if found is None:
            raise invalid_value(f"Invalid DB engine: {engine}. Engines of this service: {', '.join(self.names())}.")
        return found

    def names(self) -> tuple[str, ...]:
        """Engine names as in the API, sorted."""
        return tuple(sorted(self._rules))


def engines(builds: Builds) -> Engines:
    """Every engine's rules."""
    return Engines(
        builds,
        {
            "mariadb": MariadbRules(MariadbCatalogue(builds).definitions),
            "mysql": MysqlRules(MysqlCatalogue(builds).definitions),
            "postgres": PostgresqlRules(PostgresqlCatalogue(builds).definitions),
        },
    )


def drivers() -> dict[str, EngineDriver]:
    """Every engine's driver."""
    return {"mariadb": MariadbDriver(), "mysql": MysqlDriver(), "postgres": PostgresqlDriver()}
