"""Nodes: one engine process with its volume on one host. What is wanted of it, and what is seen of it.

`NodeSpec` is written by the control plane only, `NodeStatus` by the agent only; neither is ever derived from the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar

import msgspec

from mainstay.model.records import Record, Scope
from mainstay.model.repository_job import RepositoryRef
from mainstay.model.volume import VolumeSpec


class NodeTarget(StrEnum):
    """What a node should be."""

    RUNNING = "running"
    STOPPED = "stopped"
    ABSENT = "absent"


class NodePhase(StrEnum):
    """What a node is seen to be."""

    ABSENT = "absent"
    CREATING = "creating"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


class NodeRole(StrEnum):
    """What a node does for its instance. A read replica's own leading node is a `REPLICA`: readable, never writable."""

    PRIMARY = "primary"
    STANDBY = "standby"
    REPLICA = "replica"


class Peer(msgspec.Struct, frozen=True):
    """The other node of a Multi-AZ instance."""

    node_id: str
    availability_zone: str


class ServerCertificate(msgspec.Struct, frozen=True):
    """What the engine shows to TLS clients: PEM texts. The chain ends at the service's own CA."""

    certificate_pem: str
    private_key_pem: str
    ca_pem: str


class MasterUser(msgspec.Struct, frozen=True):
    """The instance's master user. `password_verifier` is what the engine stores, never the password."""

    name: str
    password_verifier: str


class NodeEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where clients of the instance connect, and who may: CIDR strings."""

    endpoint_id: str
    address: str
    port: int
    name: str
    admits: tuple[str, ...]


class NodeLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What the instance class grants."""

    memory_bytes: int
    vcpus: int


