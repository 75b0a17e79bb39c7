"""Finds the secret that a request names: by name, by ARN, or by an ARN without the six random characters."""

from __future__ import annotations

from typing import Any

from mainstay.model.db_instance import DBInstance
from mainstay.model.errors import ApiError
from mainstay.model.records import Scope
from mainstay.model.secrets_manager import StoredSecret
from mainstay.services.secretsmanager.limits import ARN_SUFFIX_CHARACTERS
from mainstay.store import Reader


def not_found() -> ApiError:
    """`ResourceNotFoundException`."""
    return ApiError("ResourceNotFoundException", "Secrets Manager can't find the specified secret.")


def find_secret(reader: Reader, scope: Scope, secret_id: str) -> StoredSecret | None:
    """The secret of this name, ARN or partial ARN, deleted or not; None if there is none.

    A complete ARN finds the secret it was given to and no later one of the same name.
    """
    if not secret_id.startswith("arn:"):
        return reader.get(StoredSecret, scope, secret_id)
    prefix = scope.arn("secretsmanager", "secret:")
    if not secret_id.startswith(prefix):
        return None
    rest = secret_id.removeprefix(prefix)
    complete = reader.get(StoredSecret, scope, rest[: -ARN_SUFFIX_CHARACTERS - 1])
    if complete is not None and complete.resource == rest:
        return complete
    return reader.get(StoredSecret, scope, rest)


def require_secret(reader: Reader, scope: Scope, secret_id: str) -> StoredSecret:
    """As `find_secret`. Raises `ApiError` ResourceNotFoundException."""
    secret = find_secret(reader, scope, secret_id)
    if secret is None:
        raise not_found()
    return secret


def owner_of(reader: Reader, secret: StoredSecret) -> DBInstance | None:
    """The DB instance whose master password this is, None for a secret of a user."""
    if not secret.owner:
        return None
    found = reader.find(DBInstance, secret.scope, "dbi-resource-id", secret.owner.removeprefix("db:"))
    return found[0] if found else None


def tags_of(reader: Reader, secret: StoredSecret) -> dict[str, str]:
    """The user's tags, and those that the owning service keeps."""
    if not secret.owning_service:
        return secret.tags
    tags = {"aws:secretsmanager:owningService": secret.owning_service}
    owner = owner_of(reader, secret)
    if owner is not None:
        tags["aws:rds:primaryDBInstanceArn"] = owner.arn
    return tags | secret.tags


def tag_list(tags: dict[str, str]) -> list[dict[str, Any]]:
    """As answers show them, ordered by key."""
    return [{"Key": key, "Value": value} for key, value in sorted(tags.items())]
