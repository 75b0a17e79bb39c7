"""The table of EC2 operations, and what every one of them does before its handler runs.

A handler lists the members it honours. Any other member that carries a value is refused by name, so nothing a client
asks for is silently ignored; members that are false or empty ask for nothing (Terraform sends many of those).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mainstay.model.ec2 import Resource
from mainstay.model.errors import ApiError
from mainstay.services.ec2.idempotency import once
from mainstay.services.ec2.resources import type_of
from mainstay.services.operations import Call, Demand, Demands, Operations, Request, Result

operations = Operations("ec2")
honoured_members: dict[str, frozenset[str]] = {}
"""Operation -> the members its handler honours; anything else that asks for something is refused."""

EC2Handler = Callable[[Call, Request], Result]
Target = tuple[str, type[Resource]]


def handles(
    name: str,
    *takes: str,
    on: Target | None = None,
    creates: type[Resource] | None = None,
    demands: Demands | None = None,
) -> Callable[[EC2Handler], EC2Handler]:
    """Registers a handler that honours the members `takes`, DryRun and ClientToken.

    `on` names the member with the id of the resource acted upon and its kind: the caller must be allowed the action on
    that resource. `creates` names the kind it makes: tags given at creation also demand `ec2:CreateTags`. `demands`
    replaces both.
    """
    honoured = honoured_members[name] = frozenset((*takes, "DryRun"))

    def register(handler: EC2Handler) -> EC2Handler:
        def checked(call: Call, request: Request) -> Result:
            for member, value in request.items():
                if member not in honoured and member != "ClientToken" and _asks_for_something(value):
                    raise ApiError("UnsupportedOperation", f"{name} does not support the parameter {member}.")
            if request.get("DryRun"):
                # Authorisation has happened: the caller may do it. 412 is EC2's status for this code.
                raise ApiError("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", status=412)
            if "ClientToken" in takes:  # the handler keeps the token with what it makes
                return handler(call, request)
            return once(call, name, request, handler)

        operations.handles(name, demands=demands or _demands(name, on, creates))(checked)
        return handler

    return register


def _asks_for_something(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_asks_for_something(inner) for inner in value.values())
    return bool(value)


def _demands(name: str, on: Target | None, creates: type[Resource] | None) -> Demands:
    action = f"ec2:{name}"

    def demands(call: Call, request: Request) -> Sequence[Demand]:
        requested = _request_context(request)
        if on is not None and (resource_id := request.get(on[0])):
            return (resource_demand(call, action, on[1], str(resource_id), requested),)
        if creates is None:
            return (Demand(action=action),)
        arn = call.scope.arn("ec2", f"{type_of(creates).name}/*")
        made = Demand(action=action, resource=arn, context=requested)
        if not requested:
            return (made,)
        tagging: dict[str, str | list[str]] = {**requested, "ec2:CreateAction": name}
        return (made, Demand(action="ec2:CreateTags", resource=arn, context=tagging))

    return demands


def resource_demand(
    call: Call,
    action: str,
    kind: type[Resource],
    resource_id: str,
    requested: Mapping[str, str | list[str]],
) -> Demand:
    """The action on one resource, with the resource's tags and what the request carries as condition keys."""
    arn = call.scope.arn("ec2", f"{type_of(kind).name}/{resource_id}")
    record = call.tx.get(kind, call.scope, resource_id)
    context: dict[str, str | list[str]] = dict(requested)
    for key, value in (record.tags if record is not None else {}).items():
        context[f"aws:ResourceTag/{key}"] = value
        context[f"ec2:ResourceTag/{key}"] = value
    return Demand(action=action, resource=arn, context=context)


def _request_context(request: Request) -> dict[str, str | list[str]]:
    tags = [tag for specification in request.get("TagSpecifications") or () for tag in specification.get("Tags") or ()]
    return tag_context(tags)


def tag_context(tags: Sequence[Mapping[str, Any]]) -> dict[str, str | list[str]]:
    """The condition keys of tags that a request carries."""
    if not tags:
        return {}
    keys = [str(tag.get("Key", "")) for tag in tags]
    context: dict[str, str | list[str]] = {"aws:TagKeys": keys}
    return context | {f"aws:RequestTag/{tag.get('Key', '')}": str(tag.get("Value", "")) for tag in tags}
