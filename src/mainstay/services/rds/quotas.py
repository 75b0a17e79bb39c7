"""How many of each thing an account may have in a region: the defaults of AWS."""

from __future__ import annotations

from mainstay.model.errors import ApiError

DB_INSTANCES = 40
ALLOCATED_STORAGE_GIB = 100_000
MANUAL_SNAPSHOTS = 100
SHARED_ACCOUNTS_PER_SNAPSHOT = 20
RETAINED_AUTOMATED_BACKUPS = 40
REPLICATED_AUTOMATED_BACKUPS = 20
DB_PARAMETER_GROUPS = 50
OPTION_GROUPS = 20
DB_SUBNET_GROUPS = 50
SUBNETS_PER_DB_SUBNET_GROUP = 20
EVENT_SUBSCRIPTIONS = 20
READ_REPLICAS_PER_SOURCE = 15
RESERVED_DB_INSTANCES = 40
DB_PROXIES = 20
DB_PROXY_ENDPOINTS_PER_PROXY = 20
AUTH_PER_DB_PROXY = 200


def require_room(used: int, limit: int, shape: str, plural: str) -> None:
    """Raises the quota error `shape` if there is no room for one more."""
    if used >= limit:
        raise ApiError(shape, f"Cannot create more than {limit} {plural}")
