"""Tags: CreateTags, DeleteTags, DescribeTags, and the tags that creations carry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from mainstay.model.ec2 import Resource
from mainstay.model.errors import ApiError, invalid_value
from mainstay.services.ec2.listing import Listing
from mainstay.services.ec2.resources import TYPES, missing, require, type_of, type_of_id
from mainstay.services.ec2.table import handles, resource_demand, tag_context
from mainstay.services.operations import Call, Demand, Request, Result

TAGS_PER_RESOURCE = 50
RESOURCES_PER_CALL = 1000
KEY_LENGTH = 128
VALUE_LENGTH = 256
RESERVED_PREFIX = "aws:"


def tags_at_creation(request: Request, kind: type[Resource]) -> dict[str, str]:
    """The tags that TagSpecifications gives to the one resource being made, checked."""
    name = type_of(kind).name
    tags: list[Mapping[str, Any]] = []
    for specification in request.get("TagSpecifications") or ():
        given = specification.get("ResourceType")
        if not given:
            raise invalid_value("Tag specification resource type must have a value")
        if given != name:
            raise invalid_value(f"'{given}' is not a valid taggable resource type for this operation.")
        tags.extend(specification.get("Tags") or ())
    return with_tags({}, tags)


def with_tags(present: Mapping[str, str], added: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """`present` with `added` written over it; raises what EC2 answers for tags that are not allowed."""
    new: dict[str, str] = {}
    for tag in added:
        key, value = str(tag.get("Key") or ""), str(tag.get("Value") or "")
        if not 1 <= len(key) <= KEY_LENGTH:
            raise invalid_value(f"Tag key must be between 1 and {KEY_LENGTH} characters long.")
        if len(value) > VALUE_LENGTH:
            raise invalid_value(f"Tag value exceeds the maximum length of {VALUE_LENGTH} characters")
        if key.lower().startswith(RESERVED_PREFIX):
            raise invalid_value("Tag keys starting with 'aws:' are reserved for internal use")
        if key in new:
            raise invalid_value(f"Duplicate tag key '{key}' specified.")
        new[key] = value
    merged = {**present, **new}
    if len(merged) > TAGS_PER_RESOURCE:
        raise ApiError("TagLimitExceeded", "The maximum number of tags for a resource has been reached.")
    return merged


def _tagging_demands(call: Call, request: Request, action: str) -> Sequence[Demand]:
    requested = tag_context(request.get("Tags") or ())
    kinds = [(type_of_id(str(name)), str(name)) for name in request.get("Resources") or ()]
    known = [(one.kind, name) for one, name in kinds if one is not None]
    demands = [resource_demand(call, action, kind, name, requested) for kind, name in known]
    return demands or (Demand(action=action),)


def _resources(call: Call, request: Request) -> list[Resource]:
    names = [str(name) for name in request.get("Resources") or ()]
    if not names:
        raise missing("resourceIdSet")
    if len(names) > RESOURCES_PER_CALL:
        raise invalid_value(f"A request can name at most {RESOURCES_PER_CALL} resources.")
    found: list[Resource] = []
    for name in dict.fromkeys(names):
        one = type_of_id(name)
        if one is None:
            raise ApiError("InvalidID", f"The ID '{name}' is not valid")
        found.append(require(call.tx, call.scope, one.kind, name))
    return found


@handles(
    "CreateTags", "Resources", "Tags", demands=lambda call, request: _tagging_demands(call, request, "ec2:CreateTags")
)
def create_tags(call: Call, request: Request) -> Result:
    """Adds tags to resources, or replaces those with the same keys: all resources or none."""
    added = request.get("Tags") or ()
    if not added:
        raise missing("tagSet")
    for resource in _resources(call, request):
        call.tx.put(msgspec.structs.replace(resource, tags=with_tags(resource.tags, added)))
    return None


@handles(
    "DeleteTags", "Resources", "Tags", demands=lambda call, request: _tagging_demands(call, request, "ec2:DeleteTags")
)
def delete_tags(call: Call, request: Request) -> Result:
    """Removes tags; one given with a value goes only if the value is the same, and no tags at all means every tag."""
    removed = request.get("Tags") or ()
    for resource in _resources(call, request):
        kept = {
            key: value
            for key, value in resource.tags.items()
            if removed and not any(_names(tag, key, value) for tag in removed)
        }
        call.tx.put(msgspec.structs.replace(resource, tags=kept))
    return None


def _names(tag: Mapping[str, Any], key: str, value: str) -> bool:
    return tag.get("Key") == key and tag.get("Value") in (None, value)


class TagLine(msgspec.Struct, frozen=True):
    """One tag of one resource, as DescribeTags lists it."""

    resource_id: str
    resource_type: str
    name: str
    value: str


_listing = Listing[TagLine](
    member="Tags",
    key=lambda line: f"{line.resource_id} {line.name}",
    columns={
        "key": lambda line: (line.name,),
        "value": lambda line: (line.value,),
        "resource-id": lambda line: (line.resource_id,),
        "resource-type": lambda line: (line.resource_type,),
    },
    show=lambda line: {
        "ResourceId": line.resource_id,
        "ResourceType": line.resource_type,
        "Key": line.name,
        "Value": line.value,
    },
    tags=lambda line: {line.name: line.value},
)


@handles("DescribeTags", "Filters", "MaxResults", "NextToken")
def describe_tags(call: Call, request: Request) -> Result:
    """Every tag of every resource that passes the filters."""
    lines = (
        TagLine(resource.key(), one.name, key, value)
        for one in TYPES
        for resource in call.tx.scan(one.kind, call.scope)
        for key, value in resource.tags.items()
    )
    return _listing.answer(lines, request)
