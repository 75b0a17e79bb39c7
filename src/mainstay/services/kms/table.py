"""The table of KMS's operations. Those on a key are authorised here and not by the front: a key has a policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from mainstay.model.errors import ApiError
from mainstay.model.kms import GrantConstraints, KmsGrant, KmsKey
from mainstay.services.kms.authorization import Context, Use, authorize_absent, authorize_use, tag_keys
from mainstay.services.kms.lookup import ALIAS, absent, arn_of, find_key, read_name
from mainstay.services.operations import Call, Handler, Operations, Request, Result

operations = Operations("kms")

KeyHandler = Callable[[Call, Request, KmsKey], Result]


def on_key(name: str, *, aliases: bool = False) -> Callable[[KeyHandler], Handler]:
    """Registers an operation on the key that `KeyId` names: by key id or ARN, with `aliases` by alias too."""

    def register(handler: KeyHandler) -> Handler:
        def handle(call: Call, request: Request) -> Result:
            use = Use(operation=name, context=request_keys(name, request), delegated=delegated(name, request))
            return handler(call, request, permitted_key(call, request, request["KeyId"], use, aliases=aliases))

        return operations.handles(name, demands=nothing)(handle)

    return register


def nothing(_call: Call, _request: Request) -> Sequence[Any]:
    """The demands of operations that authorise for themselves."""
    return ()


def permitted_key(call: Call, request: Request, named: str, use: Use, *, aliases: bool = True) -> KmsKey:
    """The key that is named, if the caller may use it so. Raises `ApiError` AccessDenied, NotFoundException."""
    check_grant_tokens(call, request)
    name = read_name(call.scope, named, aliases=aliases)
    if name.startswith(ALIAS):
        use = msgspec.structs.replace(use, alias=name)
    key = find_key(call.tx, call.scope, name)
    if key is None:
        authorize_absent(call, arn_of(call.scope, name), use)
        raise absent(call.scope, name)
    authorize_use(call, key, use)
    return key


def check_grant_tokens(call: Call, request: Request) -> None:
    """Grants count from the moment they are made, so a token adds nothing; one that never was is still refused."""
    for token in request.get("GrantTokens") or ():
        if not call.tx.find(KmsGrant, call.scope, "token", token):
            raise ApiError("InvalidGrantTokenException", "The grant token is not valid: its grant is not there.")


def request_keys(name: str, request: Request) -> Context:
    """The condition keys that the members of a request give."""
    context = tag_keys(request)
    for member, key in (
        ("BypassPolicyLockoutSafetyCheck", "kms:BypassPolicyLockoutSafetyCheck"),
        ("PendingWindowInDays", "kms:ScheduleKeyDeletionPendingWindowInDays"),
        ("RotationPeriodInDays", "kms:RotationPeriodInDays"),
        ("GranteePrincipal", "kms:GranteePrincipal"),
        ("RetiringPrincipal", "kms:RetiringPrincipal"),
    ):
        if request.get(member) is not None:
            value = request[member]
            context[key] = str(value).lower() if isinstance(value, bool) else str(value)
    if name == "CreateGrant":
        context["kms:GrantOperations"] = list(request["Operations"])
        context["kms:GrantIsForAWSResource"] = "false"
        constraints: dict[str, Any] = request.get("Constraints") or {}
        if kinds := [kind for kind, pairs in constraints.items() if pairs]:
            context["kms:GrantConstraintType"] = kinds[0]
    elif name in ("ListGrants", "RevokeGrant"):
        context["kms:GrantIsForAWSResource"] = "false"
    return context


def delegated(name: str, request: Request) -> tuple[tuple[str, ...], GrantConstraints] | None:
    """What a CreateGrant gives away, None for every other operation."""
    if name != "CreateGrant":
        return None
    return tuple(request["Operations"]), constraints_of(request)


def constraints_of(request: Request) -> GrantConstraints:
    """The constraints in a CreateGrant request. An empty one is none: Terraform sends it beside the other kind."""
    given: dict[str, Any] = request.get("Constraints") or {}
    return GrantConstraints(
        subset=given.get("EncryptionContextSubset") or None, equals=given.get("EncryptionContextEquals") or None
    )
