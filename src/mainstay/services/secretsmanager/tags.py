"""TagResource and UntagResource. A change that would take the caller's own permission away is refused, as on AWS."""

from __future__ import annotations

import msgspec

from mainstay.model.secrets_manager import StoredSecret
from mainstay.services.operations import Call, Request, Result
from mainstay.services.secretsmanager.checks import with_tags, without_tags
from mainstay.services.secretsmanager.table import demand, on_secret


@on_secret("TagResource")
def tag_resource(call: Call, request: Request, secret: StoredSecret) -> Result:
    """Writes the tags over the secret's own."""
    return _retagged(call, request, "TagResource", secret, with_tags(secret.tags, request["Tags"]))


@on_secret("UntagResource")
def untag_resource(call: Call, request: Request, secret: StoredSecret) -> Result:
    """Removes the tags of these keys; absent ones are no error."""
    return _retagged(call, request, "UntagResource", secret, without_tags(secret.tags, request["TagKeys"]))


def _retagged(call: Call, request: Request, name: str, secret: StoredSecret, tags: dict[str, str]) -> Result:
    changed = msgspec.structs.replace(secret, tags=tags, changed_at=call.clock.wall())
    demand(call, request, name, changed)
    call.tx.put(changed)
    return None
