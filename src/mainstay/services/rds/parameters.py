"""The values of DB parameter groups: modify, reset, describe.

Source: RDS API reference; RDS user guide, "Working with parameter groups".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from mainstay.decide.parameter_values import ParameterChange
from mainstay.decide.parameters import check_value
from mainstay.model.db_parameter_group import IMMEDIATE, PENDING_REBOOT, DBParameterGroup, UserParameter
from mainstay.model.engine import STATIC, ParameterDefinition
from mainstay.model.errors import invalid_combination, invalid_value, missing_parameter
from mainstay.services.operations import Call, Request, Result
from mainstay.services.rds.demands import on
from mainstay.services.rds.events import record_event
from mainstay.services.rds.families import definitions_of
from mainstay.services.rds.filters import select
from mainstay.services.rds.paging import page
from mainstay.services.rds.parameter_groups import require_parameter_group
from mainstay.services.rds.parameter_members import members_changed
from mainstay.services.rds.table import handles

PARAMETERS_PER_CALL = 20
SOURCE_USER = "user"
SOURCES = (SOURCE_USER, "system", "engine-default")

Definitions = Mapping[str, ParameterDefinition]


@handles("ModifyDBParameterGroup", on("pg", "DBParameterGroupName"))
def modify_db_parameter_group(call: Call, request: Request) -> Result:
    """Sets 1 to 20 values, all or none."""
    group = _modifiable_group(call, request)
    definitions = definitions_of(call, group.db_parameter_group_family)
    new: dict[str, UserParameter] = {}
    for name, given in _given(request["Parameters"]).items():
        definition = _definition(definitions, name)
        value = given.get("ParameterValue")
        if value is None:
            raise missing_parameter(f"The parameter ParameterValue must be provided for parameter {name}.")
        check_value(definition, value)
        new[name] = UserParameter(value=value, apply_method=_apply_method(definition, given))
    changed = msgspec.structs.replace(group, parameters={**group.parameters, **new})
    return _store(call, group, changed, {name: given.apply_method for name, given in new.items()}, definitions)


@handles("ResetDBParameterGroup", on("pg", "DBParameterGroupName"))
def reset_db_parameter_group(call: Call, request: Request) -> Result:
    """Takes back the user's values, all of them or those named. A reset of all acts at once where it can."""
    group = _modifiable_group(call, request)
    definitions = definitions_of(call, group.db_parameter_group_family)
    named = request.get("Parameters") or ()
    methods: dict[str, str] = {}
    if named:
        if request.get("ResetAllParameters"):
            raise invalid_combination("ResetAllParameters cannot be true when Parameters are specified.")
        for name, given in _given(named).items():
            methods[name] = _apply_method(_definition(definitions, name), given)
    elif request.get("ResetAllParameters", True):
        for name in group.parameters:
            definition = definitions.get(name)
            static = definition is None or definition.apply_type == STATIC
            methods[name] = PENDING_REBOOT if static else IMMEDIATE
    else:
        raise invalid_combination("Parameters must be specified when ResetAllParameters is false.")
    kept = {name: value for name, value in group.parameters.items() if name not in methods}
    return _store(call, group, msgspec.structs.replace(group, parameters=kept), methods, definitions)


@handles("DescribeDBParameters", on("pg", "DBParameterGroupName"))
def describe_db_parameters(call: Call, request: Request) -> Result:
    """Every parameter of the group's family with its value in the group, a page at a time."""
    group = require_parameter_group(call, request["DBParameterGroupName"])
    wanted = request.get("Source")
    if wanted and wanted not in SOURCES:
        raise invalid_value(f"Invalid value {wanted} for Source. Valid values: {', '.join(SOURCES)}")
    rows = [
        row
        for definition in definitions_of(call, group.db_parameter_group_family).values()
        if (row := _show(definition, group.parameters.get(definition.name)))["Source"] == wanted or not wanted
    ]
    shown, more = _page(rows, request)
    return {"Parameters": shown} | more


