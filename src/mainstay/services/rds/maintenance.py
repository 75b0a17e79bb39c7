"""DescribePendingMaintenanceActions: work that waits for an instance's maintenance window.

There is no action that the service itself forces on an instance, so the list holds what a user scheduled.
"""

from __future__ import annotations

from typing import Any

from mainstay.decide.windows import next_start, parse_maintenance_window
from mainstay.model.db_instance import DBInstance
from mainstay.model.errors import ApiError
from mainstay.services.operations import Call, Request, Result
from mainstay.services.rds.demands import on
from mainstay.services.rds.filters import select
from mainstay.services.rds.paging import page
from mainstay.services.rds.resources import own_arn
from mainstay.services.rds.table import handles

NEXT_MAINTENANCE = "next-maintenance"


@handles("DescribePendingMaintenanceActions", on("db", "ResourceIdentifier"))
def describe_pending_maintenance_actions(call: Call, request: Request) -> Result:
    """Resources with pending actions, one or all; those without are left out, as on AWS."""
    named = request.get("ResourceIdentifier")
    instances = [_named(call, named)] if named else call.tx.scan(DBInstance, call.scope)
    columns = {
        "db-instance-id": lambda instance: (instance.db_instance_identifier, instance.arn),
        "db-cluster-id": lambda _instance: (),
    }
    waiting = [
        (instance, actions) for instance in select(instances, request, columns) if (actions := _actions(call, instance))
    ]
    shown, more = page(waiting, lambda pair: pair[0].db_instance_identifier, request)
    return {
        "PendingMaintenanceActions": [
            {"ResourceIdentifier": instance.arn, "PendingMaintenanceActionDetails": actions}
            for instance, actions in shown
        ]
    } | more


def _named(call: Call, text: str) -> DBInstance:
    arn = own_arn(call.scope, text)
    instance = call.tx.get(DBInstance, call.scope, arn.name)
    if instance is None or instance.arn != text:
        raise ApiError("ResourceNotFoundFault", f"The specified resource {text} was not found.")
    return instance


def _actions(call: Call, instance: DBInstance) -> list[dict[str, Any]]:
    pending = instance.pending
    descriptions: dict[str, str] = {}
    if pending.engine_version is not None:
        descriptions["db-upgrade"] = f"Upgrade to {instance.engine} {pending.engine_version}"
    if pending.ca_certificate_identifier is not None:
        descriptions["ca-certificate-rotation"] = f"Rotation to {pending.ca_certificate_identifier}"
    at = next_start(parse_maintenance_window(instance.preferred_maintenance_window), call.clock.wall())
    return [
        {
            "Action": action,
            "OptInStatus": NEXT_MAINTENANCE,
            "AutoAppliedAfterDate": at,
            "CurrentApplyDate": at,
            "Description": description,
        }
        for action, description in descriptions.items()
    ]
