"""The operations table of IAM and what its operations demand: the operation's own action on the ARN it works on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mainstay.model.iam import Entity
from mainstay.services.iam.checks import validation_error
from mainstay.services.iam.lookup import global_scope
from mainstay.services.operations import Call, Demand, Handler, Operations, Request

operations = Operations("iam")

TAGGED_AT_CREATION = {"CreateUser": "TagUser", "CreateRole": "TagRole", "CreatePolicy": "TagPolicy"}


def on_entity(name: str, kind: type[Entity]) -> Callable[[Handler], Handler]:
    """Registers an operation on one user, group or role; without a name it is about the calling user."""
    member = f"{kind.NOUN.title()}Name"

    def demands(call: Call, request: Request) -> Sequence[Demand]:
        scope = global_scope(call)
        entity_name = request.get(member) or (call.caller.principal if call.caller.kind == "user" else "")
        entity = call.tx.get(kind, scope, entity_name)
        created = name == f"Create{kind.NOUN.title()}"
        path = request.get("Path", "/") if created else "/"
        arn = entity.arn if entity and not created else scope.arn("iam", f"{kind.NOUN}{path}{entity_name}")
        return _demands(name, arn, request, entity)

    return operations.handles(name, demands=demands)


def on_policy(name: str) -> Callable[[Handler], Handler]:
    """Registers an operation on the managed policy `PolicyArn`."""

    def demands(_call: Call, request: Request) -> Sequence[Demand]:
        return _demands(name, request["PolicyArn"], {**request, "PolicyArn": None}, None)

    return operations.handles(name, demands=demands)


def on_resource(name: str, resource: Callable[[Request], str]) -> Callable[[Handler], Handler]:
    """Registers an operation on the resource that `resource` names, as in `user/division/`."""

    def demands(call: Call, request: Request) -> Sequence[Demand]:
        return _demands(name, global_scope(call).arn("iam", resource(request)), request, None)

    return operations.handles(name, demands=demands)


def _demands(name: str, arn: str, request: Request, entity: Entity | None) -> Sequence[Demand]:
    context = _request_keys(request) | _entity_keys(entity, request)
    demands = [Demand(action=f"iam:{name}", resource=arn, context=context)]
    if name in TAGGED_AT_CREATION and request.get("Tags"):
        demands.append(Demand(action=f"iam:{TAGGED_AT_CREATION[name]}", resource=arn, context=context))
    return demands


def _request_keys(request: Request) -> dict[str, str | list[str]]:
    """Condition keys that come from the request ("Actions, resources, and condition keys for IAM")."""
    context: dict[str, str | list[str]] = {}
    if arn := request.get("PolicyArn"):
        context["iam:PolicyARN"] = arn
    if boundary := request.get("PermissionsBoundary"):
        context["iam:PermissionsBoundary"] = boundary
    tags = request.get("Tags") or ()
    context |= {f"aws:RequestTag/{tag['Key']}": tag["Value"] for tag in tags}
    if keys := [tag["Key"] for tag in tags] or list(request.get("TagKeys") or ()):
        context["aws:TagKeys"] = keys
    return context


def _entity_keys(entity: Entity | None, request: Request) -> dict[str, str | list[str]]:
    context: dict[str, str | list[str]] = {}
    tags: dict[str, str] = getattr(entity, "tags", {})
    for key, value in tags.items():
        context[f"aws:ResourceTag/{key}"] = value
        context[f"iam:ResourceTag/{key}"] = value
    boundary = getattr(entity, "permissions_boundary", "")
    if boundary and "PermissionsBoundary" not in request:
        context["iam:PermissionsBoundary"] = boundary
    return context


def named_user(call: Call, request: Request) -> str:
    """The user an operation is about when `UserName` may be left out; empty for the account's root."""
    if name := request.get("UserName"):
        return str(name)
    if call.caller.kind == "role":
        raise validation_error("Must specify userName when calling with non-User credentials")
    return call.caller.principal if call.caller.kind == "user" else ""
