"""DB parameter groups as such: create, copy, delete, describe. Their values are in `parameters`.

Source: RDS API reference; RDS user guide, "Working with parameter groups".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mainstay.decide.identifiers import check_description, check_parameter_group_name
from mainstay.decide.rds_tags import with_tags
from mainstay.engines.registry import Engines
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_parameter_group import DBParameterGroup, UserParameter
from mainstay.model.errors import ApiError
from mainstay.services.operations import Call, Request, Result
from mainstay.services.rds.demands import creates, on
from mainstay.services.rds.families import definitions_of, families
from mainstay.services.rds.filters import NO_FILTERS, select
from mainstay.services.rds.paging import page
from mainstay.services.rds.quotas import DB_PARAMETER_GROUPS, require_room
from mainstay.services.rds.resources import BY_KIND, stored_name
from mainstay.services.rds.table import handles


def default_parameter_group(call: Call, name: str) -> DBParameterGroup:
    """A family's default group ("default.postgres17"), made when it is first named.

    Raises `ApiError` DBParameterGroupNotFound if no installed engine has a default group of this name.
    """
    present = call.tx.get(DBParameterGroup, call.scope, name)
    if present is not None:
        return present
    engines = call.use(Engines)
    for family, build in families(call).items():
        if engines.rules(build.engine).default_parameter_group(family) == name:
            group = DBParameterGroup(
                scope=call.scope,
                db_parameter_group_name=name,
                db_parameter_group_family=family,
                description=f"Default parameter group for {family}",
            )
            call.tx.insert(group)
            return group
    raise BY_KIND[DBParameterGroup].not_found(name)


def require_parameter_group(call: Call, named: str) -> DBParameterGroup:
    """The group of this name or ARN; default groups are made on demand. Raises `ApiError` DBParameterGroupNotFound."""
    return default_parameter_group(call, stored_name(call.scope, "pg", named))


def members_of(call: Call, group: DBParameterGroup) -> list[DBInstance]:
    """Instances the group is attached to, and those it is still in force for until their reboot."""
    name = group.db_parameter_group_name
    return [
        instance
        for instance in call.tx.scan(DBInstance, call.scope)
        if name in (instance.db_parameter_group_name, instance.parameter_group_in_force)
    ]


@handles("CreateDBParameterGroup", creates("pg", "DBParameterGroupName"))
def create_db_parameter_group(call: Call, request: Request) -> Result:
    """Records a group without any value of its own."""
    name = check_parameter_group_name(request["DBParameterGroupName"])
    family = request["DBParameterGroupFamily"].lower()
    definitions_of(call, family)
    return _add(call, request, name, family, request["Description"], {})


@handles(
    "CopyDBParameterGroup",
    on("pg", "SourceDBParameterGroupIdentifier"),
    creates("pg", "TargetDBParameterGroupIdentifier"),
)
def copy_db_parameter_group(call: Call, request: Request) -> Result:
    """Records a group with the values of another one; tags are not copied."""
    source = require_parameter_group(call, request["SourceDBParameterGroupIdentifier"])
    name = check_parameter_group_name(request["TargetDBParameterGroupIdentifier"], "TargetDBParameterGroupIdentifier")
    description = request["TargetDBParameterGroupDescription"]
    return _add(call, request, name, source.db_parameter_group_family, description, source.parameters)


@handles("DeleteDBParameterGroup", on("pg", "DBParameterGroupName"))
def delete_db_parameter_group(call: Call, request: Request) -> Result:
    """Forgets a group that no instance uses."""
    group = require_parameter_group(call, request["DBParameterGroupName"])
    name = group.db_parameter_group_name
    if group.is_default:
        raise ApiError("InvalidDBParameterGroupStateFault", f"Default DBParameterGroup cannot be deleted: {name}")
    if members_of(call, group):
        raise ApiError(
            "InvalidDBParameterGroupStateFault",
            f"One or more database instances are still members of this parameter group {name}, so the group cannot be"
            " deleted",
        )
    call.tx.delete(group)
    return None


@handles("DescribeDBParameterGroups", on("pg", "DBParameterGroupName"))
def describe_db_parameter_groups(call: Call, request: Request) -> Result:
    """One group, or all of them a page at a time."""
    named = request.get("DBParameterGroupName")
    groups = [require_parameter_group(call, named)] if named else call.tx.scan(DBParameterGroup, call.scope)
    shown, more = page(select(groups, request, NO_FILTERS), lambda group: group.db_parameter_group_name, request)
    return {"DBParameterGroups": [_show(group) for group in shown]} | more


def _add(
    call: Call, request: Request, name: str, family: str, description: str, parameters: Mapping[str, UserParameter]
) -> dict[str, Any]:
    if call.tx.get(DBParameterGroup, call.scope, name) is not None:
        raise ApiError("DBParameterGroupAlreadyExistsFault", f"Parameter group {name} already exists")
    own = [group for group in call.tx.scan(DBParameterGroup, call.scope) if not group.is_default]
    require_room(len(own), DB_PARAMETER_GROUPS, "DBParameterGroupQuotaExceededFault", "DB parameter groups")
    group = DBParameterGroup(
        scope=call.scope,
        db_parameter_group_name=name,
        db_parameter_group_family=family,
        description=check_description(description, "Description"),
        parameters=dict(parameters),
        tags=with_tags({}, request.get("Tags") or ()),
    )
    call.tx.insert(group)
    return {"DBParameterGroup": _show(group)}


def _show(group: DBParameterGroup) -> dict[str, Any]:
    return {
        "DBParameterGroupName": group.db_parameter_group_name,
        "DBParameterGroupFamily": group.db_parameter_group_family,
        "Description": group.description,
        "DBParameterGroupArn": group.arn,
    }
