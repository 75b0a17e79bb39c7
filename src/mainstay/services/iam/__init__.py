"""IAM: users, groups, roles, policies and access keys, and the decisions that rest on them.

`principals` tells the front who calls, `authorization` whether the caller may; the other modules hold the operations.
"""

from mainstay.services.iam import (
    absent,
    access_keys,
    account,
    entity_policies,
    groups,
    policies,
    roles,
    service_linked,
    simulation,
    tags,
    users,
    versions,
)
from mainstay.services.iam.table import operations

__all__ = [
    "absent",
    "access_keys",
    "account",
    "entity_policies",
    "groups",
    "operations",
    "policies",
    "roles",
    "service_linked",
    "simulation",
    "tags",
    "users",
    "versions",
]
