"""Key policies. A key has exactly one, named "default"."""

from __future__ import annotations

import msgspec

from mainstay.model.errors import ApiError
from mainstay.model.kms import KmsKey
from mainstay.services.kms import limits
from mainstay.services.kms.authorization import Use, authorize_use
from mainstay.services.kms.checks import check_policy
from mainstay.services.kms.lookup import not_found
from mainstay.services.kms.pages import page
from mainstay.services.kms.table import on_key, request_keys
from mainstay.services.operations import Call, Request, Result

NAME = "default"


@on_key("GetKeyPolicy")
def get_key_policy(_call: Call, request: Request, key: KmsKey) -> Result:
    """The policy's text as it was given."""
    _check_name(request)
    return {"Policy": key.policy, "PolicyName": NAME}


@on_key("ListKeyPolicies")
def list_key_policies(_call: Call, request: Request, _key: KmsKey) -> Result:
    """The names of the key's policies: one."""
    shown, more = page(request, [NAME], str, limits.PAGE_POLICIES)
    return {"PolicyNames": shown} | more


@on_key("PutKeyPolicy")
def put_key_policy(call: Call, request: Request, key: KmsKey) -> Result:
    """Replaces the policy, effective at once. It must not lock out its author, unless that is asked for."""
    _check_name(request)
    changed = msgspec.structs.replace(key, policy=request["Policy"])
    check_key_policy(call, changed, request)
    call.tx.put(changed)
    return None


def check_key_policy(call: Call, key: KmsKey, request: Request) -> None:
    """Raises `ApiError` for a policy that is none, or by which the caller could not change it again."""
    check_policy(call, key.policy)
    if request.get("BypassPolicyLockoutSafetyCheck"):
        return
    try:
        authorize_use(call, key, Use(operation="PutKeyPolicy", context=request_keys("PutKeyPolicy", request)))
    except ApiError as error:
        raise ApiError(
            "MalformedPolicyDocumentException",
            "The new key policy will not allow you to update the key policy in the future. Let yourself do"
            " kms:PutKeyPolicy in it, or set BypassPolicyLockoutSafetyCheck.",
        ) from error


def _check_name(request: Request) -> None:
    if request.get("PolicyName", NAME) != NAME:
        raise not_found("No such policy exists: the only policy of a key is named default.")
