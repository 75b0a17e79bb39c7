"""Operating a MariaDB node on this host: what MySQL does in another way. See `EngineDriver`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mainstay.engines.mariadb import accounts, audit, configuration, obstacles, own_accounts, replication
from mainstay.engines.mariadb.backups import MariadbBackups
from mainstay.engines.mariadb.bootstrap import (
    bootstrap_command,
    bootstrap_script,
    place_of_data,
    server,
    startup_script,
)
from mainstay.engines.mariadb.catalogue import OPTION_NAMES
from mainstay.engines.mariadb.followers import FOLLOWERS
from mainstay.engines.mariadb.procedures import procedures
from mainstay.engines.mariadb.words import MARIADB_WORDS
from mainstay.engines.mysql_family import heartbeat
from mainstay.engines.mysql_family.driver import FamilyDriver
from mainstay.engines.mysql_family.layout import LOG_DIRECTORIES
from mainstay.engines.mysql_family.sessions import Session
from mainstay.engines.mysql_family.variables import Variable
from mainstay.engines.node_files import NodeFiles
from mainstay.host.processes import User, run
from mainstay.model.assignment import Assignment, Upstream
from mainstay.model.engine import EngineBuild
from mainstay.model.node import NodeSpec

BOOTSTRAP_TIMEOUT_S = 120.0
VARIABLES = (
    "SELECT LOWER(VARIABLE_NAME), VARIABLE_TYPE, READ_ONLY, GLOBAL_VALUE, GLOBAL_VALUE_ORIGIN, NUMERIC_MIN_VALUE,"
    " NUMERIC_MAX_VALUE, NUMERIC_BLOCK_SIZE FROM information_schema.SYSTEM_VARIABLES"
    " WHERE GLOBAL_VALUE IS NOT NULL"
)


class MariadbDriver(FamilyDriver):
    """`EngineDriver` for MariaDB."""

    name = "mariadb"
    backups = MariadbBackups()
    words = MARIADB_WORDS
    followers = FOLLOWERS
    ours = configuration.OURS
    option_group = "mariadbd"
    option_names = OPTION_NAMES
    renew_certificate = "FLUSH SSL"
    switch_patience_s = 3.0
    log_directories = (*LOG_DIRECTORIES, audit.DIRECTORY)

    def server(self, build: EngineBuild) -> str:
        return server(build)

    async def make_data(self, build: EngineBuild, data: Path, user: User) -> None:
        await run(
            [*bootstrap_command(build), *place_of_data(data)],
            user=user,
            timeout_s=BOOTSTRAP_TIMEOUT_S,
            env={"TZ": "UTC", **build.environment},
            stdin=bootstrap_script(build),
        )

    def has_data(self, files: NodeFiles) -> bool:
        return (files.data / "mysql" / "global_priv.frm").exists()

    def own_options(
        self, spec: NodeSpec, assignment: Assignment, files: NodeFiles, build: EngineBuild
    ) -> dict[str, str]:
        return configuration.own_options(spec, assignment, files, build)

    def startup_script(self, operators: tuple[str, ...]) -> str:
        return startup_script(operators)

    async def tend_accounts(self, connection: Session, operators: tuple[str, ...]) -> None:
        await own_accounts.mend(connection, operators)
        await heartbeat.mend(connection)

    async def make_way(self, connection: Session, operators: tuple[str, ...], error: str) -> None:
        await obstacles.make_way(connection, operators, error)

    async def clone(self, spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User, upstream: Upstream) -> None:
        await replication.clone(files, build, user, upstream)

    async def load_plugins(self, connection: Session, wanted: Mapping[str, str]) -> None:
        if audit.is_wanted(wanted):
            await audit.load(connection)

    async def variables(self, connection: Session, version: str, wanted: Mapping[str, str]) -> dict[str, Variable]:
        rows = await connection.execute(VARIABLES)
        texts = [[None if column is None else str(column) for column in row] for row in rows]
        return {str(text[0]): Variable(*text) for text in texts}  # type: ignore[arg-type]  # the columns of VARIABLES

    async def account_statements(self, connection: Session, spec: NodeSpec) -> list[str]:
        known = {str(row[0]).upper() for row in await connection.execute(accounts.KNOWN_PRIVILEGES)}
        return [*accounts.statements(spec, frozenset(known)), *procedures()]
