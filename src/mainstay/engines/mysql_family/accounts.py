"""Names of accounts in every engine of this family."""

from __future__ import annotations

ADMIN = "rdsadmin"
"""Locked: the definer of what runs with its privileges."""

OWN_HOST = "localhost"
"""Names sessions over the Unix socket only, because names are not resolved (skip_name_resolve)."""

EVERY_HOST = "%"
