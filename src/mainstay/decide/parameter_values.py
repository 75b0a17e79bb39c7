"""Which raw values (literals or formulas) an instance's parameters have: what its group says, and what is in force.

A change of the group reaches an instance at once or waits for its reboot. What waits is remembered per instance as
`held` (name -> the value still in force, None for the default), so the group alone always tells what is wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from mainstay.model.db_parameter_group import DBParameterGroup
from mainstay.model.engine import SOURCE_SYSTEM, ParameterDefinition


class ParameterChange(msgspec.Struct, frozen=True, kw_only=True):
    """One parameter's user value before and after; None where the default holds.

    `at_once`: a dynamic parameter changed with apply method "immediate".
    """

    name: str
    old: str | None
    new: str | None
    at_once: bool


def wanted_values(group: DBParameterGroup | None, definitions: Mapping[str, ParameterDefinition]) -> dict[str, str]:
    """Name -> raw value of every parameter that must be configured; `group` None stands for an untouched group.

    Parameters left out have the engine's own default. User values of parameters that this build does not know are
    left out too: the engine would refuse to start with them.
    """
    values: dict[str, str] = {}
    for name, definition in definitions.items():
        given = None if group is None else group.value_of(name)
        value = default_value(definition) if given is None else given
        if value is not None:
            values[name] = value
    return values


def values_in_force(
    group: DBParameterGroup | None,
    definitions: Mapping[str, ParameterDefinition],
    held: Mapping[str, str | None],
) -> dict[str, str]:
    """`wanted_values` with everything that still waits for a reboot put back. `group` is the one in force."""
    values = wanted_values(group, definitions)
    for name, value in held.items():
        if name not in definitions:
            continue
        in_force = default_value(definitions[name]) if value is None else value
        if in_force is None:
            values.pop(name, None)
        else:
            values[name] = in_force
    return values


def default_value(definition: ParameterDefinition) -> str | None:
    """What the service configures where the user gave no value; None where it leaves the engine to its own default."""
    return definition.default if definition.source == SOURCE_SYSTEM else None


def held_after(held: Mapping[str, str | None], changes: Iterable[ParameterChange]) -> dict[str, str | None]:
    """What an instance holds after `changes` of the group in force.

    The first change that waits decides the value held; a change back to that value, or one at once, ends the waiting.
    """
    after = dict(held)
    for change in changes:
        if change.at_once:
            after.pop(change.name, None)
        elif change.name not in after:
            after[change.name] = change.old
        if change.name in after and after[change.name] == change.new:
            del after[change.name]
    return after
