"""Policies of users, groups and roles: attached, inline, and permissions boundaries.

The operations differ between the three kinds only in their names, so each is written once and registered for all.
"""

from __future__ import annotations

from functools import partial

import msgspec

from mainstay.decide.policy import policy_size
from mainstay.model.errors import ApiError
from mainstay.model.iam import Entity, Role, User
from mainstay.services.iam import limits
from mainstay.services.iam.checks import check_document, check_name, limit_exceeded
from mainstay.services.iam.lookup import (
    ENTITY_KINDS,
    find_attachable_policy,
    find_entity,
    find_policy,
    no_such_entity,
    read_policy,
    refuse_over_quota,
)
from mainstay.services.iam.pages import page
from mainstay.services.iam.roles import modifiable_role
from mainstay.services.iam.shapes import encode_document
from mainstay.services.iam.table import on_entity
from mainstay.services.operations import Call, Request, Result


def _named(kind: type[Entity], call: Call, request: Request) -> Entity:
    return find_entity(call, kind, request[f"{kind.NOUN.title()}Name"])


def _to_change(kind: type[Entity], call: Call, request: Request) -> Entity:
    return modifiable_role(call, request["RoleName"]) if kind is Role else _named(kind, call, request)


def _attach(kind: type[Entity], call: Call, request: Request) -> Result:
    entity = _to_change(kind, call, request)
    policy = find_attachable_policy(call, request["PolicyArn"])
    if policy.path.startswith("/aws-service-role/"):
        raise ApiError("PolicyNotAttachableException", "Cannot attach a Service Role Policy to a Customer Role.")
    if policy.arn not in entity.attached_policies:
        quota = limits.ATTACHED_POLICIES_PER_ENTITY
        refuse_over_quota(len(entity.attached_policies), quota, f"PoliciesPer{kind.NOUN.title()}")
        attached = (*entity.attached_policies, policy.arn)
        call.tx.put(msgspec.structs.replace(entity, attached_policies=attached))
    return None


def _detach(kind: type[Entity], call: Call, request: Request) -> Result:
    entity, arn = _to_change(kind, call, request), request["PolicyArn"]
    if arn not in entity.attached_policies:
        find_policy(call, arn)
        raise no_such_entity(f"Policy {arn} was not found.")
    rest = tuple(each for each in entity.attached_policies if each != arn)
    call.tx.put(msgspec.structs.replace(entity, attached_policies=rest))
    return None


def _list_attached(kind: type[Entity], call: Call, request: Request) -> Result:
    entity, prefix = _named(kind, call, request), request.get("PathPrefix", "/")
    policies = [read_policy(call.tx, entity.scope, arn) for arn in entity.attached_policies]
    chosen = [policy for policy in policies if policy and policy.path.startswith(prefix)]
    shown, more = page(request, chosen, lambda policy: policy.arn)
    return {"AttachedPolicies": [{"PolicyName": each.name, "PolicyArn": each.arn} for each in shown], **more}


def _put_inline(kind: type[Entity], call: Call, request: Request) -> Result:
    entity = _to_change(kind, call, request)
    name = check_name("policyName", request["PolicyName"], limits.NAME_LENGTH["policy"])
    check_document("policyDocument", request["PolicyDocument"])
    policies = {**entity.inline_policies, name: request["PolicyDocument"]}
    quota = limits.INLINE_POLICY_SIZE[kind.NOUN]
    if sum(policy_size(text) for text in policies.values()) > quota:
        raise limit_exceeded(f"Maximum policy size of {quota} bytes exceeded for {kind.NOUN} {entity.name}")
    call.tx.put(msgspec.structs.replace(entity, inline_policies=policies))
    return None


def _inline(entity: Entity, name: str) -> str:
    try:
        return entity.inline_policies[name]
    except KeyError:
        raise no_such_entity(f"The {entity.NOUN} policy with name {name} cannot be found.") from None


def _get_inline(kind: type[Entity], call: Call, request: Request) -> Result:
    entity, name = _named(kind, call, request), request["PolicyName"]
    document = encode_document(_inline(entity, name))
    return {f"{kind.NOUN.title()}Name": entity.name, "PolicyName": name, "PolicyDocument": document}


def _delete_inline(kind: type[Entity], call: Call, request: Request) -> Result:
    entity, name = _to_change(kind, call, request), request["PolicyName"]
    _inline(entity, name)
    rest = {each: text for each, text in entity.inline_policies.items() if each != name}
    call.tx.put(msgspec.structs.replace(entity, inline_policies=rest))
    return None


def _list_inline(kind: type[Entity], call: Call, request: Request) -> Result:
    shown, more = page(request, _named(kind, call, request).inline_policies, str)
    return {"PolicyNames": shown, **more}


def _put_boundary(kind: type[User] | type[Role], call: Call, request: Request) -> Result:
    entity = _to_change(kind, call, request)
    policy = find_attachable_policy(call, request["PermissionsBoundary"])
    call.tx.put(msgspec.structs.replace(entity, permissions_boundary=policy.arn))
    return None


def _delete_boundary(kind: type[User] | type[Role], call: Call, request: Request) -> Result:
    entity = _to_change(kind, call, request)
    if not getattr(entity, "permissions_boundary", ""):
        raise no_such_entity(f"No permissions boundary is set for the {kind.NOUN} {entity.name}.")
    call.tx.put(msgspec.structs.replace(entity, permissions_boundary=""))
    return None


OPERATIONS = {
    "Attach{}Policy": _attach,
    "Detach{}Policy": _detach,
    "ListAttached{}Policies": _list_attached,
    "Put{}Policy": _put_inline,
    "Get{}Policy": _get_inline,
    "Delete{}Policy": _delete_inline,
    "List{}Policies": _list_inline,
}
for _kind in ENTITY_KINDS:
    for _name, _handler in OPERATIONS.items():
        on_entity(_name.format(_kind.NOUN.title()), _kind)(partial(_handler, _kind))
_bounded: tuple[type[User] | type[Role], ...] = (User, Role)
for _limited in _bounded:
    on_entity(f"Put{_limited.NOUN.title()}PermissionsBoundary", _limited)(partial(_put_boundary, _limited))
    on_entity(f"Delete{_limited.NOUN.title()}PermissionsBoundary", _limited)(partial(_delete_boundary, _limited))
