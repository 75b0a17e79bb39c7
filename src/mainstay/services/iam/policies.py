"""Managed policies: create, show, list, delete, and who uses them."""

from __future__ import annotations

from typing import Any

from mainstay.model.errors import ApiError
from mainstay.model.iam import Entity, ManagedPolicy, PolicyVersion
from mainstay.services.iam import identifiers, limits
from mainstay.services.iam.aws_managed import aws_managed_policies
from mainstay.services.iam.checks import (
    check_description,
    check_managed_document,
    check_name,
    check_path,
    check_tags,
    delete_conflict,
    validation_error,
)
from mainstay.services.iam.lookup import (
    find_own_policy,
    find_policy,
    global_scope,
    refuse_duplicate,
    refuse_over_quota,
)
from mainstay.services.iam.pages import page
from mainstay.services.iam.shapes import policy_shape
from mainstay.services.iam.table import on_policy, on_resource
from mainstay.services.iam.usage import policy_usage
from mainstay.services.operations import Call, Request, Result


@on_resource("CreatePolicy", lambda request: f"policy{request.get('Path', '/')}{request['PolicyName']}")
def create_policy(call: Call, request: Request) -> Result:
    scope, now = global_scope(call), call.clock.wall()
    name = check_name("policyName", request["PolicyName"], limits.NAME_LENGTH["policy"])
    path = check_path(request, policy=True)
    tags = check_tags(request.get("Tags", ()), {})
    description = check_description(request)
    check_managed_document(request["PolicyDocument"])
    refuse_duplicate(
        call, ManagedPolicy, name, f"A policy called {name} already exists. Duplicate names are not allowed."
    )
    refuse_over_quota(call.tx.count(ManagedPolicy, scope), limits.POLICIES_PER_ACCOUNT, "PoliciesPerAccount")
    policy = ManagedPolicy(
        scope=scope,
        name=name,
        id=identifiers.unique_id(call.randomness, identifiers.POLICY),
        path=path,
        description=description,
        created_at=now,
        updated_at=now,
        default_version_id="v1",
        next_version=2,
        versions=(PolicyVersion(version_id="v1", document=request["PolicyDocument"], created_at=now),),
        tags=tags,
    )
    call.tx.insert(policy)
    return {"Policy": policy_shape(policy, 0, 0)}


@on_policy("GetPolicy")
def get_policy(call: Call, request: Request) -> Result:
    policy = find_policy(call, request["PolicyArn"])
    usage = policy_usage(call)[policy.arn]
    return {"Policy": policy_shape(policy, len(usage.attached), len(usage.boundary_of))}


@on_policy("DeletePolicy")
def delete_policy(call: Call, request: Request) -> Result:
    policy = find_own_policy(call, request["PolicyArn"])
    usage = policy_usage(call)[policy.arn]
    if usage.attached or usage.boundary_of:
        raise delete_conflict("Cannot delete a policy attached to entities.")
    if len(policy.versions) > 1:
        raise delete_conflict(
            "This policy has more than one version. Before you delete a policy, you must delete the policy's versions."
            " The default version is deleted with the policy."
        )
    call.tx.delete(policy)
    return None


@on_resource("ListPolicies", lambda request: f"policy path {request.get('PathPrefix', '/')}")
def list_policies(call: Call, request: Request) -> Result:
    wanted, prefix = request.get("Scope", "All"), request.get("PathPrefix", "/")
    policies = list(call.tx.scan(ManagedPolicy, global_scope(call))) if wanted != "AWS" else []
    if wanted != "Local":
        policies += aws_managed_policies().values()
    usage = policy_usage(call)
    use = request.get("PolicyUsageFilter")

    def counts(policy: ManagedPolicy) -> tuple[int, int]:
        used = usage.get(policy.arn)
        return (len(used.attached), len(used.boundary_of)) if used else (0, 0)

    def is_wanted(policy: ManagedPolicy) -> bool:
        attached, boundaries = counts(policy)
        if use == "PermissionsBoundary":
            return boundaries > 0
        if use == "PermissionsPolicy" or request.get("OnlyAttached"):
            return attached > 0
        return True

    chosen = [policy for policy in policies if policy.path.startswith(prefix) and is_wanted(policy)]
    shown, more = page(request, chosen, lambda policy: policy.arn)
    return {"Policies": [policy_shape(policy, *counts(policy), detailed=False) for policy in shown], **more}


@on_policy("ListEntitiesForPolicy")
def list_entities_for_policy(call: Call, request: Request) -> Result:
    policy = find_policy(call, request["PolicyArn"])
    usage = policy_usage(call)[policy.arn]
    use, prefix = request.get("PolicyUsageFilter"), request.get("PathPrefix", "/")
    users_of = [] if use == "PermissionsBoundary" else usage.attached
    bounded = [] if use == "PermissionsPolicy" else usage.boundary_of
    entities: dict[str, Entity] = {
        entity.arn: entity for entity in [*users_of, *bounded] if entity.path.startswith(prefix)
    }
    if nouns := _entity_filter(request):
        entities = {arn: entity for arn, entity in entities.items() if entity.NOUN in nouns}
    shown, more = page(request, entities.values(), lambda entity: entity.arn)
    result: dict[str, Any] = {"PolicyGroups": [], "PolicyUsers": [], "PolicyRoles": [], **more}
    for entity in shown:
        title = entity.NOUN.title()
        result[f"Policy{title}s"].append({f"{title}Name": entity.name, f"{title}Id": entity.id})
    return result


def _entity_filter(request: Request) -> tuple[str, ...]:
    wanted = request.get("EntityFilter")
    if wanted is None:
        return ()
    if wanted in ("LocalManagedPolicy", "AWSManagedPolicy"):
        raise ApiError("InvalidInputException", "EntityFilter must be User, Role or Group for this operation.")
    if wanted not in ("User", "Role", "Group"):
        raise validation_error(f"EntityFilter {wanted!r} is none of User, Role, Group.")
    return (wanted.lower(),)
