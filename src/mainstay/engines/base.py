"""What an engine is to the rest of the program. Adding one is adding a folder that passes tests/engine/conformance.

Two sides: `EngineRules` is asked by the API (names, passwords, parameters); `EngineDriver` is asked by the agent, on
the host where the data is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec

from mainstay.host.processes import User
from mainstay.model.engine import EngineBuild, ParameterDefinition
from mainstay.model.node import NodeSpec


class NodeFiles(msgspec.Struct, frozen=True):
    """Where one node keeps its things. `root` is the agent's, the volume, the logs and the socket are the engine's."""

    root: Path
    sockets: Path

    @property
    def volume(self) -> Path:
        """The mount point or directory that is the node's volume."""
        return self.root / "volume"

    @property
    def data(self) -> Path:
        """The engine's data directory, on the volume."""
        return self.volume / "data"

    @property
    def configuration(self) -> Path:
        """Configuration files, written by the agent, read by the engine."""
        return self.root / "conf"

    @property
    def logs(self) -> Path:
        """What DescribeDBLogFiles lists."""
        return self.root / "log"

    @property
    def output(self) -> Path:
        """Standard output and error of the engine process: what it says before its own log is open."""
        return self.root / "startup.log"


class StartCommand(msgspec.Struct, frozen=True, kw_only=True):
    """How to start the engine in the foreground."""

    argv: tuple[str, ...]
    env: dict[str, str] = {}


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What a probe found. `starting` distinguishes "recovering, wait" from "not answering"."""

    ready: bool
    starting: bool = False
    pending_restart: tuple[str, ...] = ()
    message: str = ""


class EngineDriver(Protocol):
    """Operates one engine's nodes on this host. Every method may be repeated after a crash in the middle of it."""

    @property
    def name(self) -> str:
        """The engine's name in the API."""

    @property
    def stop_signals(self) -> tuple[tuple[int, float], ...]:
        """Signals that stop the process, each with the seconds to wait before the next, gentlest first."""

    def configuration(self, spec: NodeSpec, files: NodeFiles, build: EngineBuild) -> dict[str, str]:
        """File name -> content of every configuration file, for this spec. Pure."""

    async def initialise(self, spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User) -> None:
        """Makes `files.data` from nothing; afterwards `initialised` is true, before it is false, never in between."""

    def initialised(self, files: NodeFiles) -> bool:
        """Whether the data directory is complete."""

    def start_command(self, spec: NodeSpec, files: NodeFiles, build: EngineBuild) -> StartCommand:
        """The command of the engine process."""

    async def probe(self, spec: NodeSpec, files: NodeFiles) -> Health:
        """Asks the engine itself, within a second."""

    async def reload(self, spec: NodeSpec, files: NodeFiles) -> Health:
        """Makes the running engine read its configuration files again; returns when they are in effect."""

    async def apply_accounts(self, spec: NodeSpec, files: NodeFiles) -> None:
        """Makes system roles, the master user and the first database as the spec wants."""


class EngineRules(Protocol):
    """What the API asks about an engine, without touching a host."""

    @property
    def name(self) -> str:
        """The engine's name in the API."""

    @property
    def default_port(self) -> int:
        """Port of an instance that asks for none."""

    @property
    def license_model(self) -> str:
        """LicenseModel of every instance."""

    @property
    def description(self) -> str:
        """DBEngineDescription."""

    @property
    def log_types(self) -> tuple[str, ...]:
        """ExportableLogTypes."""

    def family(self, major: str) -> str:
        """DB parameter group family of a major version, "postgres17"."""

    def default_parameter_group(self, family: str) -> str:
        """ "default.postgres17"."""

    def default_option_group(self, major: str) -> str:
        """ "default:postgres-17"."""

    def check_master_username(self, name: str) -> None:
        """Raises `ApiError` InvalidParameterValue unless RDS would take the name."""

    def check_master_password(self, password: str) -> None:
        """Raises `ApiError` InvalidParameterValue unless RDS would take the password."""

    def check_database_name(self, name: str) -> None:
        """Raises `ApiError` InvalidParameterValue unless RDS would take the name."""

    def default_database(self) -> str | None:
        """DBName of an instance created without one."""

    def password_verifier(self, username: str, password: str, salt: bytes) -> str:
        """What the engine stores for this password: a verifier from which the password cannot be read."""

    def require_tls(self, parameters: dict[str, str]) -> bool:
        """Whether these final parameters forbid plain-text connections."""

    def log_retention_minutes(self, parameters: dict[str, str]) -> int:
        """How long log files are kept, by these final parameters."""

    def definitions(self, build: EngineBuild) -> dict[str, ParameterDefinition]:
        """Every parameter of the build, by name."""

    def engine_settings(self, parameters: dict[str, str]) -> dict[str, str]:
        """The parameters that are the engine's own settings, RDS's own ("rds.*") translated or removed."""
