"""Every Secrets Manager operation: importing the modules fills the table."""

from mainstay.services.secretsmanager import (
    listing,
    random_password,
    resource_policies,
    rotation,
    secrets,
    tags,
    versions,
)
from mainstay.services.secretsmanager.table import operations

__all__ = [
    "listing",
    "operations",
    "random_password",
    "resource_policies",
    "rotation",
    "secrets",
    "tags",
    "versions",
]
