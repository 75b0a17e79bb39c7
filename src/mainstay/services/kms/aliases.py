"""Aliases: names that can be moved from key to key. Source: KMS API reference."""

from __future__ import annotations

import msgspec

from mainstay.model.errors import ApiError
from mainstay.model.kms import KmsAlias, KmsKey
from mainstay.services.iam.authorization import require
from mainstay.services.kms import limits
from mainstay.services.kms.authorization import Use, authorize_use
from mainstay.services.kms.checks import check_alias
from mainstay.services.kms.lookup import absent, aliases_of, find_key, read_name, refuse_pending
from mainstay.services.kms.pages import page
from mainstay.services.kms.table import nothing, operations, permitted_key
from mainstay.services.kms.view import show_alias
from mainstay.services.operations import Call, Demand, Request, Result


@operations.handles("CreateAlias", demands=nothing)
def create_alias(call: Call, request: Request) -> Result:
    """A new name for a key of the region."""
    name = request["AliasName"]
    _require_on_alias(call, "CreateAlias", name)
    check_alias(name)
    key = _target(call, request, "CreateAlias")
    if call.tx.get(KmsAlias, call.scope, name) is not None:
        raise ApiError("AlreadyExistsException", f"An alias with the name {call.scope.arn('kms', name)} already exists")
    now = call.clock.wall()
    _check_quota(call, key)
    call.tx.insert(KmsAlias(scope=call.scope, name=name, target_key_id=key.key_id, created_at=now, updated_at=now))
    return None


@operations.handles("UpdateAlias", demands=nothing)
def update_alias(call: Call, request: Request) -> Result:
    """Moves the name to another key; the caller must be allowed to do so on both."""
    alias = _alias(call, request["AliasName"], "UpdateAlias")
    key = _target(call, request, "UpdateAlias")
    if key.key_id != alias.target_key_id:
        _check_quota(call, key)
    call.tx.put(msgspec.structs.replace(alias, target_key_id=key.key_id, updated_at=call.clock.wall()))
    return None


@operations.handles("DeleteAlias", demands=nothing)
def delete_alias(call: Call, request: Request) -> Result:
    """The name goes, the key stays."""
    call.tx.delete(_alias(call, request["AliasName"], "DeleteAlias"))
    return None


@operations.handles("ListAliases")
def list_aliases(call: Call, request: Request) -> Result:
    """Aliases ordered by name, those of one key or all."""
    found = call.tx.scan(KmsAlias, call.scope)
    if "KeyId" in request:
        key_id = read_name(call.scope, request["KeyId"], aliases=False)
        key = find_key(call.tx, call.scope, key_id)
        if key is None:
            raise absent(call.scope, key_id)
        found = aliases_of(call.tx, key)
    shown, more = page(request, found, lambda alias: alias.name, limits.PAGE_ALIASES)
    return {"Aliases": [show_alias(alias) for alias in shown]} | more


def _alias(call: Call, name: str, operation: str) -> KmsAlias:
    """An alias that is there, if the caller may do this to it and to its key."""
    _require_on_alias(call, operation, name)
    check_alias(name)
    alias = call.tx.get(KmsAlias, call.scope, name)
    key = None if alias is None else call.tx.get(KmsKey, call.scope, alias.target_key_id)
    if alias is None or key is None:
        raise absent(call.scope, name)
    authorize_use(call, key, Use(operation=operation))
    return alias


def _target(call: Call, request: Request, operation: str) -> KmsKey:
    key = permitted_key(call, request, request["TargetKeyId"], Use(operation=operation), aliases=False)
    refuse_pending(key)
    return key


def _require_on_alias(call: Call, operation: str, name: str) -> None:
    """An alias has no policy of its own: identity policies speak of it."""
    require(call, Demand(action=f"kms:{operation}", resource=call.scope.arn("kms", name)))


def _check_quota(call: Call, key: KmsKey) -> None:
    if len(aliases_of(call.tx, key)) >= limits.ALIASES_PER_KEY:
        raise ApiError("LimitExceededException", f"A key can have at most {limits.ALIASES_PER_KEY} aliases.")
