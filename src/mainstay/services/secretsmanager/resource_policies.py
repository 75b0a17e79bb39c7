"""Policies attached to secrets. Source: Secrets Manager user guide, "Resource-based policies"."""

from __future__ import annotations

from typing import Any

import msgspec

from mainstay.decide.policy import MalformedPolicy, PolicyKind, parse_policy
from mainstay.model.errors import ApiError
from mainstay.model.secrets_manager import StoredSecret
from mainstay.services.iam.authorization import require
from mainstay.services.operations import Call, Demand, Request, Result
from mainstay.services.secretsmanager.checks import check_secret_id
from mainstay.services.secretsmanager.lookup import find_secret, not_found
from mainstay.services.secretsmanager.table import demand, on_secret, operations
from mainstay.services.secretsmanager.view import named

# A condition on one of these names a fixed set of callers, so that a wildcard principal is not everybody.
_NARROWING = frozenset(
    "aws:principalarn aws:principalaccount aws:principalorgid aws:principalorgpaths aws:sourcearn aws:sourceaccount"
    " aws:sourceip aws:sourcevpc aws:sourcevpce aws:userid".split()
)


@on_secret("GetResourcePolicy", deleted_too=True)
def get_resource_policy(_call: Call, _request: Request, secret: StoredSecret) -> Result:
    """The policy's text as it was given; none without one."""
    return named(secret) | ({"ResourcePolicy": secret.resource_policy} if secret.resource_policy else {})


@on_secret("PutResourcePolicy")
def put_resource_policy(call: Call, request: Request, secret: StoredSecret) -> Result:
    """Replaces the policy. It must not lock out the caller, and with BlockPublicPolicy not let in everybody."""
    text = request["ResourcePolicy"]
    _check_syntax(text)
    if request.get("BlockPublicPolicy") and is_public(text):
        raise ApiError(
            "PublicPolicyException",
            "The BlockPublicPolicy parameter is set to true, and the resource policy did not prevent broad access to"
            " the secret.",
        )
    changed = msgspec.structs.replace(secret, resource_policy=text)
    if (lockout := _lockout(call, request, changed)) is not None:
        raise ApiError("MalformedPolicyDocumentException", lockout)
    call.tx.put(changed)
    return named(secret)


@on_secret("DeleteResourcePolicy")
def delete_resource_policy(call: Call, _request: Request, secret: StoredSecret) -> Result:
    """Removes the policy; identity policies alone decide from now on."""
    call.tx.put(msgspec.structs.replace(secret, resource_policy=""))
    return named(secret)


@operations.handles("ValidateResourcePolicy", demands=lambda _call, _request: ())
def validate_resource_policy(call: Call, request: Request) -> Result:
    """What PutResourcePolicy would say to this policy, without attaching it."""
    secret: StoredSecret | None = None
    for name in ("ValidateResourcePolicy", "PutResourcePolicy"):
        if "SecretId" not in request:
            require(call, Demand(action=f"secretsmanager:{name}"))
            continue
        secret = find_secret(call.tx, call.scope, check_secret_id(request["SecretId"]))
        demand(call, request, name, secret)
        if secret is None:
            raise not_found()
    text = request["ResourcePolicy"]
    _check_syntax(text)
    found: list[dict[str, Any]] = []
    if is_public(text):
        message = "The policy allows broad access to the secret: it names every principal without narrowing conditions."
        found.append({"CheckName": "PUBLIC_ACCESS", "ErrorMessage": message})
    if secret is not None:
        lockout = _lockout(call, request, msgspec.structs.replace(secret, resource_policy=text))
        if lockout is not None:
            found.append({"CheckName": "LOCKOUT", "ErrorMessage": lockout})
    return {"PolicyValidationPassed": not found, "ValidationErrors": found}


def _check_syntax(text: str) -> None:
    try:
        parse_policy(text, PolicyKind.RESOURCE)
    except MalformedPolicy as error:
        raise ApiError(
            "MalformedPolicyDocumentException", f"This resource policy contains a syntax error. {error.message}"
        ) from error


def is_public(text: str) -> bool:
    """Whether a policy that parses lets everybody in: an Allow for any principal that no condition narrows."""
    parsed = parse_policy(text, PolicyKind.RESOURCE)
    return any(
        statement.allow
        and statement.principals is not None
        and "*" in statement.principals.aws
        and not any(condition.key in _NARROWING for condition in statement.conditions)
        for statement in parsed.statements
    )


def _lockout(call: Call, request: Request, changed: StoredSecret) -> str | None:
    try:
        demand(call, {**request, "SecretId": changed.arn}, "PutResourcePolicy", changed)
    except ApiError:
        return "This resource policy will not allow you to manage this secret in the future."
    return None
