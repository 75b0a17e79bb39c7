"""What a spec and an assignment ask of a node, as the table (`decide/node.py`) compares it with what is seen. Pure."""

from __future__ import annotations

import hashlib

import msgspec

from mainstay.decide.node import Wanted, process_identity
from mainstay.model.assignment import Assignment
from mainstay.model.node import NodeRole, NodeSpec, NodeTarget


def wanted_of(spec: NodeSpec, assignment: Assignment) -> Wanted:
    """Spec and assignment as the table compares them with what is seen."""
    target = spec.target
    if assignment.stay and target is not NodeTarget.RUNNING:
        target = NodeTarget.RUNNING
    return Wanted(
        target=target,
        role=assignment.role,
        may_restart=assignment.may_restart,
        may_start=assignment.may_start,
        may_publish=assignment.may_publish,
        restores=spec.restore is not None and assignment.role is NodeRole.PRIMARY,
        restore_key_missing=spec.restore is not None and not spec.restore.repository.data_key,
        data_name="" if spec.exchange is None or assignment.role is not NodeRole.PRIMARY else spec.exchange.wanted,
        kept=spec.kept,
        configuration_digest=_digest(spec.parameters, spec.require_tls, spec.refuses_old_passwords,
                                    spec.iam_login_port, spec.certificate,
                                    spec.listen_address, spec.port, spec.db_instance_identifier, spec.engine_version,
                                    spec.peer, spec.followed, "paused" if pauses(spec) else spec.restore is None,
                                    assignment.role, assignment.upstream, assignment.synchronous_standby,
                                    *(() if assignment.acknowledges else ("acknowledges nothing",))),
        accounts_digest=_digest(spec.master, spec.database),
        route_digest=_digest(spec.endpoint, spec.listen_address, spec.port, assignment.epoch),
        process_identity=process_identity(spec),
    )  # fmt: skip


def pauses(spec: NodeSpec) -> bool:
    """Whether it is restored with a pause before it is opened."""
    return spec.restore is not None and spec.restore.paused


def _digest(*parts: object) -> str:
    """A short name for a value, equal for equal values, across processes."""
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:24]
