"""The account as a whole: its alias, counts and quotas, and the full list of who may do what."""

from __future__ import annotations

import re
from typing import Any

from mainstay.model.errors import ApiError
from mainstay.model.iam import AccessKey, AccountAlias, Entity, Group, ManagedPolicy, Role, User
from mainstay.services.iam import limits
from mainstay.services.iam.aws_managed import aws_managed_policies
from mainstay.services.iam.checks import validation_error
from mainstay.services.iam.lookup import global_scope, no_such_entity, read_policy
from mainstay.services.iam.pages import page
from mainstay.services.iam.shapes import (
    encode_document,
    group_shape,
    policy_shape,
    role_shape,
    user_shape,
    version_shape,
)
from mainstay.services.iam.table import operations
from mainstay.services.iam.usage import Usage, policy_usage
from mainstay.services.operations import Call, Request, Result

_ALIAS = re.compile(r"(?=.{3,63}\Z)[a-z0-9]+(-[a-z0-9]+)*")


@operations.handles("ListAccountAliases")
def list_account_aliases(call: Call, request: Request) -> Result:
    shown, more = page(request, call.tx.scan(AccountAlias, global_scope(call)), AccountAlias.key)
    return {"AccountAliases": [each.alias for each in shown], **more}


@operations.handles("CreateAccountAlias")
def create_account_alias(call: Call, request: Request) -> Result:
    scope, alias = global_scope(call), request["AccountAlias"]
    if not _ALIAS.fullmatch(alias):
        raise validation_error(
            "The specified value for accountAlias is invalid. It must be 3 to 63 lower-case letters, digits and single"
            " dashes."
        )
    for present in call.tx.scan(AccountAlias, scope):
        call.tx.delete(present)
    call.tx.insert(AccountAlias(scope=scope, alias=alias))
    return None


@operations.handles("DeleteAccountAlias")
def delete_account_alias(call: Call, request: Request) -> Result:
    alias = call.tx.get(AccountAlias, global_scope(call), request["AccountAlias"])
    if alias is None:
        raise no_such_entity(f"The account alias {request['AccountAlias']} cannot be found.")
    call.tx.delete(alias)
    return None


@operations.handles("GetAccountSummary")
def get_account_summary(call: Call, _request: Request) -> Result:
    scope = global_scope(call)
    policies = call.tx.scan(ManagedPolicy, scope)
    entities = limits.ATTACHED_POLICIES_PER_ENTITY
    summary = {
        "Users": call.tx.count(User, scope),
        "UsersQuota": limits.USERS_PER_ACCOUNT,
        "Groups": call.tx.count(Group, scope),
        "GroupsQuota": limits.GROUPS_PER_ACCOUNT,
        "Roles": call.tx.count(Role, scope),
        "RolesQuota": limits.ROLES_PER_ACCOUNT,
        "Policies": len(policies),
        "PoliciesQuota": limits.POLICIES_PER_ACCOUNT,
        "PolicyVersionsInUse": sum(len(policy.versions) for policy in policies),
        "PolicyVersionsInUseQuota": limits.POLICIES_PER_ACCOUNT * limits.VERSIONS_PER_POLICY,
        "VersionsPerPolicyQuota": limits.VERSIONS_PER_POLICY,
        "PolicySizeQuota": limits.MANAGED_POLICY_SIZE,
        "UserPolicySizeQuota": limits.INLINE_POLICY_SIZE["user"],
        "GroupPolicySizeQuota": limits.INLINE_POLICY_SIZE["group"],
        "RolePolicySizeQuota": limits.INLINE_POLICY_SIZE["role"],
        "AssumeRolePolicySizeQuota": limits.TRUST_POLICY_SIZE,
        "AttachedPoliciesPerUserQuota": entities,
        "AttachedPoliciesPerGroupQuota": entities,
        "AttachedPoliciesPerRoleQuota": entities,
        "GroupsPerUserQuota": limits.GROUPS_PER_USER,
        "AccessKeysPerUserQuota": limits.ACCESS_KEYS_PER_USER,
        "AccountAccessKeysPresent": int(bool(call.tx.find(AccessKey, scope, "user", ""))),
        "AccountMFAEnabled": 0,
        "AccountPasswordPresent": 0,
        "AccountSigningCertificatesPresent": 0,
        "GlobalEndpointTokenVersion": 1,
        "InstanceProfiles": 0,
        "MFADevices": 0,
        "MFADevicesInUse": 0,
        "Providers": 0,
        "ServerCertificates": 0,
    }
    return {"SummaryMap": summary}


@operations.handles("GetAccountAuthorizationDetails")
def get_account_authorization_details(call: Call, request: Request) -> Result:
    scope, wanted = global_scope(call), set(request.get("Filter", ()))
    if unknown := wanted - {"User", "Role", "Group", "LocalManagedPolicy", "AWSManagedPolicy"}:
        raise ApiError("ValidationError", f"Filter {sorted(unknown)[0]!r} names no kind of entity.")
    usage = policy_usage(call)
    found: list[Entity | ManagedPolicy] = []
    for name, kind in (("User", User), ("Group", Group), ("Role", Role), ("LocalManagedPolicy", ManagedPolicy)):
        if not wanted or name in wanted:
            found += call.tx.scan(kind, scope)
    if not wanted or "AWSManagedPolicy" in wanted:
        found += [policy for arn, policy in aws_managed_policies().items() if arn in usage]
    shown, more = page(request, found, lambda item: item.arn)
    result: dict[str, Any] = {
        "UserDetailList": [], "GroupDetailList": [], "RoleDetailList": [], "Policies": [], **more
    }  # fmt: skip
    for item in shown:
        if isinstance(item, ManagedPolicy):
            result["Policies"].append(_policy_detail(item, usage.get(item.arn, Usage())))
        else:
            result[f"{item.NOUN.title()}DetailList"].append(_entity_detail(call, item))
    return result


def _policy_detail(policy: ManagedPolicy, usage: Usage) -> dict[str, Any]:
    shape = policy_shape(policy, len(usage.attached), len(usage.boundary_of))
    del shape["Tags"]
    return shape | {"PolicyVersionList": [version_shape(policy, version) for version in policy.versions]}


def _entity_detail(call: Call, entity: Entity) -> dict[str, Any]:
    policies = [
        {"PolicyName": name, "PolicyDocument": encode_document(text)} for name, text in entity.inline_policies.items()
    ]
    attached = [read_policy(call.tx, entity.scope, arn) for arn in entity.attached_policies]
    shape: dict[str, Any] = {
        f"{entity.NOUN.title()}PolicyList": policies,
        "AttachedManagedPolicies": [
            {"PolicyName": policy.name, "PolicyArn": policy.arn} for policy in attached if policy is not None
        ],
    }
    if isinstance(entity, User):
        return user_shape(entity) | shape | {"GroupList": list(entity.groups)}
    if isinstance(entity, Role):
        role = role_shape(entity)
        role.pop("Description", None)
        del role["MaxSessionDuration"]
        return role | shape | {"InstanceProfileList": []}
    return shape | (group_shape(entity) if isinstance(entity, Group) else {})
