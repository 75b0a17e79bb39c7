"""How the instances of a parameter group learn that its values changed."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mainstay.decide.parameter_values import ParameterChange, held_after
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_parameter_group import DBParameterGroup
from mainstay.services.operations import Call
from mainstay.services.rds.parameter_groups import members_of
from mainstay.services.rds.refresh import request_refresh


def members_changed(call: Call, group: DBParameterGroup, changes: Sequence[ParameterChange]) -> None:
    """Holds what must wait for a reboot, and has the nodes refreshed for what acts at once."""
    for instance in members_of(call, group):
        if instance.parameter_group_in_force != group.db_parameter_group_name:
            continue  # attached since the last start: the reboot brings all of its values at once
        _changed(call, instance, changes, attached=instance.db_parameter_group_name == group.db_parameter_group_name)


def _changed(call: Call, instance: DBInstance, changes: Sequence[ParameterChange], *, attached: bool) -> None:
    if not attached:
        # Another group was attached and waits for the reboot. Until then the values of this one stay as they are.
        changes = [msgspec.structs.replace(change, at_once=False) for change in changes]
    held = held_after(instance.held_parameters, changes)
    if held != instance.held_parameters:
        instance = msgspec.structs.replace(instance, held_parameters=held)
        call.tx.put(instance)
    if any(change.at_once for change in changes):
        request_refresh(call, instance)
