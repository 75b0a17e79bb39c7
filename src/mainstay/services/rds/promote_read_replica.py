"""PromoteReadReplica: a replica becomes an instance of its own, for good. Source: RDS API reference."""

from __future__ import annotations

import msgspec

from mainstay.engines.registry import Engines
from mainstay.model.errors import ApiError, invalid_combination
from mainstay.services.operations import Call, Request, Result
from mainstay.services.rds.backup_settings import retention_period_of_new, with_automated_backups
from mainstay.services.rds.create_db_instance import windows
from mainstay.services.rds.db_instances import find_instance, require_available
from mainstay.services.rds.demands import on
from mainstay.services.rds.instance_view import InstanceView
from mainstay.services.rds.table import handles
from mainstay.services.rds.unbuilt import refuse_unbuilt, refuse_unbuilt_of
from mainstay.workflows.automated_backups import reschedule
from mainstay.workflows.read_replicas import put_promotion


@handles("PromoteReadReplica", on("db", "DBInstanceIdentifier"))
def promote_read_replica(call: Call, request: Request) -> Result:
    """Ends the replication; the instance takes writes when it is available again. Its own replicas stay with it."""
    replica = find_instance(call, request["DBInstanceIdentifier"])
    refuse_unbuilt(request)
    if not replica.source_dbi_resource_id:
        raise ApiError("InvalidDBInstanceStateFault", "DB Instance is not a read replica.")
    require_available(call, replica)
    if request.get("PreferredBackupWindow"):
        backup, _ = windows(
            call,
            {
                "PreferredBackupWindow": request["PreferredBackupWindow"],
                "PreferredMaintenanceWindow": replica.preferred_maintenance_window,
            },
        )
        replica = msgspec.structs.replace(replica, preferred_backup_window=backup)
    rules = call.use(Engines).rules(replica.engine)
    refuse_unbuilt_of(rules, request)
    days = retention_period_of_new(rules, request)
    began = bool(replica.backup_retention_period_days)
    if began and not days:
        raise invalid_combination(
            "Automated backups of a read replica that has them cannot be turned off by its promotion. Specify a"
            " BackupRetentionPeriod greater than 0."
        )
    replica = msgspec.structs.replace(replica, backup_retention_period_days=days)
    if not began:
        replica = with_automated_backups(call, replica)
    replica = put_promotion(call.tx, call.clock.wall(), replica)
    reschedule(call.tx, call.randomness, call.clock.wall(), replica)
    return {"DBInstance": InstanceView(call).show(replica)}
