"""Tags of every RDS resource by ARN: AddTagsToResource, RemoveTagsFromResource, ListTagsForResource."""

from __future__ import annotations

import msgspec

from mainstay.decide.rds_tags import tag_list, with_tags, without_tags
from mainstay.model.errors import invalid_value
from mainstay.services.operations import Call, Request, Result
from mainstay.services.rds.demands import on_arn
from mainstay.services.rds.filters import NO_FILTERS, select
from mainstay.services.rds.resources import BY_NAME, Tagged, own_arn
from mainstay.services.rds.table import handles


def find_resource(call: Call, text: str) -> Tagged:
    """The resource of an ARN.

    Raises the NotFound error of its kind if it does not exist, and `ApiError` InvalidParameterValue for text that is
    no ARN, or one of another account, region or kind.
    """
    arn = own_arn(call.scope, text)
    resource_type = BY_NAME.get(arn.resource_type)
    if resource_type is None:
        raise invalid_value(f"Invalid resource name: {text}")
    record = resource_type.find(call.tx, call.scope, arn.name)
    if record is None:
        raise resource_type.not_found(arn.name)
    return record


@handles("AddTagsToResource", on_arn("ResourceName"))
def add_tags_to_resource(call: Call, request: Request) -> Result:
    """Writes the tags over the resource's own; adding the same again changes nothing."""
    record = find_resource(call, request["ResourceName"])
    call.tx.put(msgspec.structs.replace(record, tags=with_tags(record.tags, request["Tags"])))
    return None


@handles("RemoveTagsFromResource", on_arn("ResourceName"))
def remove_tags_from_resource(call: Call, request: Request) -> Result:
    """Removes the tags of these keys; absent ones are no error."""
    record = find_resource(call, request["ResourceName"])
    call.tx.put(msgspec.structs.replace(record, tags=without_tags(record.tags, request["TagKeys"])))
    return None


@handles("ListTagsForResource", on_arn("ResourceName"))
def list_tags_for_resource(call: Call, request: Request) -> Result:
    """All tags of the resource."""
    record = find_resource(call, request["ResourceName"])
    return {"TagList": select(tag_list(record.tags), request, NO_FILTERS)}