@handles("DescribeEngineDefaultParameters")
def describe_engine_default_parameters(call: Call, request: Request) -> Result:
    """Every parameter of a family with the value of an untouched group, a page at a time."""
    family = request["DBParameterGroupFamily"].lower()
    rows = [_show(definition, None) for definition in definitions_of(call, family).values()]
    shown, more = _page(rows, request)
    return {"EngineDefaults": {"DBParameterGroupFamily": family, "Parameters": shown} | more}


def _modifiable_group(call: Call, request: Request) -> DBParameterGroup:
    group = require_parameter_group(call, request["DBParameterGroupName"])
    if group.is_default:
        raise invalid_value("Cannot modify a default parameter group.")
    return group


def _given(parameters: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The parameters of a request by name."""
    if not parameters:
        raise missing_parameter("At least one parameter must be provided.")
    if len(parameters) > PARAMETERS_PER_CALL:
        raise invalid_value(f"A maximum of {PARAMETERS_PER_CALL} parameters can be modified in a single request.")
    given: dict[str, Mapping[str, Any]] = {}
    for parameter in parameters:
        name = str(parameter.get("ParameterName") or "")
        if not name:
            raise missing_parameter("The parameter ParameterName must be provided and must not be blank.")
        if name in given:
            raise invalid_combination(f"The parameter {name} is specified more than once.")
        given[name] = parameter
    return given


def _definition(definitions: Definitions, name: str) -> ParameterDefinition:
    definition = definitions.get(name)
    if definition is None:
        raise invalid_value(f"Could not find parameter with name: {name}")
    return definition


def _apply_method(definition: ParameterDefinition, given: Mapping[str, Any]) -> str:
    method = str(given.get("ApplyMethod") or "")
    if method not in (IMMEDIATE, PENDING_REBOOT):
        raise missing_parameter(
            f"The parameter ApplyMethod must be {IMMEDIATE} or {PENDING_REBOOT} for parameter {definition.name}."
        )
    if method == IMMEDIATE and definition.apply_type == STATIC:
        raise invalid_combination("cannot use immediate apply method for static parameter")
    return method


def _store(
    call: Call,
    before: DBParameterGroup,
    after: DBParameterGroup,
    methods: Mapping[str, str],
    definitions: Definitions,
) -> Result:
    """Records the group and tells its members and the event log what changed."""
    call.tx.put(after)
    changes = [
        ParameterChange(name=name, old=before.value_of(name), new=after.value_of(name), at_once=method == IMMEDIATE)
        for name, method in methods.items()
    ]
    members_changed(call, after, changes)
    for change in changes:
        if change.old == change.new:
            continue
        default = definitions[change.name].default if change.name in definitions else ""
        record_event(
            call.tx,
            call.clock,
            after,
            "RDS-EVENT-0037",
            name=change.name,
            value=default if change.new is None else change.new,
            apply_method=methods[change.name],
        )
    return {"DBParameterGroupName": after.db_parameter_group_name}


def _page(rows: list[dict[str, Any]], request: Request) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    selected = select(rows, request, {"parameter-name": lambda row: (row["ParameterName"],)})
    return page(selected, lambda row: str(row["ParameterName"]), request)


def _show(definition: ParameterDefinition, given: UserParameter | None) -> dict[str, Any]:
    """A row of the answer. Values that do not hold are left out, as on AWS."""
    row = {
        "ParameterName": definition.name,
        "ParameterValue": definition.default if given is None else given.value,
        "Description": definition.description,
        "Source": definition.source if given is None else SOURCE_USER,
        "ApplyType": definition.apply_type,
        "DataType": definition.data_type,
        "AllowedValues": definition.allowed_values,
        "IsModifiable": definition.is_modifiable,
        "MinimumEngineVersion": definition.minimum_engine_version,
        "ApplyMethod": PENDING_REBOOT if given is None else given.apply_method,
    }
    kept_blank = "ParameterValue" if given is not None else ""
    return {name: value for name, value in row.items() if value != "" or name == kept_blank}
