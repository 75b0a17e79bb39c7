"""What is seen of one node now: as the table is asked about it, and as its status tells it.

Nothing here acts, waits or remembers. The role, what has settled, and what others know of the node are the keeper's to
say, and it adds them to the status.
"""

from __future__ import annotations

from mainstay.agent.actions import NodeActions
from mainstay.decide.node import Observed
from mainstay.engines.base import EngineDriver
from mainstay.model.node import (
    NodePhase,
    NodeSpec,
    NodeStatus,
    NodeTarget,
    RestoreProgress,
    lacks_keys,
)
from mainstay.model.volume import VolumePhase

MIB = 1 << 20


def observed(hands: NodeActions, driver: EngineDriver, *, now: float, upstream_ready: bool) -> Observed:
    """What `decide.node` is asked about. `now` is of the monotonic clock; whether its source leads others must say."""
    engine, in_effect = hands.engine, hands.in_effect
    process = engine.process
    initialised = driver.initialised(hands.files)
    tag = {} if process is None else process.tag
    seen = hands.volume.look()
    return Observed(
        # A removal that was interrupted may have left anything below the root, the volume or not.
        volume=hands.files.root.exists(),
        volume_phase=seen.phase,
        key_missing=hands.volume.key_missing,
        cramped=hands.volume.must_grow(seen),
        grows_open=hands.volume.grows_open,
        storage_full=seen.full,
        initialised=initialised,
        written_digest=in_effect.written,
        running=process is not None,
        stopping=engine.stopping is not None,
        copying=hands.copying.under_way,
        ready=hands.health.ready,
        process_identity=str(tag.get("identity", "")),
        loaded_digest=in_effect.loaded if process is not None and in_effect.loaded_by_pid == process.pid else "",
        accounts_digest=in_effect.accounts,
        route_digest=hands.route,
        start_failures=engine.start_failures,
        start_due=now >= engine.start_due_at,
        had_data=in_effect.had_data or bool(in_effect.accounts),
        follows=initialised and driver.follows(hands.files),
        readable=bool(tag.get("readable", True)),
        promoting=hands.promoting,
        paused=hands.health.pause is not None,
        outgrown=hands.outgrown,
        locked_out=hands.health.locked_out,
        refuses=engine.refuses,
        lost=bool(hands.copying.lost),
        upstream_ready=upstream_ready,
        data_name=in_effect.data_name,
        kept=hands.kept.names,
    )


def seen_of(spec: NodeSpec, hands: NodeActions, driver: EngineDriver) -> NodeStatus:
    """The status, as far as it can be seen."""
    process = hands.engine.process
    volume = hands.volume.look()
    return NodeStatus(
        node_id=spec.node_id,
        dbi_resource_id=spec.dbi_resource_id,
        db_instance_identifier=spec.db_instance_identifier,
        role=spec.role,
        availability_zone=spec.availability_zone,
        phase=_phase(spec, hands, driver),
        generation=spec.generation,
        started_for=-1 if process is None else int(process.tag.get("restart_token", -1)),
        pid=0 if process is None else process.pid,
        started_at=0.0 if process is None else process.started_at,
        address=spec.listen_address,
        port=spec.port,
        data_directory=str(hands.files.data),
        failure=hands.failure,
        fatal=hands.engine.unusable,
        unusable=hands.engine.unusable,
        pending_restart=hands.health.pending_restart,
        restore=_restore_progress(hands),
        locked=hands.volume.key_missing and volume.phase in (VolumePhase.CLOSED, VolumePhase.LOCKED),
        keys_missing=lacks_keys(spec),
        usage_bytes=volume.used_bytes // MIB * MIB,
        free_bytes=volume.free_bytes // MIB * MIB,
        size_bytes=volume.size_bytes,
        storage_full=volume.full,
    )


def is_gone(spec: NodeSpec, hands: NodeActions) -> bool:
    """Whether it was to be removed, and nothing of it is left."""
    return spec.target is NodeTarget.ABSENT and not hands.files.root.exists()


def _restore_progress(hands: NodeActions) -> RestoreProgress | None:
    pause = hands.health.pause
    if pause is None or not hands.health.ready:
        return hands.restoring.progress
    return RestoreProgress(phase="paused", position=pause.position, moment=pause.moment)


def _phase(spec: NodeSpec, hands: NodeActions, driver: EngineDriver) -> NodePhase:
    if hands.engine.process is None:
        if is_gone(spec, hands):
            return NodePhase.ABSENT
        hidden = hands.in_effect.had_data and hands.volume.look().phase is not VolumePhase.OPEN
        if not hidden and not driver.initialised(hands.files):
            return NodePhase.CREATING
        return NodePhase.STOPPED if spec.target is not NodeTarget.RUNNING else NodePhase.STARTING
    if hands.engine.stopping is not None:
        return NodePhase.STOPPING
    return NodePhase.RUNNING if hands.health.ready else NodePhase.STARTING
