"""The lifecycles of a DB instance that change its node and wait for it: what is recorded when each has ended."""

from __future__ import annotations

import msgspec

from mainstay.model.db_instance import DBInstance
from mainstay.model.node import NodeStatus, NodeTarget
from mainstay.services.rds.events import record_event
from mainstay.store import Transaction
from mainstay.workflows.converge import converging, running, stopped
from mainstay.workflows.engine import Work

MAX_STOPPED_S = 7 * 24 * 3600.0


def _created(work: Work, tx: Transaction, instance: DBInstance, status: NodeStatus) -> DBInstance:
    record_event(tx, work.tools.clock, instance, "RDS-EVENT-0005")
    return instance


def _modified(work: Work, tx: Transaction, instance: DBInstance, status: NodeStatus) -> DBInstance:
    for event_id in work.job.frame.get("finished_events", ()):
        record_event(tx, work.tools.clock, instance, event_id)
    return instance


def _rebooted(work: Work, tx: Transaction, instance: DBInstance, status: NodeStatus) -> DBInstance:
    record_event(tx, work.tools.clock, instance, "RDS-EVENT-0006")
    return instance


def _started(work: Work, tx: Transaction, instance: DBInstance, status: NodeStatus) -> DBInstance:
    automatic = instance.automatic_restart_at is not None and work.tools.clock.wall() >= instance.automatic_restart_at
    record_event(tx, work.tools.clock, instance, "RDS-EVENT-0154" if automatic else "RDS-EVENT-0088")
    return msgspec.structs.replace(instance, automatic_restart_at=None)


def _stopped(work: Work, tx: Transaction, instance: DBInstance, status: NodeStatus) -> DBInstance:
    record_event(tx, work.tools.clock, instance, "RDS-EVENT-0087")
    return msgspec.structs.replace(instance, automatic_restart_at=work.tools.clock.wall() + MAX_STOPPED_S)


CREATE = converging("create_db_instance", settled=running, ending=_created, deadline_s=600.0)
MODIFY = converging("modify_db_instance", settled=running, ending=_modified, deadline_s=900.0)
REBOOT = converging("reboot_db_instance", settled=running, ending=_rebooted, deadline_s=600.0)
START = converging("start_db_instance", settled=running, ending=_started, deadline_s=600.0)
STOP = converging("stop_db_instance", settled=stopped, ending=_stopped, deadline_s=600.0)


def restarted(instance: DBInstance) -> DBInstance:
    """The instance with one more wanted process start: everything that waited for a reboot comes into force."""
    return msgspec.structs.replace(
        instance,
        restart_token=instance.restart_token + 1,
        parameter_group_in_force=instance.db_parameter_group_name,
        held_parameters={},
        target=NodeTarget.RUNNING,
        failure="",
    )
