"""BackupRetentionPeriod: 0 (no automated backups) to 35 days, and what it takes to begin them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mainstay.engines.base import EngineRules, Feature
from mainstay.host.vault import Vault
from mainstay.model.db_instance import DBInstance
from mainstay.model.errors import invalid_value
from mainstay.services.operations import Call
from mainstay.workflows.automated_backups import begin_automated_backups
from mainstay.workflows.repositories import Makings

RETENTION_DAYS_MAX = 35
RETENTION_DAYS_DEFAULT = 1


def retention_period(request: Mapping[str, Any], default: int = RETENTION_DAYS_DEFAULT) -> int:
    """The days asked for. Raises `ApiError` InvalidParameterValue out of 0 to 35."""
    days: int = request.get("BackupRetentionPeriod", default)
    if not 0 <= days <= RETENTION_DAYS_MAX:
        raise invalid_value(
            f"Invalid backup retention period: {days}. The retention period must be between 0 and"
            f" {RETENTION_DAYS_MAX} days."
        )
    return days


def retention_period_of_new(rules: EngineRules, request: Mapping[str, Any]) -> int:
    """The days asked for, or those of an instance that asks for none: 0 for an engine that has no backups."""
    return retention_period(request, RETENTION_DAYS_DEFAULT if Feature.BACKUPS in rules.features else 0)


def makings(call: Call) -> Makings:
    """What a repository is made with."""
    return Makings(call.use(Vault), call.randomness, call.clock.wall())


def with_automated_backups(call: Call, instance: DBInstance) -> DBInstance:
    """The instance, before it is recorded, with a place for its automated backups if it is to have any."""
    if not instance.backup_retention_period_days:
        return instance
    return begin_automated_backups(call.tx, makings(call), instance)
