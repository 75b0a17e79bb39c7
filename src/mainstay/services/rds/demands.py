"""What an RDS call must be allowed to do: the action on the ARN of each resource it names, with the condition keys.

Condition keys come from the resource as it is (tags, class, engine, size) and from the request, which wins: a policy
that caps `rds:StorageSize` must see the size asked for (service authorization reference, "Amazon RDS").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from mainstay.decide.identifiers import parse_arn
from mainstay.model.db_instance import DBInstance
from mainstay.model.records import Scope
from mainstay.services.operations import Call, Demand, Demands, Request
from mainstay.services.rds.resources import BY_NAME, Tagged

Context: TypeAlias = dict[str, str | list[str]]

_REQUEST_KEYS = {
    "Engine": "rds:DatabaseEngine",
    "DBInstanceClass": "rds:DatabaseClass",
    "DBName": "rds:DatabaseName",
    "AllocatedStorage": "rds:StorageSize",
    "Iops": "rds:Piops",
    "MultiAZ": "rds:MultiAz",
    "StorageEncrypted": "rds:StorageEncrypted",
    "PubliclyAccessible": "rds:PubliclyAccessible",
    "ManageMasterUserPassword": "rds:ManageMasterUserPassword",
}


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where a request names a resource. `resource_type` "" means that the member holds an ARN of any type."""

    resource_type: str
    member: str
    optional: bool = False
    created: bool = False


def on(resource_type: str, member: str, *, optional: bool = False) -> Target:
    """The resource of this ARN type ("db", "pg" …) named, by name or ARN, in the member.

    A request without the member means all of the type, or nothing if `optional`.
    """
    return Target(resource_type=resource_type, member=member, optional=optional)


def creates(resource_type: str, member: str) -> Target:
    """The resource that the request makes. Tags given to it also demand `rds:AddTagsToResource`."""
    return Target(resource_type=resource_type, member=member, created=True)


def on_arn(member: str) -> Target:
    """The resource whose ARN, of any type, is in the member."""
    return Target(resource_type="", member=member)


def on_arn_if_given(member: str) -> Target:
    """As `on_arn`, for a member that may be left out."""
    return Target(resource_type="", member=member, optional=True)


def demands_of(operation: str, targets: Sequence[Target]) -> Demands:
    """The demands of an operation on its targets."""
    action = f"rds:{operation}"

    def demands(call: Call, request: Request) -> Sequence[Demand]:
        requested = request_context(request)
        wanted: list[Demand] = []
        for target in targets:
            named = request.get(target.member)
            if not named and target.optional:
                continue
            arn = _arn(call, target, str(named or "*"))
            context = resource_context(call, arn) | requested
            wanted.append(Demand(action=action, resource=arn, context=context))
            if target.created and request.get("Tags"):
                wanted.append(Demand(action="rds:AddTagsToResource", resource=arn, context=requested))
        return wanted or (Demand(action=action, context=requested),)

    return demands


def request_context(request: Request) -> Context:
    """The condition keys that the request itself carries."""
    context: Context = {
        key: _text(request[member]) for member, key in _REQUEST_KEYS.items() if request.get(member) is not None
    }
    tags: Sequence[Mapping[str, Any]] = request.get("Tags") or ()
    keys = [str(tag.get("Key", "")) for tag in tags] or [str(key) for key in request.get("TagKeys") or ()]
    if keys:
        context["aws:TagKeys"] = keys
    for tag in tags:
        for prefix in ("aws:RequestTag", "rds:req-tag"):
            context[f"{prefix}/{tag.get('Key', '')}"] = str(tag.get("Value", ""))
    return context


def _arn(call: Call, target: Target, named: str) -> str:
    if parse_arn(named) is not None or not target.resource_type:
        return named
    return call.scope.arn("rds", f"{target.resource_type}:{named.lower()}")


def resource_context(call: Call, text: str) -> Context:
    """The condition keys of a resource that exists."""
    arn = parse_arn(text)
    resource_type = None if arn is None else BY_NAME.get(arn.resource_type)
    if arn is None or resource_type is None:
        return {}
    scope = Scope(call.scope.account_id, arn.region)
    record: Tagged | None = resource_type.find(call.tx, scope, arn.name.lower())
    if record is None or record.arn != text:
        return {}
    context: Context = {}
    for key, value in record.tags.items():
        context[f"aws:ResourceTag/{key}"] = value
        context[f"rds:{resource_type.name}-tag/{key}"] = value
    return context | (_instance_context(record) if isinstance(record, DBInstance) else {})


def _instance_context(instance: DBInstance) -> Context:
    context: Context = {
        "rds:DatabaseEngine": instance.engine,
        "rds:DatabaseClass": instance.db_instance_class,
        "rds:StorageSize": str(instance.allocated_storage_gib),
        "rds:PubliclyAccessible": _text(instance.publicly_accessible),
    }
    if instance.db_name:
        context["rds:DatabaseName"] = instance.db_name
    if instance.iops is not None:
        context["rds:Piops"] = str(instance.iops)
    return context


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
