"""Grants: permissions on one key for one principal, given and taken back without touching policies.

They count from the moment they are made: there is no eventual consistency here that a grant token would bridge.
Source: KMS guide, "Grants in AWS KMS".
"""

from __future__ import annotations

import base64
import re
from typing import Any

from mainstay.host.randomness import HEX
from mainstay.model.errors import ApiError
from mainstay.model.kms import KmsGrant, KmsKey, key_arn
from mainstay.model.records import GLOBAL_REGION, Scope
from mainstay.services.iam.authorization import principal_of, require
from mainstay.services.iam.trust import principal_exists
from mainstay.services.kms import limits
from mainstay.services.kms.authorization import Use, authorize_use
from mainstay.services.kms.checks import finish_dry_run, validation
from mainstay.services.kms.lookup import absent, find_key, not_found, read_name, require_enabled
from mainstay.services.kms.pages import page
from mainstay.services.kms.table import constraints_of, nothing, on_key, operations
from mainstay.services.kms.view import show_grant
from mainstay.services.operations import Call, Demand, Request, Result

GRANT_ID_CHARACTERS = 64
TOKEN_BYTES = 72
SYMMETRIC = frozenset(
    "Decrypt Encrypt GenerateDataKey GenerateDataKeyWithoutPlaintext ReEncryptFrom ReEncryptTo CreateGrant RetireGrant"
    " DescribeKey".split()
)
_PRINCIPAL = re.compile(r"arn:aws:(iam|sts)::\d{12}:(root|(user|role|assumed-role|federated-user)/.+)")


@on_key("CreateGrant")
def create_grant(call: Call, request: Request, key: KmsKey) -> Result:
    """Makes a grant. A request with a name and all else as before gives the same grant."""
    require_enabled(key)
    for member in ("GranteePrincipal", "RetiringPrincipal"):
        if member in request and not _is_principal(call, request[member]):
            raise ApiError("InvalidArnException", f"ARN does not refer to a valid principal: {request[member]}")
    constraints = constraints_of(request)
    if constraints.subset is not None and constraints.equals is not None:
        raise validation("A grant can have EncryptionContextSubset or EncryptionContextEquals, not both.")
    chosen = tuple(dict.fromkeys(request["Operations"]))
    if not chosen:
        raise validation("Operations must name at least one operation.")
    if unfit := sorted(set(chosen) - SYMMETRIC):
        raise validation(f"Operation {unfit[0]} is not possible with a symmetric encryption key.")
    finish_dry_run(request)
    grant = KmsGrant(
        scope=call.scope,
        grant_id=call.randomness.text(GRANT_ID_CHARACTERS, HEX),
        token=base64.urlsafe_b64encode(call.randomness.token_bytes(TOKEN_BYTES)).decode(),
        key_id=key.key_id,
        grantee_principal=request["GranteePrincipal"],
        retiring_principal=request.get("RetiringPrincipal", ""),
        operations=chosen,
        constraints=constraints,
        name=request.get("Name", ""),
        issuing_account=Scope(call.scope.account_id, GLOBAL_REGION).arn("iam", "root"),
        created_at=call.clock.wall(),
    )
    present = call.tx.find(KmsGrant, call.scope, "key-id", key.key_id)
    same = next((one for one in present if grant.name and _content(one) == _content(grant)), None)
    if same is None:
        if len(present) >= limits.GRANTS_PER_KEY:
            raise ApiError("LimitExceededException", f"A key can have at most {limits.GRANTS_PER_KEY} grants.")
        call.tx.insert(grant)
    made = same or grant
    return {"GrantToken": made.token, "GrantId": made.grant_id}


@on_key("ListGrants")
def list_grants(call: Call, request: Request, key: KmsKey) -> Result:
    """The key's grants, ordered by id."""
    found = [
        grant
        for grant in call.tx.find(KmsGrant, call.scope, "key-id", key.key_id)
        if request.get("GrantId", grant.grant_id) == grant.grant_id
        and request.get("GranteePrincipal", grant.grantee_principal) == grant.grantee_principal
    ]
    shown, more = page(request, found, lambda grant: grant.grant_id, limits.PAGE_GRANTS)
    return {"Grants": [show_grant(grant, key.arn) for grant in shown]} | more


@operations.handles("ListRetirableGrants")
def list_retirable_grants(call: Call, request: Request) -> Result:
    """Every grant of the region that this principal may retire, ordered by id."""
    found = call.tx.find(KmsGrant, call.scope, "retiring", request["RetiringPrincipal"])
    shown, more = page(request, found, lambda grant: grant.grant_id, limits.PAGE_GRANTS)
    return {"Grants": [show_grant(grant, key_arn(call.scope, grant.key_id)) for grant in shown]} | more


@on_key("RevokeGrant")
def revoke_grant(call: Call, request: Request, key: KmsKey) -> Result:
    """Ends a grant, from the next call on."""
    grant = _grant_of(call, key, request["GrantId"])
    finish_dry_run(request)
    call.tx.delete(grant)
    return None


@operations.handles("RetireGrant", demands=nothing)
def retire_grant(call: Call, request: Request) -> Result:
    """As RevokeGrant, for the retiring principal, or the grantee of a grant that allows it; by token or by id."""
    token, named, grant_id = request.get("GrantToken"), request.get("KeyId"), request.get("GrantId")
    if bool(token) == bool(named and grant_id) or bool(named) != bool(grant_id):
        raise validation("Name the grant by GrantToken, or by KeyId and GrantId.")
    if token:
        found = call.tx.find(KmsGrant, call.scope, "token", token)
        if not found:
            raise ApiError("InvalidGrantTokenException", "The grant token is not valid: its grant is not there.")
        grant = found[0]
        key = find_key(call.tx, call.scope, grant.key_id)
    else:
        key_id = read_name(call.scope, str(named), aliases=False)
        key = find_key(call.tx, call.scope, key_id)
        if key is None:
            require(call, Demand(action="kms:RetireGrant", resource=key_arn(call.scope, key_id)))
            raise absent(call.scope, key_id)
        grant = _grant_of(call, key, str(grant_id))
    if key is not None and not _may_retire(call, grant):
        authorize_use(call, key, Use(operation="RetireGrant"))
    finish_dry_run(request)
    call.tx.delete(grant)
    return None


def _may_retire(call: Call, grant: KmsGrant) -> bool:
    principal = principal_of(call.caller)
    names = {principal.arn, principal.role_arn} - {""}
    return grant.retiring_principal in names or (grant.grantee_principal in names and "RetireGrant" in grant.operations)


def _grant_of(call: Call, key: KmsKey, grant_id: str) -> KmsGrant:
    grant = call.tx.get(KmsGrant, call.scope, grant_id)
    if grant is None or grant.key_id != key.key_id:
        raise not_found(f"Grant ID {grant_id} not found")
    return grant


def _is_principal(call: Call, arn: str) -> bool:
    return _PRINCIPAL.fullmatch(arn) is not None and principal_exists(call, arn)


def _content(grant: KmsGrant) -> tuple[Any, ...]:
    """What a repeated request has in common with the first."""
    return (
        grant.name, grant.grantee_principal, grant.retiring_principal, frozenset(grant.operations), grant.constraints,
    )  # fmt: skip
