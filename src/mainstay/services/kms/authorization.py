"""Who may use a key: the key policy first of all, identity policies where it names the account, and grants.

A key without a policy that speaks for the caller, or for the account, serves nobody, not even the root: that is KMS's
rule and the reason for `BypassPolicyLockoutSafetyCheck`. A grant counts as one more allowing statement of the key
policy, so `decide.policy` decides everything and a deny anywhere wins. A key that is disabled or absent is told only to
those who may act on it. Source of the condition keys: KMS developer guide, "AWS KMS condition keys".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import msgspec

from mainstay.decide.policy import (
    AccessRequest,
    PolicyDocument,
    PolicyKind,
    Principal,
    evaluate,
    parse_policy,
)
from mainstay.model.iam import Role
from mainstay.model.kms import KEY_SPEC, KEY_USAGE, ORIGIN, GrantConstraints, KmsGrant, KmsKey
from mainstay.model.records import GLOBAL_REGION, Scope
from mainstay.services.iam.authorization import policies_of_entity, principal_of, require
from mainstay.services.kms.lookup import aliases_of
from mainstay.services.operations import Call, Demand
from mainstay.store import Reader

Context: TypeAlias = dict[str, str | list[str]]

UNCONSTRAINED = frozenset({"CreateGrant", "DescribeKey"})
"""Operations that have no encryption context, to which a grant's constraints therefore do not apply."""


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done with a key.

    `operation` is the name of a grant operation and, after "kms:", of the IAM action. `encryption_context` is None for
    operations that have none. `via` is the service on whose way a user reached the key ("secretsmanager"). `alias` is
    the alias that the request named. `delegated` is what a CreateGrant would give away. `context` are further
    condition keys.
    """

    operation: str
    encryption_context: dict[str, str] | None = None
    via: str = ""
    alias: str = ""
    delegated: tuple[tuple[str, ...], GrantConstraints] | None = None
    context: Context = {}


def authorize_use(call: Call, key: KmsKey, use: Use) -> None:
    """Raises `ApiError` AccessDenied unless the caller may do this with the key."""
    demand = Demand(action=f"kms:{use.operation}", resource=key.arn, context=condition_keys(call.tx, key, use))
    policy = effective_policy(call.tx, key, use, principal_of(call.caller))
    require(call, demand, policy, resource_policy_required=True)


def authorize_absent(call: Call, arn: str, use: Use) -> None:
    """As `authorize_use` for a key that is not there: only identity policies can speak of it."""
    require(call, Demand(action=f"kms:{use.operation}", resource=arn, context=_use_keys(call.caller.account_id, use)))


def role_may_use(reader: Reader, scope: Scope, role: Role, key: KmsKey, use: Use) -> bool:
    """Whether a session of this role, made by a service for itself, may do this with the key."""
    session = f"arn:aws:sts::{scope.account_id}:assumed-role/{role.name}/mainstay"
    principal = Principal(kind="role", arn=session, account_id=scope.account_id, role_arn=role.arn)
    context = condition_keys(reader, key, use) | {
        "aws:PrincipalArn": role.arn,
        "aws:PrincipalAccount": scope.account_id,
        "aws:PrincipalType": "AssumedRole",
        "aws:RequestedRegion": scope.region,
        "aws:SecureTransport": "true",
    }
    question = AccessRequest.of(f"kms:{use.operation}", key.arn, context, principal)
    policy = effective_policy(reader, key, use, principal)
    return evaluate(question, policies_of_entity(reader, role), policy, resource_policy_required=True).allowed


def effective_policy(reader: Reader, key: KmsKey, use: Use, principal: Principal) -> PolicyDocument:
    """The key policy with a statement for every grant that lets this principal do this."""
    policy = parse_policy(key.policy, PolicyKind.RESOURCE)
    statements = policy.statements
    for grant in _grants_of(reader, key, principal):
        if grant_covers(grant, use):
            statements += _as_policy(grant).statements
    return PolicyDocument(policy.version, statements)


def _grants_of(reader: Reader, key: KmsKey, principal: Principal) -> Iterable[KmsGrant]:
    names = {principal.arn, principal.role_arn, Scope(principal.account_id, GLOBAL_REGION).arn("iam", "root")}
    for name in sorted(names - {""}):
        yield from reader.find(KmsGrant, key.scope, "grantee", f"{key.key_id} {name}")


def _as_policy(grant: KmsGrant) -> PolicyDocument:
    statement = {
        "Sid": f"Grant {grant.grant_id}",
        "Effect": "Allow",
        "Principal": {"AWS": grant.grantee_principal},
        "Action": [f"kms:{name}" for name in grant.operations],
        "Resource": "*",
    }
    return parse_policy(json.dumps({"Version": "2012-10-17", "Statement": statement}), PolicyKind.RESOURCE)


def grant_covers(grant: KmsGrant, use: Use) -> bool:
    """Whether the grant allows this use: its operations, its constraints, and what may be handed on by CreateGrant.

    RetireGrant is about the very grant that allows it, not about the key; `grants` decides that.
    """
    if use.operation not in grant.operations or use.operation == "RetireGrant":
        return False
    if use.operation == "CreateGrant" and use.delegated is not None:
        operations, constraints = use.delegated
        return set(operations) <= set(grant.operations) and _at_least_as_strict(constraints, grant.constraints)
    if use.operation in UNCONSTRAINED:
        return True
    context = use.encryption_context or {}
    subset, equals = grant.constraints.subset, grant.constraints.equals
    return (subset is None or subset.items() <= context.items()) and (equals is None or equals == context)


def _at_least_as_strict(wanted: GrantConstraints, given: GrantConstraints) -> bool:
    if given.equals is not None and wanted.equals != given.equals:
        return False
    needed = (given.subset or {}).items()
    return any(one is not None and needed <= one.items() for one in (wanted.equals, wanted.subset)) or not needed


def condition_keys(reader: Reader, key: KmsKey, use: Use) -> Context:
    """The condition keys of a use: what the key carries and what the request says."""
    context: Context = {
        "kms:KeySpec": KEY_SPEC,
        "kms:KeyUsage": KEY_USAGE,
        "kms:KeyOrigin": ORIGIN,
        "kms:MultiRegion": "false",
    }
    if aliases := [alias.name for alias in aliases_of(reader, key)]:
        context["kms:ResourceAliases"] = aliases
    context |= {f"aws:ResourceTag/{name}": value for name, value in key.tags.items()}
    return context | _use_keys(key.scope.account_id, use, key.scope.region)


def _use_keys(account_id: str, use: Use, region: str = "") -> Context:
    context: Context = {"kms:CallerAccount": account_id}
    if use.alias:
        context["kms:RequestAlias"] = use.alias
    if use.via:
        context["kms:ViaService"] = f"{use.via}.{region}.amazonaws.com"
    if use.encryption_context is not None:
        context["kms:EncryptionAlgorithm"] = KEY_SPEC
        context |= {f"kms:EncryptionContext:{name}": value for name, value in use.encryption_context.items()}
        if use.encryption_context:
            context["kms:EncryptionContextKeys"] = sorted(use.encryption_context)
    return context | use.context


def tag_keys(request: Mapping[str, Any]) -> Context:
    """The condition keys of tags in a request."""
    tags = request.get("Tags") or ()
    context: Context = {f"aws:RequestTag/{tag['TagKey']}": tag["TagValue"] for tag in tags}
    if keys := [tag["TagKey"] for tag in tags] or list(request.get("TagKeys") or ()):
        context["aws:TagKeys"] = keys
    return context
