"""Long-term access keys of users and of the root. The secret is shown once, when the key is made."""

from __future__ import annotations

import msgspec

from mainstay.host.randomness import Randomness
from mainstay.host.vault import Vault
from mainstay.model.iam import AccessKey, User
from mainstay.model.records import Scope
from mainstay.services.iam import identifiers, limits
from mainstay.services.iam.checks import validation_error
from mainstay.services.iam.lookup import find_entity, global_scope, no_such_entity, refuse_over_quota
from mainstay.services.iam.pages import page
from mainstay.services.iam.shapes import access_key_shape
from mainstay.services.iam.table import named_user, on_entity, operations
from mainstay.services.operations import Call, Request, Result

LAST_USE_GRAIN_S = 900.0
"""How old the recorded last use may be before it is written again; one write per key and quarter of an hour."""


def new_access_key(
    vault: Vault, randomness: Randomness, scope: Scope, user_name: str, now: float
) -> tuple[AccessKey, str]:
    """A key that is not yet stored, and its secret."""
    key_id = identifiers.access_key_id(randomness, identifiers.LONG_TERM_KEY, scope.account_id)
    secret = identifiers.secret_access_key(randomness)
    key = AccessKey(scope=scope, access_key_id=key_id, user_name=user_name, created_at=now, sealed_secret="")
    return msgspec.structs.replace(key, sealed_secret=vault.seal(secret, key.seal_context)), secret


@on_entity("CreateAccessKey", User)
def create_access_key(call: Call, request: Request) -> Result:
    scope, name = global_scope(call), _owner(call, request)
    refuse_over_quota(len(_keys(call, name)), limits.ACCESS_KEYS_PER_USER, "AccessKeysPerUser")
    key, secret = new_access_key(call.use(Vault), call.randomness, scope, name, call.clock.wall())
    call.tx.insert(key)
    return {"AccessKey": {"UserName": name or "<root_account>", **access_key_shape(key), "SecretAccessKey": secret}}


@on_entity("ListAccessKeys", User)
def list_access_keys(call: Call, request: Request) -> Result:
    shown, more = page(request, _keys(call, _owner(call, request)), lambda key: key.access_key_id)
    return {"AccessKeyMetadata": [access_key_shape(key) for key in shown], **more}


@on_entity("UpdateAccessKey", User)
def update_access_key(call: Call, request: Request) -> Result:
    if request["Status"] not in ("Active", "Inactive"):
        raise validation_error("The status of an access key must be Active or Inactive.")
    call.tx.put(msgspec.structs.replace(_key(call, request), status=request["Status"]))
    return None


@on_entity("DeleteAccessKey", User)
def delete_access_key(call: Call, request: Request) -> Result:
    call.tx.delete(_key(call, request))
    return None


@operations.handles("GetAccessKeyLastUsed")
def get_access_key_last_used(call: Call, request: Request) -> Result:
    key = call.tx.get(AccessKey, global_scope(call), request["AccessKeyId"])
    if key is None:
        raise no_such_entity(f"The Access Key with id {request['AccessKeyId']} cannot be found.")
    used = {"ServiceName": key.last_used_service or "N/A", "Region": key.last_used_region or "N/A"}
    date = {} if key.last_used_at is None else {"LastUsedDate": key.last_used_at}
    owner = {"UserName": key.user_name} if key.user_name else {}
    return {**owner, "AccessKeyLastUsed": {**date, **used}}


def _owner(call: Call, request: Request) -> str:
    name = named_user(call, request)
    return find_entity(call, User, name).name if name else ""


def _keys(call: Call, user_name: str) -> list[AccessKey]:
    return call.tx.find(AccessKey, global_scope(call), "user", user_name)


def _key(call: Call, request: Request) -> AccessKey:
    key = call.tx.get(AccessKey, global_scope(call), request["AccessKeyId"])
    if key is None or key.user_name != _owner(call, request):
        raise no_such_entity(f"The Access Key with id {request['AccessKeyId']} cannot be found.")
    return key
