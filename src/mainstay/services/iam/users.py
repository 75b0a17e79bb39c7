"""Users: create, show, rename, delete, list."""

from __future__ import annotations

import msgspec

from mainstay.model.iam import AccessKey, User
from mainstay.services.iam import identifiers, limits
from mainstay.services.iam.checks import check_name, check_path, check_tags, delete_conflict
from mainstay.services.iam.lookup import (
    find_attachable_policy,
    find_entity,
    global_scope,
    refuse_duplicate,
    refuse_over_quota,
    refuse_to_orphan_policies,
)
from mainstay.services.iam.pages import page
from mainstay.services.iam.shapes import user_shape
from mainstay.services.iam.table import named_user, on_entity, on_resource
from mainstay.services.operations import Call, Request, Result


@on_entity("CreateUser", User)
def create_user(call: Call, request: Request) -> Result:
    scope = global_scope(call)
    name = check_name("userName", request["UserName"], limits.NAME_LENGTH["user"])
    path = check_path(request)
    tags = check_tags(request.get("Tags", ()), {})
    boundary = request.get("PermissionsBoundary", "")
    if boundary:
        find_attachable_policy(call, boundary)
    refuse_duplicate(call, User, name, f"User with name {name} already exists.")
    refuse_over_quota(call.tx.count(User, scope), limits.USERS_PER_ACCOUNT, "UsersPerAccount")
    user = User(
        scope=scope,
        name=name,
        id=identifiers.unique_id(call.randomness, identifiers.USER),
        path=path,
        created_at=call.clock.wall(),
        permissions_boundary=boundary,
        tags=tags,
    )
    call.tx.insert(user)
    return {"User": user_shape(user)}


@on_entity("GetUser", User)
def get_user(call: Call, request: Request) -> Result:
    name = named_user(call, request)
    if name:
        return {"User": user_shape(find_entity(call, User, name))}
    # The root is no user of its own: its id is the account number, its age that of its first key.
    keys = call.tx.find(AccessKey, global_scope(call), "user", "")
    created_at = min((key.created_at for key in keys), default=0.0)
    root = call.caller
    return {"User": {"Path": "/", "UserId": root.user_id, "Arn": root.arn, "CreateDate": created_at}}


@on_entity("UpdateUser", User)
def update_user(call: Call, request: Request) -> Result:
    user = find_entity(call, User, request["UserName"])
    name = request.get("NewUserName", user.name)
    if name.lower() != user.name.lower():
        check_name("newUserName", name, limits.NAME_LENGTH["user"])
        refuse_duplicate(call, User, name, f"User with name {name} already exists.")
    path = check_path(request, "NewPath") if "NewPath" in request else user.path
    call.tx.delete(user)
    call.tx.insert(msgspec.structs.replace(user, name=name, path=path))
    for key in call.tx.find(AccessKey, user.scope, "user", user.name):
        call.tx.put(msgspec.structs.replace(key, user_name=name))
    return None


@on_entity("DeleteUser", User)
def delete_user(call: Call, request: Request) -> Result:
    user = find_entity(call, User, request["UserName"])
    if call.tx.find(AccessKey, user.scope, "user", user.name):
        raise delete_conflict("Cannot delete entity, must delete access keys first.")
    refuse_to_orphan_policies(user)
    if user.groups:
        raise delete_conflict("Cannot delete entity, must remove users from group first.")
    call.tx.delete(user)
    return None


@on_resource("ListUsers", lambda request: f"user{request.get('PathPrefix', '/')}")
def list_users(call: Call, request: Request) -> Result:
    prefix = request.get("PathPrefix", "/")
    users = [user for user in call.tx.scan(User, global_scope(call)) if user.path.startswith(prefix)]
    shown, more = page(request, users, lambda user: user.name)
    return {"Users": [user_shape(user, detailed=False) for user in shown], **more}
