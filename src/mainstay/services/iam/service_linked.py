"""Service-linked roles: made for one service, changed and removed through it only."""

from __future__ import annotations

import json

import msgspec

from mainstay.model.db_instance import DBInstance
from mainstay.model.errors import ApiError
from mainstay.model.iam import Role
from mainstay.model.records import Scope
from mainstay.services.iam import identifiers
from mainstay.services.iam.checks import check_description
from mainstay.services.iam.lookup import find_entity, global_scope, no_such_entity
from mainstay.services.iam.shapes import role_shape
from mainstay.services.iam.table import on_entity, on_resource, operations
from mainstay.services.operations import Call, Request, Result
from mainstay.store.base import Reader


class LinkedService(msgspec.Struct, frozen=True):
    """A service that has a role of its own: the role's name and the AWS policy attached to it."""

    role_name: str
    policy_arn: str


LINKED_SERVICES = {
    "rds.amazonaws.com": LinkedService(
        "AWSServiceRoleForRDS", "arn:aws:iam::aws:policy/aws-service-role/AmazonRDSServiceRolePolicy"
    )
}


def _resource(request: Request) -> str:
    service = request["AWSServiceName"]
    linked = LINKED_SERVICES.get(service)
    return f"role/aws-service-role/{service}/{linked.role_name if linked else '*'}"


@on_resource("CreateServiceLinkedRole", _resource)
def create_service_linked_role(call: Call, request: Request) -> Result:
    service = request["AWSServiceName"]
    linked = LINKED_SERVICES.get(service)
    if linked is None:
        raise ApiError("InvalidInputException", f"Service-linked roles are not supported for {service[:256]}.")
    if request.get("CustomSuffix"):
        raise ApiError("InvalidInputException", f"Custom suffix is not allowed for {service}")
    scope = global_scope(call)
    if call.tx.get(Role, scope, linked.role_name):
        raise ApiError(
            "InvalidInputException",
            f"Service role name {linked.role_name} has been taken in this account, please try a different suffix.",
        )
    trust = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
    role = Role(
        scope=scope,
        name=linked.role_name,
        id=identifiers.unique_id(call.randomness, identifiers.ROLE),
        path=f"/aws-service-role/{service}/",
        created_at=call.clock.wall(),
        attached_policies=(linked.policy_arn,),
        assume_role_policy=json.dumps({"Version": "2012-10-17", "Statement": [trust]}),
        description=check_description(request),
        service=service,
    )
    call.tx.insert(role)
    return {"Role": role_shape(role)}


@on_entity("DeleteServiceLinkedRole", Role)
def delete_service_linked_role(call: Call, request: Request) -> Result:
    role = find_entity(call, Role, request["RoleName"])
    if not role.service:
        raise no_such_entity(f"The role with name {role.name} is not a service-linked role.")
    if not in_use(call.tx, role.scope):
        call.tx.delete(role)
    task = identifiers.unique_id(call.randomness, "").lower()
    return {"DeletionTaskId": f"task{role.path}{role.name}/{task}"}


@operations.handles("GetServiceLinkedRoleDeletionStatus")
def get_service_linked_role_deletion_status(call: Call, request: Request) -> Result:
    # The task needs no record: it has failed if the role is still there, for deletion happens at once or not at all.
    parts = request["DeletionTaskId"].split("/")
    if len(parts) != 5 or parts[:2] != ["task", "aws-service-role"] or parts[2] not in LINKED_SERVICES:
        raise no_such_entity("The deletion task with the given id cannot be found.")
    if call.tx.get(Role, global_scope(call), parts[3]) is None:
        return {"Status": "SUCCEEDED"}
    return {"Status": "FAILED", "Reason": {"Reason": "The role is used by DB instances of this account."}}


def in_use(tx: Reader, scope: Scope) -> bool:
    """Whether the account has DB instances, for which RDS needs its role."""
    return any(instance.scope.account_id == scope.account_id for instance in tx.scan(DBInstance, None))
