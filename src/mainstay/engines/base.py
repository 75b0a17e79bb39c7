"""What an engine is to the rest of the program. Adding one is adding a folder that passes tests/engine/conformance.

Two sides: `EngineRules` is asked by the API (names, passwords, parameters); `EngineDriver` is asked by the agent, on
the host where the data is.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import msgspec

from mainstay.engines.backups import EngineBackups
from mainstay.engines.dumps import EngineDumps
from mainstay.engines.node_files import NodeFiles
from mainstay.host.processes import User
from mainstay.model.assignment import Assignment, Upstream
from mainstay.model.engine import EngineBuild, ParameterDefinition
from mainstay.model.node import NodeSpec, ReplicationStatus
from mainstay.model.option_group import EngineOption


class StartCommand(msgspec.Struct, frozen=True, kw_only=True):
    """How to start the engine in the foreground. `writable`: what it writes besides the node's own files."""

    argv: tuple[str, ...]
    env: dict[str, str] = {}
    writable: tuple[Path, ...] = (Path("/dev/null"),)


class RecoveryPause(msgspec.Struct, frozen=True, kw_only=True):
    """Where a recovery waits: a position of the log, and the moment of the last commit replayed (epoch seconds)."""

    position: str
    moment: float | None = None


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What a probe found. `starting` distinguishes "recovering, wait" from "not answering"; `cold`: it follows another
    node and takes no queries, as it should; `pause`: its restore waits, and it takes queries and no writes;
    `locked_out`: it answers, but not to us, until its next start makes our accounts anew; `refused`: it answers with
    an error (`message`) that does not pass by itself, as far as the error tells; `stuck_at`: up to where it has applied
    what it receives from another node, while it cannot apply what comes next (`message`)."""

    ready: bool
    starting: bool = False
    cold: bool = False
    locked_out: bool = False
    refused: bool = False
    stuck_at: str = ""
    pause: RecoveryPause | None = None
    pending_restart: tuple[str, ...] = ()
    message: str = ""


class Vitals(msgspec.Struct, frozen=True, kw_only=True):
    """What one look at a primary and its follower found.

    `answered`: the engine said something, if only that it is starting. `storage_fault`: it cannot read or write its
    data. `no_room`: neither it nor its follower has any, so nothing can be said of the follower, and it would help
    nobody to let it lead. `heard` changes whenever the follower has reported; `behind_bytes` is what it has not on disk
    yet.
    """

    answered: bool
    starting: bool = False
    storage_fault: bool = False
    no_room: bool = False
    streaming: bool = False
    synchronous: bool = False
    heard: str = ""
    behind_bytes: int = 0
    message: str = ""


class Monitor(Protocol):
    """Watches one primary through a session of its own, opened when needed. Never raises."""

    async def look(self, follower: str, *, write: bool) -> Vitals:
        """Asks about the follower with this node id; `write` makes the primary write to its disk, for that alone."""

    async def close(self) -> None:
        """Ends the session."""


class EngineDriver(Protocol):
    """Operates one engine's nodes on this host. Every method may be repeated after a crash in the middle of it."""

    @property
    def name(self) -> str:
        """The engine's name in the API."""

    @property
    def stop_signals(self) -> tuple[tuple[int, float], ...]:
        """Signals that stop the process, each with the seconds to wait before the next, gentlest first."""

    @property
    def switch_patience_s(self) -> float:
        """How long a primary whose standby takes over, and has every acknowledged commit, is let end its work."""

    @property
    def reload_signal(self) -> int | None:
        """The signal on which a standby, which takes no sessions, reads its configuration files again.

        None: a standby takes our sessions as any other node does, and `reload` is for it as well.
        """

    @property
    def keeps_received(self) -> bool:
        """Whether what a follower has received, and not applied yet, is still there when its process is started anew.

        If not, only the process of which that was confirmed may take over with every commit.
        """

    @property
    def asks_about_logins(self) -> bool:
        """Whether its engines ask about IAM logins at `NodeFiles.login_socket`."""

    @property
    def backups(self) -> EngineBackups:
        """How its data and log get into a backup repository and out again."""

    @property
    def dumps(self) -> EngineDumps | None:
        """How a dump gets into a database of it; None: not built."""

    async def configuration(
        self, spec: NodeSpec, assignment: Assignment, files: NodeFiles, build: EngineBuild
    ) -> dict[str, str]:
        """File name -> content of every configuration file, for this spec and assignment."""

    async def initialise(self, spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User) -> None:
        """Makes `files.data` from nothing; afterwards `initialised` is true, before it is false, never in between."""

    def initialised(self, files: NodeFiles) -> bool:
        """Whether the data directory is complete."""

    def follows(self, files: NodeFiles) -> bool:
        """Whether the data directory is that of a follower: started, it would wait for another node's changes."""

    async def clone(self, spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User, upstream: Upstream) -> None:
        """Makes `files.data` a follower's copy of the upstream's data, in the place of whatever was there.

        May take hours and may be cancelled. Raises `Transient` if the upstream ends meanwhile.
        """

    async def rejoin(
        self, spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User, upstream: Upstream
    ) -> None:
        """Makes the data of a former primary, whose engine does not run, a follower's of `upstream`.

        What it wrote after their histories parted is discarded. As `clone` otherwise.
        """

    async def promote(self, spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User) -> None:
        """Tells a running follower to lead; it has done so when `follows` is false and it is ready.

        Raises `Transient` while it cannot, `Answered` if the engine refuses a step, `CannotLead` if it never can with
        all that it has acknowledged.
        """

    async def confirm_synchronous(self, spec: NodeSpec, files: NodeFiles, follower: str) -> bool:
        """Whether every commit acknowledged from now on, and every earlier one, is on the follower's disk.

        True only after it was observed that commits wait for the follower. Raises `Transient`, `Answered`.
        """

    async def settle_writes(self, spec: NodeSpec, files: NodeFiles) -> None:
        """Writes out what a shutdown would have to write, so that one soon after this is short. Raises `Transient`."""

    async def replication(self, spec: NodeSpec, files: NodeFiles) -> ReplicationStatus | None:
        """How this readable follower follows; None when it does not answer. `connecting` decides nothing."""

    def loss(self, log_text: str) -> str:
        """Why a follower that logged this can never follow its source again, "" if nothing there says so."""

    def monitor(self, spec: NodeSpec, files: NodeFiles) -> Monitor:
        """A watch over this node while it is primary."""

    def start_command(self, spec: NodeSpec, files: NodeFiles, build: EngineBuild) -> StartCommand:
        """The command of the engine process."""

    async def probe(self, spec: NodeSpec, files: NodeFiles) -> Health:
        """Asks the engine itself, within a second."""

    def last_words(self, log_text: str) -> list[str]:
        """Of what an engine wrote that did not come up: its own sentences that say why, none if there are none."""

    async def reload(self, spec: NodeSpec, files: NodeFiles) -> Health:
        """Makes the running engine read its configuration files again; returns when they are in effect.

        Raises `Refused` if it answers with an error, `Permanent` if it does not take what is in the files.
        """

    async def apply_accounts(self, spec: NodeSpec, files: NodeFiles) -> None:
        """Makes system roles, the master user and the first database as the spec wants. Raises `Refused` too."""


class ReadReplicaLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How many read replicas may follow one instance: an instance that follows nobody, and a replica.

    `per_replica` 0: a replica cannot be a source. `levels`: how many replicas a chain may have below its first source.
    """

    per_source: int
    per_replica: int
    levels: int


class Feature(StrEnum):
    """What an engine may not have (yet): the API refuses it in these words."""

    BACKUPS = "Automated backups and snapshots"
    READ_REPLICAS = "Read replicas"
    MULTI_AZ = "Multi-AZ deployments"
    IAM_LOGIN = "IAM database authentication"
    PAUSED_RESTORES = "Restores that pause for a look"
    DATA_EXCHANGE = "Restores in place and imports"
    REPLICA_LOGS = "Logs of read replicas in the backup repository"


EVERY_FEATURE = frozenset(Feature)


class EngineRules(Protocol):
    """What the API asks about an engine, without touching a host."""

    @property
    def features(self) -> frozenset[Feature]:
        """What is built for this engine."""

    def lacks(self, build: EngineBuild) -> frozenset[Feature]:
        """What of `features` this build has not, because it was made without it."""

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

    def major_of(self, version: str) -> str:
        """The major version of a version, also of one that is not installed (any more): "17" of "17.5"."""

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

    def refuses_old_passwords(self, parameters: dict[str, str]) -> bool:
        """Whether these final parameters shut out users whose password is stored in a form that is out of date."""

    def log_retention_minutes(self, parameters: dict[str, str]) -> int:
        """How long log files are kept, by these final parameters."""

    def read_replica_limits(self, version: str) -> ReadReplicaLimits:
        """Limits for a source of this version."""

    def log_position(self, text: str) -> int:
        """Orders positions of the engine's log. Raises `ApiError` InvalidParameterValue for what is none."""

    def check_transaction(self, text: str) -> None:
        """Raises `ApiError` InvalidParameterValue unless this can name a transaction in the engine's log."""

    def definitions(self, build: EngineBuild) -> dict[str, ParameterDefinition]:
        """Every parameter of the build, by name."""

    def engine_settings(self, parameters: dict[str, str]) -> dict[str, str]:
        """The parameters that are the engine's own settings, RDS's own ("rds.*") translated or removed."""

    def options(self) -> tuple[EngineOption, ...]:
        """What its option groups may have, whatever the version."""

    def option_settings(self, options: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
        """The engine's own settings that come of an option group's (`OptionGroup.options`)."""
