"""Operating a MySQL node on this host: what MariaDB does in another way. See `EngineDriver`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mainstay.engines.mysql import accounts, configuration, procedures, replication, template
from mainstay.engines.mysql.asking import OPTION_NAMES
from mainstay.engines.mysql.backups import MysqlBackups
from mainstay.engines.mysql.bootstrap import lock_of, server, startup_script
from mainstay.engines.mysql.followers import FOLLOWERS
from mainstay.engines.mysql.variables import Variables
from mainstay.engines.mysql.words import MYSQL_WORDS
from mainstay.engines.mysql_family.driver import FamilyDriver
from mainstay.engines.mysql_family.local_sessions import SOCKET
from mainstay.engines.mysql_family.sessions import Session
from mainstay.engines.mysql_family.variables import Variable
from mainstay.engines.node_files import NodeFiles
from mainstay.host.processes import User
from mainstay.model.assignment import Assignment, Upstream
from mainstay.model.engine import EngineBuild
from mainstay.model.node import NodeSpec

ROLE_EXISTS = "SELECT 1 FROM mysql.user WHERE User = 'rds_superuser_role' AND Host = '%'"


class MysqlDriver(FamilyDriver):
    """`EngineDriver` for MySQL."""

    name = "mysql"
    backups = MysqlBackups()
    words = MYSQL_WORDS
    followers = FOLLOWERS
    ours = configuration.OURS
    option_group = "mysqld"
    option_names = OPTION_NAMES
    renew_certificate = "ALTER INSTANCE RELOAD TLS"
    # Its shutdown gives sessions two seconds and followers eight more, whether they need them or not.
    switch_patience_s = 0.2

    def __init__(self) -> None:
        self._variables = Variables(self.ours)

    def server(self, build: EngineBuild) -> str:
        return server(build)

    async def make_data(self, build: EngineBuild, data: Path, user: User) -> None:
        await template.make(build, data, user)

    def has_data(self, files: NodeFiles) -> bool:
        return (files.data / "mysql.ibd").exists()

    def own_options(
        self, spec: NodeSpec, assignment: Assignment, files: NodeFiles, build: EngineBuild
    ) -> dict[str, str]:
        return configuration.own_options(spec, assignment, files, build)

    def startup_script(self, operators: tuple[str, ...]) -> str:
        return startup_script(operators)

    def left_by_the_killed(self, files: NodeFiles) -> tuple[Path, ...]:
        return (lock_of(files.sockets / SOCKET),)

    async def clone(self, spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User, upstream: Upstream) -> None:
        await replication.clone(spec, files, build, user, upstream)

    async def variables(self, connection: Session, version: str, wanted: Mapping[str, str]) -> dict[str, Variable]:
        return await self._variables.of(connection, version, wanted)

    async def account_statements(self, connection: Session, spec: NodeSpec) -> list[str]:
        known = {str(row[0]).upper() for row in await connection.execute(accounts.KNOWN_PRIVILEGES)}
        has: frozenset[str] = frozenset()
        if await connection.execute(ROLE_EXISTS):
            grants = await connection.execute(f"SHOW GRANTS FOR {accounts.ROLE}")
            has = frozenset(str(row[0]) for row in grants)
        present = {str(name): str(comment) for name, comment in await connection.execute(procedures.PRESENT)}
        return [
            *accounts.role_statements(frozenset(known), has),
            *accounts.statements(spec),
            *procedures.procedures(present),
        ]
