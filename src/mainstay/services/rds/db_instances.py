"""DescribeDBInstances and what other operations need to find an instance."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from mainstay.decide.identifiers import parse_arn
from mainstay.model.db_instance import DBInstance
from mainstay.model.errors import ApiError
from mainstay.services.operations import Call, Request, Result
from mainstay.services.rds.demands import on
from mainstay.services.rds.filters import select
from mainstay.services.rds.instance_view import InstanceView
from mainstay.services.rds.paging import page, stored_page
from mainstay.services.rds.table import handles


def find_instance(call: Call, named: str) -> DBInstance:
    """The instance of this identifier or ARN. Raises `ApiError` DBInstanceNotFound."""
    arn = parse_arn(named)
    identifier = (named if arn is None else arn.name).lower()
    instance = call.tx.get(DBInstance, call.scope, identifier)
    if instance is None or (arn is not None and instance.arn != named):
        raise ApiError("DBInstanceNotFoundFault", f"DBInstance {named} not found.")
    return instance


def require_available(call: Call, instance: DBInstance) -> None:
    """Raises `ApiError` InvalidDBInstanceState unless the instance is available."""
    status = InstanceView(call).status(instance)
    if status not in ("available", "storage-optimization"):
        raise ApiError(
            "InvalidDBInstanceStateFault", f"Instance {instance.db_instance_identifier} is not in available state."
        )


@handles("DescribeDBInstances", on("db", "DBInstanceIdentifier"))
def describe_db_instances(call: Call, request: Request) -> Result:
    """One instance, or those that pass the filters, a page at a time."""
    view = InstanceView(call)
    if request.get("DBInstanceIdentifier"):
        instances = select([find_instance(call, request["DBInstanceIdentifier"])], request, _COLUMNS)
        return {"DBInstances": [view.show(instance) for instance in instances]}
    if request.get("Filters"):
        shown, more = page(select(_candidates(call, request), request, _COLUMNS), DBInstance.key, request)
    else:
        shown, more = stored_page(partial(_scan, call), DBInstance.key, request)
    return {"DBInstances": [view.show(instance) for instance in shown]} | more


def _scan(call: Call, after: str, limit: int) -> list[DBInstance]:
    return call.tx.scan(DBInstance, call.scope, after=after, limit=limit)


def _candidates(call: Call, request: Request) -> Iterable[DBInstance]:
    """All instances, or by index the few that a filter on an identifier can let through (Terraform polls like this)."""
    for one in request.get("Filters") or ():
        if one.get("Name") == "dbi-resource-id":
            return [
                found
                for value in dict.fromkeys(one.get("Values") or ())
                for found in call.tx.find(
                    DBInstance, call.scope, "dbi-resource-id", str(value).upper().replace("DB-", "db-")
                )
            ]
    return call.tx.scan(DBInstance, call.scope)


_COLUMNS = {
    "db-instance-id": lambda one: (one.db_instance_identifier, one.arn),
    "dbi-resource-id": lambda one: (one.dbi_resource_id,),
    "engine": lambda one: (one.engine,),
    "db-cluster-id": lambda one: (),
    "domain": lambda one: (),
}
