"""Every KMS operation: importing the modules fills the table."""

from mainstay.services.kms import aliases, cryptography, grants, keys, policies, rotation, tags
from mainstay.services.kms.table import operations

__all__ = ["aliases", "cryptography", "grants", "keys", "operations", "policies", "rotation", "tags"]
