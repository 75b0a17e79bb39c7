"""Who uses which managed policy."""

from __future__ import annotations

from collections import defaultdict

import msgspec

from mainstay.model.iam import Entity
from mainstay.services.iam.lookup import ENTITY_KINDS, global_scope
from mainstay.services.operations import Call


class Usage(msgspec.Struct):
    """The entities a policy is attached to, and those whose boundary it is."""

    attached: list[Entity] = []
    boundary_of: list[Entity] = []


def policy_usage(call: Call) -> defaultdict[str, Usage]:
    """ARN -> usage, for all policies in use, found in one pass over users, groups and roles."""
    usage: defaultdict[str, Usage] = defaultdict(Usage)
    for kind in ENTITY_KINDS:
        for entity in call.tx.scan(kind, global_scope(call)):
            for arn in entity.attached_policies:
                usage[arn].attached.append(entity)
            if boundary := getattr(entity, "permissions_boundary", ""):
                usage[boundary].boundary_of.append(entity)
    return usage
