"""Tags of keys. They are condition keys too, so a change of them may change who may use the key."""

from __future__ import annotations

import msgspec

from mainstay.model.kms import KmsKey
from mainstay.services.kms import limits
from mainstay.services.kms.checks import with_tags, without_tags
from mainstay.services.kms.lookup import refuse_pending
from mainstay.services.kms.pages import page
from mainstay.services.kms.table import on_key
from mainstay.services.operations import Call, Request, Result


@on_key("TagResource")
def tag_resource(call: Call, request: Request, key: KmsKey) -> Result:
    """Writes the tags over the key's own."""
    refuse_pending(key)
    call.tx.put(msgspec.structs.replace(key, tags=with_tags(key.tags, request["Tags"])))
    return None


@on_key("UntagResource")
def untag_resource(call: Call, request: Request, key: KmsKey) -> Result:
    """Removes the tags of these keys; absent ones are no error."""
    refuse_pending(key)
    call.tx.put(msgspec.structs.replace(key, tags=without_tags(key.tags, request["TagKeys"])))
    return None


@on_key("ListResourceTags")
def list_resource_tags(_call: Call, request: Request, key: KmsKey) -> Result:
    """Tags ordered by key."""
    shown, more = page(request, sorted(key.tags.items()), lambda tag: tag[0], limits.PAGE_TAGS)
    return {"Tags": [{"TagKey": name, "TagValue": value} for name, value in shown]} | more
