"""Nodes: one engine process with its volume on one host. What is wanted of it, and what is seen of it.

`NodeSpec` is written by the control plane only, `NodeStatus` by the agent only; neither is ever derived from the other.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

import msgspec

from mainstay.model.records import Record, Scope


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
    """What a node does for its instance."""

    PRIMARY = "primary"


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


class NodeSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the control plane wants of a node. `generation` grows with every change of anything else in it.

    `restart_token` names one wanted process start: an engine started for another token is restarted. `parameters` are
    final engine settings (name -> value), formulas already evaluated.
    """

    node_id: str
    scope: Scope
    dbi_resource_id: str
    db_instance_identifier: str
    availability_zone: str
    role: NodeRole = NodeRole.PRIMARY
    epoch: int = 1
    generation: int = 0
    target: NodeTarget
    engine: str
    engine_version: str
    listen_address: str
    port: int
    endpoint: NodeEndpoint
    parameters: dict[str, str]
    require_tls: bool
    log_retention_minutes: int = 4320
    restart_token: int = 0
    master: MasterUser
    database: str
    certificate: ServerCertificate
    limits: NodeLimits


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the agent sees. `generation` is the newest spec seen, `settled_generation` the newest one fully in effect.

    `started_for` is the restart token of the running process. `failure` says in words what stands in the way, and
    `fatal` that repeating will not help. `pending_restart` names parameters that wait for a restart of the engine.
    """

    node_id: str
    dbi_resource_id: str
    db_instance_identifier: str
    role: NodeRole
    availability_zone: str
    phase: NodePhase
    generation: int
    settled_generation: int = 0
    started_for: int = -1
    pid: int = 0
    started_at: float = 0.0
    address: str = ""
    port: int = 0
    data_directory: str = ""
    failure: str = ""
    fatal: bool = False
    pending_restart: tuple[str, ...] = ()
    restarts: int = 0


class Node(Record, frozen=True, kw_only=True):
    """The control plane's record of a node: the spec last given to its agent."""

    KIND: ClassVar[str] = "node"

    spec: NodeSpec

    def key(self) -> str:
        return self.spec.node_id

    def index(self) -> dict[str, str]:
        return {"dbi-resource-id": self.spec.dbi_resource_id}
