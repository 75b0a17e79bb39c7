"""Making, describing, enabling, disabling and deleting keys. Source: KMS API reference."""

from __future__ import annotations

import msgspec

from mainstay.host.vault import Vault
from mainstay.model.errors import ApiError
from mainstay.model.kms import KeyState, KmsKey
from mainstay.services.iam.authorization import require
from mainstay.services.kms import limits
from mainstay.services.kms.authorization import Use
from mainstay.services.kms.changes import announce
from mainstay.services.kms.checks import check_key_kind, validation, with_tags
from mainstay.services.kms.lookup import ALIAS, read_name, refuse_pending
from mainstay.services.kms.making import MANAGED, default_policy, insert_key, managed_key, new_key
from mainstay.services.kms.pages import page
from mainstay.services.kms.policies import check_key_policy
from mainstay.services.kms.table import nothing, on_key, operations, permitted_key, request_keys
from mainstay.services.kms.view import show_key
from mainstay.services.operations import Call, Demand, Request, Result
from mainstay.workflows.key_timers import keep_rotation_timer, start_deletion_timer, stop_deletion_timer


@operations.handles("CreateKey", demands=nothing)
def create_key(call: Call, request: Request) -> Result:
    """Makes a symmetric encryption key."""
    context = request_keys("CreateKey", request)
    require(call, Demand(action="kms:CreateKey", context=context))
    if request.get("Tags"):
        require(call, Demand(action="kms:TagResource", context=context))
    check_key_kind(request)
    now, account_id = call.clock.wall(), call.scope.account_id
    policy = request.get("Policy") or default_policy(account_id)
    key = msgspec.structs.replace(
        new_key(call.use(Vault), call.randomness, call.scope, policy, now),
        description=request.get("Description", ""),
        tags=with_tags({}, request.get("Tags") or ()),
    )
    if request.get("Policy"):
        check_key_policy(call, key, request)
    insert_key(call.tx, key)
    return {"KeyMetadata": show_key(key)}


@operations.handles("DescribeKey", demands=nothing)
def describe_key(call: Call, request: Request) -> Result:
    """The key's metadata. The alias of an AWS managed key makes that key if it is not there yet, as on AWS."""
    name = read_name(call.scope, request["KeyId"])
    if name.startswith(ALIAS) and name in MANAGED:
        managed_key(call.tx, call.use(Vault), call.randomness, call.scope, name, call.clock.wall())
    return {"KeyMetadata": show_key(permitted_key(call, request, request["KeyId"], Use(operation="DescribeKey")))}


@operations.handles("ListKeys")
def list_keys(call: Call, request: Request) -> Result:
    """Every key of the region, whatever its state, ordered by id."""
    shown, more = page(request, call.tx.scan(KmsKey, call.scope), lambda key: key.key_id, limits.PAGE_KEYS)
    return {"Keys": [{"KeyId": key.key_id, "KeyArn": key.arn} for key in shown]} | more


@on_key("UpdateKeyDescription")
def update_key_description(call: Call, request: Request, key: KmsKey) -> Result:
    """Replaces the description."""
    refuse_pending(key)
    call.tx.put(msgspec.structs.replace(key, description=request["Description"]))
    return None


@on_key("EnableKey")
def enable_key(call: Call, _request: Request, key: KmsKey) -> Result:
    """The key can be used again, from the next call on."""
    _into(call, key, KeyState.ENABLED)
    return None


@on_key("DisableKey")
def disable_key(call: Call, _request: Request, key: KmsKey) -> Result:
    """Nobody can use the key, from the next call on."""
    _into(call, key, KeyState.DISABLED)
    return None


def _into(call: Call, key: KmsKey, state: KeyState) -> None:
    refuse_pending(key)
    if key.state is not state:
        _put(call, msgspec.structs.replace(key, state=state))


@on_key("ScheduleKeyDeletion")
def schedule_key_deletion(call: Call, request: Request, key: KmsKey) -> Result:
    """The key is unusable from now on, and deleted after the waiting period."""
    days = request.get("PendingWindowInDays", limits.PENDING_WINDOW_DEFAULT_DAYS)
    least, most = limits.PENDING_WINDOW_DAYS
    if not least <= days <= most:
        raise validation(f"PendingWindowInDays must be between {least} and {most} days (inclusive): {days} is not.")
    refuse_pending(key)
    now = call.clock.wall()
    key = msgspec.structs.replace(
        key,
        state=KeyState.PENDING_DELETION,
        deletion_at=now + days * limits.DAY_S,
        pending_window_days=days,
    )
    _put(call, key)
    start_deletion_timer(call.tx, key, now)
    return {
        "KeyId": key.arn,
        "DeletionDate": key.deletion_at,
        "KeyState": key.state.value,
        "PendingWindowInDays": days,
    }


@on_key("CancelKeyDeletion")
def cancel_key_deletion(call: Call, _request: Request, key: KmsKey) -> Result:
    """The key stays, disabled until somebody enables it."""
    if key.state is not KeyState.PENDING_DELETION:
        raise ApiError("KMSInvalidStateException", f"{key.arn} is not pending deletion.")
    stop_deletion_timer(call.tx, key)
    _put(
        call,
        msgspec.structs.replace(key, state=KeyState.DISABLED, deletion_at=None, pending_window_days=None),
    )
    return {"KeyId": key.arn}


def _put(call: Call, key: KmsKey) -> None:
    """Records a key in another state, and tells those who depend on it."""
    call.tx.put(key)
    keep_rotation_timer(call.tx, key, call.clock.wall())
    announce(call, key)
