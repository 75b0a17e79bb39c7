"""Finds the key that a request names: by key id, key ARN, alias name or alias ARN ("Key identifiers", KMS guide)."""

from __future__ import annotations

import re

from mainstay.model.errors import ApiError
from mainstay.model.kms import KeyState, KmsAlias, KmsKey, key_arn
from mainstay.model.records import Scope
from mainstay.store import Reader

ALIAS = "alias/"
_ARN = re.compile(r"arn:aws[a-z-]*:kms:([^:]*):([^:]*):(key|alias)/(.+)")
_KEY_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def not_found(message: str) -> ApiError:
    """`NotFoundException`."""
    return ApiError("NotFoundException", message)


def read_name(scope: Scope, named: str, *, aliases: bool = True) -> str:
    """What a `KeyId` member names: a key id, or with `aliases` the name of an alias.

    Raises `ApiError` InvalidArnException for an ARN that is none, NotFoundException for one of elsewhere and for text
    that is no identifier.
    """
    if named.startswith("arn:"):
        found = _ARN.fullmatch(named)
        if found is None or (found[3] == "alias" and not aliases):
            raise ApiError("InvalidArnException", f"Invalid arn {named[:256]}: it must be the ARN of a key")
        region, account, kind, name = found.groups()
        if region != scope.region:
            raise not_found(f"Invalid arn {region}: this is region {scope.region}")
        if account != scope.account_id:
            raise not_found(f"Key '{named[:256]}' does not exist: it is of another account")
        named = ALIAS + name if kind == "alias" else name
    if named.startswith(ALIAS) and aliases:
        return named
    if not _KEY_ID.fullmatch(named):
        raise not_found(f"Invalid keyId '{named[:256]}'")
    return named


def arn_of(scope: Scope, name: str) -> str:
    """The ARN of what `read_name` gave, there or not."""
    return scope.arn("kms", name) if name.startswith(ALIAS) else key_arn(scope, name)


def find_key(reader: Reader, scope: Scope, name: str) -> KmsKey | None:
    """The key behind what `read_name` gave, in whatever state."""
    if name.startswith(ALIAS):
        alias = reader.get(KmsAlias, scope, name)
        return None if alias is None else reader.get(KmsKey, scope, alias.target_key_id)
    return reader.get(KmsKey, scope, name)


def absent(scope: Scope, name: str) -> ApiError:
    """`NotFoundException` for a key or alias that is not there, in AWS's words."""
    if name.startswith(ALIAS):
        return not_found(f"Alias {arn_of(scope, name)} is not found.")
    return not_found(f"Key '{arn_of(scope, name)}' does not exist")


def aliases_of(reader: Reader, key: KmsKey) -> list[KmsAlias]:
    """The key's aliases, ordered by name."""
    return reader.find(KmsAlias, key.scope, "target", key.key_id)


def refuse_pending(key: KmsKey) -> None:
    """Raises `KMSInvalidStateException` for a key that is pending deletion."""
    if key.state is KeyState.PENDING_DELETION:
        raise ApiError("KMSInvalidStateException", f"{key.arn} is pending deletion.")


def require_enabled(key: KmsKey) -> None:
    """Raises `DisabledException` or `KMSInvalidStateException` unless the key can be used."""
    refuse_pending(key)
    if key.state is not KeyState.ENABLED:
        raise ApiError("DisabledException", f"{key.arn} is disabled.")
