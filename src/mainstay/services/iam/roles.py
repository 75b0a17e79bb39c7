"""Roles: create, show, change, delete, list."""

from __future__ import annotations

import msgspec

from mainstay.model.errors import ApiError
from mainstay.model.iam import Role
from mainstay.services.iam import identifiers, limits
from mainstay.services.iam.checks import (
    check_description,
    check_name,
    check_path,
    check_tags,
    validation_error,
)
from mainstay.services.iam.lookup import (
    find_attachable_policy,
    find_entity,
    global_scope,
    refuse_duplicate,
    refuse_over_quota,
    refuse_to_orphan_policies,
)
from mainstay.services.iam.pages import page
from mainstay.services.iam.shapes import role_shape
from mainstay.services.iam.table import on_entity, on_resource
from mainstay.services.iam.trust import check_trust_policy
from mainstay.services.operations import Call, Request, Result


def modifiable_role(call: Call, name: str) -> Role:
    """The role, unless it belongs to a service: those are changed by their service alone."""
    role = find_entity(call, Role, name)
    if role.service:
        raise ApiError(
            "UnmodifiableEntityException",
            f"Cannot perform the operation on the protected role '{role.name}' - this role is only modifiable by AWS",
        )
    return role


@on_entity("CreateRole", Role)
def create_role(call: Call, request: Request) -> Result:
    scope = global_scope(call)
    name = check_name("roleName", request["RoleName"], limits.NAME_LENGTH["role"])
    path = check_path(request)
    if path.startswith("/aws-service-role/"):
        raise validation_error("Roles with the path /aws-service-role/ can be created only by AWS services.")
    tags = check_tags(request.get("Tags", ()), {})
    boundary = request.get("PermissionsBoundary", "")
    if boundary:
        find_attachable_policy(call, boundary)
    description, duration_s = check_description(request), _check_duration(request, 3600)
    check_trust_policy(call, request["AssumeRolePolicyDocument"])
    refuse_duplicate(call, Role, name, f"Role with name {name} already exists.")
    refuse_over_quota(call.tx.count(Role, scope), limits.ROLES_PER_ACCOUNT, "RolesPerAccount")
    role = Role(
        scope=scope,
        name=name,
        id=identifiers.unique_id(call.randomness, identifiers.ROLE),
        path=path,
        created_at=call.clock.wall(),
        assume_role_policy=request["AssumeRolePolicyDocument"],
        description=description,
        max_session_duration_s=duration_s,
        permissions_boundary=boundary,
        tags=tags,
    )
    call.tx.insert(role)
    return {"Role": role_shape(role)}


@on_entity("GetRole", Role)
def get_role(call: Call, request: Request) -> Result:
    return {"Role": role_shape(find_entity(call, Role, request["RoleName"]))}


@on_resource("ListRoles", lambda request: f"role{request.get('PathPrefix', '/')}")
def list_roles(call: Call, request: Request) -> Result:
    prefix = request.get("PathPrefix", "/")
    roles = [role for role in call.tx.scan(Role, global_scope(call)) if role.path.startswith(prefix)]
    shown, more = page(request, roles, lambda role: role.name)
    return {"Roles": [role_shape(role, detailed=False) for role in shown], **more}


@on_entity("UpdateRole", Role)
def update_role(call: Call, request: Request) -> Result:
    role = modifiable_role(call, request["RoleName"])
    description = check_description(request) if "Description" in request else role.description
    duration_s = _check_duration(request, role.max_session_duration_s)
    call.tx.put(msgspec.structs.replace(role, description=description, max_session_duration_s=duration_s))
    return {}


@on_entity("UpdateRoleDescription", Role)
def update_role_description(call: Call, request: Request) -> Result:
    role = modifiable_role(call, request["RoleName"])
    role = msgspec.structs.replace(role, description=check_description(request))
    call.tx.put(role)
    return {"Role": role_shape(role)}


@on_entity("UpdateAssumeRolePolicy", Role)
def update_assume_role_policy(call: Call, request: Request) -> Result:
    role = modifiable_role(call, request["RoleName"])
    check_trust_policy(call, request["PolicyDocument"])
    call.tx.put(msgspec.structs.replace(role, assume_role_policy=request["PolicyDocument"]))
    return None


@on_entity("DeleteRole", Role)
def delete_role(call: Call, request: Request) -> Result:
    role = modifiable_role(call, request["RoleName"])
    refuse_to_orphan_policies(role)
    call.tx.delete(role)
    return None


@on_entity("ListInstanceProfilesForRole", Role)
def list_instance_profiles_for_role(call: Call, request: Request) -> Result:
    # There are no EC2 instances here and so no instance profiles; tools ask for them before they delete a role.
    find_entity(call, Role, request["RoleName"])
    return {"InstanceProfiles": [], "IsTruncated": False}


def _check_duration(request: Request, otherwise: int) -> int:
    duration_s: int = request.get("MaxSessionDuration", otherwise)
    least, most = limits.MAX_SESSION_DURATION_S
    if not least <= duration_s <= most:
        raise validation_error(
            f"1 validation error detected: Value '{duration_s}' at 'maxSessionDuration' failed to satisfy constraint:"
            f" Member must have value between {least} and {most}"
        )
    return duration_s