class RestoreTarget(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a restored database ends: at most one of the three; none of them: as soon as the backup is consistent.

    `at` is a moment (epoch seconds, everything committed until then), `position` a place in the engine's log,
    `transaction` the last transaction to be kept. `timeline` is the history followed, "" for the backup's own.
    """

    at: float | None = None
    position: str = ""
    transaction: str = ""
    timeline: str = ""

    @property
    def immediate(self) -> bool:
        """Whether nothing of the log is wanted beyond what the backup needs."""
        return self.at is None and not self.position and not self.transaction


class RestoreSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A node's data comes from this backup in this repository, once; afterwards it means nothing.

    `paused`: at the target the engine takes queries and no writes, and nothing is final: it can be told to go on.
    `crash_consistent`: as in `BackupFacts`; there may be a clone of it on the host.
    """

    repository: RepositoryRef
    backup_id: str
    target: RestoreTarget
    paused: bool = False
    crash_consistent: bool = False


class DataExchange(msgspec.Struct, frozen=True, kw_only=True):
    """Other data is to take the place of a node's data. Both have names: the `wanted` one, and the present, `aside`.

    What is wanted comes from what is kept under this name, or else from the spec's `restore`.
    """

    wanted: str
    aside: str


class NodeSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the control plane wants of a node. `generation` grows with every change of anything else in it.

    `restart_token` names one wanted process start: an engine started for another token is restarted. `parameters` are
    final engine settings (name -> value), formulas already evaluated.
    `role` is the one a node is created in; who leads a Multi-AZ pair from then on is decided by its agent and told
    in `PairStatus`. `failover_token` names one wanted change of roles; `rolling`: a restart of both nodes begins
    with the standby, which then takes over, so that clients see one short gap. `source` is the DbiResourceId of the
    instance that a read replica follows, "" for an instance that follows nobody; `followed`: read replicas follow
    this instance. `archive` is where the log of the instance is kept, None without automated backups; `restore`
    where the data of a restored instance comes from. `exchange`: its data is being exchanged; `kept` names the data set
    aside that must stay. `iam_login_port` is where the engine asks about IAM logins (a
    port of 127.0.0.1), 0 where IAM database authentication is not enabled. `volume` is what its data is kept on, None
    for a plain directory.
    """

    node_id: str
    scope: Scope
    dbi_resource_id: str
    db_instance_identifier: str
    availability_zone: str
    role: NodeRole = NodeRole.PRIMARY
    peer: Peer | None = None
    failover_token: int = 0
    rolling: bool = False
    source: str = ""
    followed: bool = False
    archive: RepositoryRef | None = None
    restore: RestoreSpec | None = None
    exchange: DataExchange | None = None
    kept: tuple[str, ...] = ()
    volume: VolumeSpec | None = None
    generation: int = 0
    target: NodeTarget
    engine: str
    engine_version: str
    listen_address: str
    port: int
    endpoint: NodeEndpoint
    parameters: dict[str, str]
    require_tls: bool
    refuses_old_passwords: bool = False
    iam_login_port: int = 0
    log_retention_minutes: int = 4320
    restart_token: int = 0
    master: MasterUser
    database: str
    certificate: ServerCertificate
    limits: NodeLimits

    @property
    def start(self) -> tuple[str, int, int]:
        """What both nodes of a pair are started for: version, restart token and size of the volume."""
        return self.engine_version, self.restart_token, 0 if self.volume is None else self.volume.size_bytes


def without_keys(spec: NodeSpec) -> NodeSpec:
    """The spec as it may be written to the disk of a node whose volume is encrypted: no key of its data in it.

    A spec with a volume that is not encrypted stays as it is.
    """
    volume = spec.volume
    if volume is None or not volume.encrypted:
        return spec
    replace = msgspec.structs.replace
    archive, restore = spec.archive, spec.restore
    return replace(
        spec,
        volume=replace(volume, data_key=""),
        archive=None if archive is None else replace(archive, data_key=""),
        restore=None if restore is None else replace(restore, repository=replace(restore.repository, data_key="")),
    )


def lacks_keys(spec: NodeSpec) -> bool:
    """Whether a key that the spec speaks of is not in it."""
    repositories = [spec.archive, None if spec.restore is None else spec.restore.repository]
    if any(repository is not None and not repository.data_key for repository in repositories):
        return True
    return spec.volume is not None and spec.volume.encrypted and not spec.volume.data_key


class Failover(msgspec.Struct, frozen=True, kw_only=True):
    """One change of roles. `row` names the line of `decide.failover` that fired.

    `at` is when the outage began (epoch seconds), `writable_after_s` how long it was until clients were let in again.
    """

    epoch: int
    at: float
    row: str
    because: str
    old_primary: str
    new_primary: str
    writable_after_s: float = 0.0


class PairStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the agent knows of a Multi-AZ pair. `in_sync`: a failover would lose no acknowledged commit.

    `since` and `reason` tell when and why `in_sync` last changed; `obstacle` why no failover is possible now;
    `failovers` are the latest ones, oldest first. `switched_for` is the failover token last dealt with, `given_up` the
    last one for which the roles were not changed.
    """

    epoch: int
    primary: str
    in_sync: bool
    since: float
    reason: str
    obstacle: str = ""
    switched_for: int = 0
    given_up: int = 0
    failovers: tuple[Failover, ...] = ()


class ReplicationStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a node follows another.

    `lag_s` is how much older than its source's what it shows may be, 0 when it has replayed everything; `lag_bytes`
    what it has not replayed of what its source has written; None: not known. `paused`: it has been told to replay
    nothing. `connecting`: it has asked its source only just now, and nothing is known of the answer.
    """

    streaming: bool
    connecting: bool = False
    paused: bool = False
    lag_s: float | None = None
    lag_bytes: int | None = None
    message: str = ""


class ArchiveStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far the log of an instance is in its repository.

    A restore to any moment up to `latest_restorable_at` (epoch seconds, 0.0: none yet) along `timeline` finds all that
    was committed until then. `gap_at`: since this moment a part of the log is missing, so that only a backup taken
    later begins a new window; 0.0 without one. `failure` says why nothing is shipped now.
    """

    latest_restorable_at: float = 0.0
    timeline: str = ""
    position: str = ""
    gap_at: float = 0.0
    failure: str = ""


class RestoreProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a restore is. `phase`: "files", "log" or "paused"; it began `seconds` ago.

    A paused one is at `position` of the log; the last commit it shows is of `moment` (epoch seconds, None: not known).
    """

    phase: str
    bytes_done: int = 0
    bytes_total: int = 0
    seconds: float = 0.0
    position: str = ""
    moment: float | None = None


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the agent sees. `generation` is the newest spec seen, `settled_generation` the newest one fully in effect.

    `started_for` is the restart token of the running process. `failure` says in words what stands in the way, and
    `fatal` that repeating will not help; `unusable`: with its settings no start came to an engine that can be operated.
    `pending_restart` names parameters that wait for a restart of the engine.
    `looked`: the agent has looked at the node since it began; before that it knows of it little more than its spec.
    `locked`: its volume waits for its key. `keys_missing`: keys of the spec, which no agent keeps on its disk, are not
    known to the agent (any more). `usage_bytes` of `size_bytes` are in use on a volume with a size, of which the engine
    can take `free_bytes` more; `storage_full`: an engine fails, or must be expected to, for want of space.
    """

    node_id: str
    dbi_resource_id: str
    db_instance_identifier: str
    role: NodeRole
    availability_zone: str
    phase: NodePhase
    generation: int
    looked: bool = True
    settled_generation: int = 0
    started_for: int = -1
    pid: int = 0
    started_at: float = 0.0
    address: str = ""
    port: int = 0
    data_directory: str = ""
    failure: str = ""
    fatal: bool = False
    unusable: bool = False
    pending_restart: tuple[str, ...] = ()
    restarts: int = 0
    pair: PairStatus | None = None
    replication: ReplicationStatus | None = None
    archive: ArchiveStatus | None = None
    restore: RestoreProgress | None = None
    locked: bool = False
    keys_missing: bool = False
    usage_bytes: int = 0
    free_bytes: int = 0
    size_bytes: int = 0
    storage_full: bool = False


def leading(statuses: Sequence[NodeStatus | None]) -> NodeStatus | None:
    """What is seen of the node that leads its instance, among what is seen of all of its nodes."""
    for status in statuses:
        if status is not None and status.role is not NodeRole.STANDBY:
            return status
    return None


class Node(Record, frozen=True, kw_only=True):
    """The control plane's record of a node: the spec last given to its agent."""

    KIND: ClassVar[str] = "node"

    spec: NodeSpec

    def key(self) -> str:
        return self.spec.node_id

    def index(self) -> dict[str, str]:
        return {"dbi-resource-id": self.spec.dbi_resource_id}
