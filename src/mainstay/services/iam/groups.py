"""Groups and who belongs to them. A user lists its groups, so a user's policies are found with few reads."""

from __future__ import annotations

import msgspec

from mainstay.model.iam import Group, User
from mainstay.services.iam import identifiers, limits
from mainstay.services.iam.checks import check_name, check_path, delete_conflict
from mainstay.services.iam.lookup import (
    find_entity,
    global_scope,
    refuse_duplicate,
    refuse_over_quota,
    refuse_to_orphan_policies,
)
from mainstay.services.iam.pages import page
from mainstay.services.iam.shapes import group_shape, user_shape
from mainstay.services.iam.table import on_entity, on_resource
from mainstay.services.operations import Call, Request, Result


def members(call: Call, group: Group) -> list[User]:
    """The group's users."""
    return [user for user in call.tx.scan(User, group.scope) if group.name in user.groups]


@on_entity("CreateGroup", Group)
def create_group(call: Call, request: Request) -> Result:
    scope = global_scope(call)
    name = check_name("groupName", request["GroupName"], limits.NAME_LENGTH["group"])
    path = check_path(request)
    refuse_duplicate(call, Group, name, f"Group with name {name} already exists.")
    refuse_over_quota(call.tx.count(Group, scope), limits.GROUPS_PER_ACCOUNT, "GroupsPerAccount")
    group = Group(
        scope=scope,
        name=name,
        id=identifiers.unique_id(call.randomness, identifiers.GROUP),
        path=path,
        created_at=call.clock.wall(),
    )
    call.tx.insert(group)
    return {"Group": group_shape(group)}


@on_entity("GetGroup", Group)
def get_group(call: Call, request: Request) -> Result:
    group = find_entity(call, Group, request["GroupName"])
    shown, more = page(request, members(call, group), lambda user: user.name)
    return {"Group": group_shape(group), "Users": [user_shape(user, detailed=False) for user in shown], **more}


@on_entity("UpdateGroup", Group)
def update_group(call: Call, request: Request) -> Result:
    group = find_entity(call, Group, request["GroupName"])
    name = request.get("NewGroupName", group.name)
    if name.lower() != group.name.lower():
        check_name("newGroupName", name, limits.NAME_LENGTH["group"])
        refuse_duplicate(call, Group, name, f"Group with name {name} already exists.")
    path = check_path(request, "NewPath") if "NewPath" in request else group.path
    for user in members(call, group):
        groups = tuple(name if each == group.name else each for each in user.groups)
        call.tx.put(msgspec.structs.replace(user, groups=groups))
    call.tx.delete(group)
    call.tx.insert(msgspec.structs.replace(group, name=name, path=path))
    return None


@on_entity("DeleteGroup", Group)
def delete_group(call: Call, request: Request) -> Result:
    group = find_entity(call, Group, request["GroupName"])
    if members(call, group):
        raise delete_conflict("Cannot delete entity, must remove users from group first.")
    refuse_to_orphan_policies(group)
    call.tx.delete(group)
    return None


@on_resource("ListGroups", lambda request: f"group{request.get('PathPrefix', '/')}")
def list_groups(call: Call, request: Request) -> Result:
    prefix = request.get("PathPrefix", "/")
    groups = [group for group in call.tx.scan(Group, global_scope(call)) if group.path.startswith(prefix)]
    shown, more = page(request, groups, lambda group: group.name)
    return {"Groups": [group_shape(group) for group in shown], **more}


@on_entity("AddUserToGroup", Group)
def add_user_to_group(call: Call, request: Request) -> Result:
    group = find_entity(call, Group, request["GroupName"])
    user = find_entity(call, User, request["UserName"])
    if group.name not in user.groups:
        refuse_over_quota(len(user.groups), limits.GROUPS_PER_USER, "GroupsPerUser")
        call.tx.put(msgspec.structs.replace(user, groups=(*user.groups, group.name)))
    return None


@on_entity("RemoveUserFromGroup", Group)
def remove_user_from_group(call: Call, request: Request) -> Result:
    group = find_entity(call, Group, request["GroupName"])
    user = find_entity(call, User, request["UserName"])
    call.tx.put(msgspec.structs.replace(user, groups=tuple(name for name in user.groups if name != group.name)))
    return None


@on_entity("ListGroupsForUser", User)
def list_groups_for_user(call: Call, request: Request) -> Result:
    user = find_entity(call, User, request["UserName"])
    groups = [find_entity(call, Group, name) for name in user.groups]
    shown, more = page(request, groups, lambda group: group.name)
    return {"Groups": [group_shape(group) for group in shown], **more}
