"""The table of Secrets Manager's operations, and what each must be allowed to do.

A secret may have a policy of its own, so operations on one are authorised here and not by the front: the action on the
secret's ARN, by identity and resource policy together. Whoever may not know of a secret gets `AccessDenied` whether it
exists or not. Source of the condition keys: service authorization reference, "AWS Secrets Manager".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from mainstay.model.secrets_manager import CURRENT, StoredSecret
from mainstay.services.iam.authorization import require
from mainstay.services.operations import Call, Demand, Handler, Operations, Request, Result
from mainstay.services.secretsmanager.checks import check_secret_id, invalid_request
from mainstay.services.secretsmanager.lookup import find_secret, not_found, tags_of

operations = Operations("secretsmanager")

Context: TypeAlias = dict[str, str | list[str]]
SecretHandler = Callable[[Call, Request, StoredSecret], Result]

_REQUEST_KEYS = (
    "BlockPublicPolicy", "Description", "ForceDeleteWithoutRecovery", "ForceOverwriteReplicaSecret", "KmsKeyId", "Name",
    "RecoveryWindowInDays", "RotateImmediately", "RotationLambdaARN", "SecretId", "VersionId", "VersionStage",
)  # fmt: skip


def on_secret(name: str, *, deleted_too: bool = False) -> Callable[[SecretHandler], Handler]:
    """Registers an operation on the secret that `SecretId` names.

    Unless `deleted_too`, a secret whose deletion is scheduled answers `InvalidRequestException`.
    """

    def register(handler: SecretHandler) -> Handler:
        def handle(call: Call, request: Request) -> Result:
            secret = find_secret(call.tx, call.scope, check_secret_id(request["SecretId"]))
            demand(call, request, name, secret)
            if secret is None:
                raise not_found()
            if secret.deleted_at is not None and not deleted_too:
                raise invalid_request(
                    "You can't perform this operation on the secret because it was marked for deletion."
                )
            return handler(call, request, secret)

        return operations.handles(name, demands=lambda _call, _request: ())(handle)

    return register


def demand(call: Call, request: Request, name: str, secret: StoredSecret | None) -> None:
    """Raises `ApiError` AccessDenied unless the caller may do this to the secret named, there or not."""
    if secret is None:
        secret_id = request["SecretId"]
        arn = secret_id if secret_id.startswith("arn:") else call.scope.arn("secretsmanager", f"secret:{secret_id}")
        require(
            call, Demand(action=f"secretsmanager:{name}", resource=arn, context=request_context(call, name, request))
        )
        return
    context = secret_context(call, secret) | request_context(call, name, request)
    wanted = Demand(action=f"secretsmanager:{name}", resource=secret.arn, context=context)
    require(call, wanted, secret.resource_policy)


def request_context(call: Call, name: str, request: Request) -> Context:
    """The condition keys that the request itself carries."""
    context: Context = {
        f"secretsmanager:{member}": _text(request[member])
        for member in _REQUEST_KEYS
        if request.get(member) is not None
    }
    if name == "GetSecretValue" and not {"VersionId", "VersionStage"} & set(request):
        context["secretsmanager:VersionStage"] = CURRENT
    if name == "RotateSecret":
        context["secretsmanager:ModifyRotationRules"] = _text(request.get("RotationRules") is not None)
    tags = request.get("Tags") or ()
    keys = [str(tag.get("Key", "")) for tag in tags] or [str(key) for key in request.get("TagKeys") or ()]
    if keys:
        context["aws:TagKeys"] = keys
    context |= {f"aws:RequestTag/{tag.get('Key', '')}": str(tag.get("Value", "")) for tag in tags}
    return context


def secret_context(call: Call, secret: StoredSecret) -> Context:
    """The condition keys that the secret carries."""
    context: Context = {"secretsmanager:SecretPrimaryRegion": secret.scope.region}
    for key, value in tags_of(call.tx, secret).items():
        context[f"aws:ResourceTag/{key}"] = value
        context[f"secretsmanager:ResourceTag/{key}"] = value
    return context


def refuse_owned(secret: StoredSecret) -> None:
    """Raises for a secret that a service manages: only that service changes or deletes it."""
    if secret.owning_service:
        raise invalid_request(
            f"The secret is managed by another service ({secret.owning_service}), and you must use that service to"
            " update it."
        )


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
