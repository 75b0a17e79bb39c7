"""ListSecrets and BatchGetSecretValue: filters, order, pages. Source: Secrets Manager API reference, "Filter"."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mainstay.model.errors import ApiError
from mainstay.model.secrets_manager import StoredSecret
from mainstay.services.iam.authorization import require
from mainstay.services.operations import Call, Demand, Request, Result
from mainstay.services.secretsmanager import limits
from mainstay.services.secretsmanager.checks import check_secret_id, invalid_parameter, invalid_request
from mainstay.services.secretsmanager.lookup import find_secret, not_found, tags_of
from mainstay.services.secretsmanager.pages import page
from mainstay.services.secretsmanager.table import demand, operations
from mainstay.services.secretsmanager.versions import chosen_version, opened
from mainstay.services.secretsmanager.view import show_secret, stages_of

Words = Callable[[Call, StoredSecret], Iterable[str]]

_ORDER: dict[str, Callable[[StoredSecret], Any]] = {
    "created-date": lambda one: one.created_at,
    "last-accessed-date": lambda one: one.accessed_on or 0.0,
    "last-changed-date": lambda one: one.changed_at,
    "name": lambda one: one.name,
}
_COLUMNS: dict[str, Words] = {
    "name": lambda _call, one: (one.name,),
    "description": lambda _call, one: (one.description or "",),
    "tag-key": lambda call, one: tags_of(call.tx, one),
    "tag-value": lambda call, one: tags_of(call.tx, one).values(),
    "primary-region": lambda _call, one: (),
    "owning-service": lambda _call, one: (one.owning_service,) if one.owning_service else (),
}


@operations.handles("ListSecrets")
def list_secrets(call: Call, request: Request) -> Result:
    """Secrets that pass every filter; those scheduled for deletion only with IncludePlannedDeletion."""
    found = [one for one in _passing(call, request) if one.deleted_at is None or request.get("IncludePlannedDeletion")]
    order = _ORDER[request.get("SortBy", "created-date")]
    found.sort(key=lambda one: (order(one), one.name), reverse=request.get("SortOrder") == "desc")
    shown, more = page(request, found, lambda one: one.arn)
    return {"SecretList": [_entry(call, one) for one in shown]} | more


def _entry(call: Call, secret: StoredSecret) -> dict[str, Any]:
    stages = stages_of(secret)
    return show_secret(call.tx, secret) | ({"SecretVersionsToStages": stages} if stages else {})


@operations.handles("BatchGetSecretValue")
def batch_get_secret_value(call: Call, request: Request) -> Result:
    """The current values of up to 20 secrets; those that cannot be read are told one by one."""
    by_id, filters = request.get("SecretIdList"), request.get("Filters")
    if bool(by_id) == bool(filters):
        raise invalid_parameter("You must include Filters or SecretIdList, but not both.")
    if by_id and ("MaxResults" in request or "NextToken" in request):
        raise invalid_parameter("You can use MaxResults and NextToken only together with Filters.")
    more: dict[str, Any] = {}
    names = list(dict.fromkeys(by_id or ()))
    if filters:
        require(call, Demand(action="secretsmanager:ListSecrets"))
        found = sorted(
            (one for one in _passing(call, request) if one.deleted_at is None),
            key=lambda one: (one.created_at, one.name),
        )
        shown, more = page(request, found, lambda one: one.arn, size=limits.BATCH_SIZE)
        names = [one.arn for one in shown]
    values, errors = [], []
    for name in names:
        try:
            values.append(_current(call, name))
        except ApiError as error:
            code = "AccessDeniedException" if error.shape == "AccessDenied" else error.shape
            errors.append({"SecretId": name, "ErrorCode": code, "Message": error.message})
    return {"SecretValues": values, "Errors": errors} | more


def _current(call: Call, secret_id: str) -> dict[str, Any]:
    secret = find_secret(call.tx, call.scope, check_secret_id(secret_id))
    demand(call, {"SecretId": secret_id}, "GetSecretValue", secret)
    if secret is None:
        raise not_found()
    if secret.deleted_at is not None:
        raise invalid_request("You can't perform this operation on the secret because it was marked for deletion.")
    return opened(call, secret, chosen_version(secret, None, None))


def _passing(call: Call, request: Request) -> list[StoredSecret]:
    filters = request.get("Filters") or ()
    return [one for one in call.tx.scan(StoredSecret, call.scope) if all(_passes(call, one, each) for each in filters)]


def _passes(call: Call, secret: StoredSecret, one: dict[str, Any]) -> bool:
    """One filter: any of its values, and none of those with an exclamation mark before them."""
    key: str = one.get("Key") or "all"
    values: Sequence[str] = one.get("Values") or ()
    unwanted = [value[1:] for value in values if value.startswith("!")]
    wanted = [value for value in values if not value.startswith("!")]
    if any(_has(call, secret, key, value) for value in unwanted):
        return False
    return not wanted or any(_has(call, secret, key, value) for value in wanted)


def _has(call: Call, secret: StoredSecret, key: str, value: str) -> bool:
    """Prefix match, as AWS documents it; descriptions and `all` without regard to case, `all` word by word."""
    if key == "all":
        texts = [text.lower() for words in _COLUMNS.values() for text in words(call, secret)]
        return all(any(word in text for text in texts) for word in value.lower().split())
    texts = list(_COLUMNS[key](call, secret))
    if key == "description":
        return any(text.lower().startswith(value.lower()) for text in texts)
    return any(text.startswith(value) for text in texts)
