"""Target groups and targets of proxies: the connection pool's configuration, and the database behind it.

Source: RDS API reference, operations of these names; ConnectionPoolConfiguration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mainstay.model.db_instance import DBInstance
from mainstay.model.db_proxy import ENGINE_FAMILIES, MODIFYING, DBProxy, DBProxyTargetGroup
from mainstay.model.errors import ApiError, invalid_combination, invalid_value
from mainstay.model.proxy import PoolConfiguration
from mainstay.services.operations import Call, Request, Result
from mainstay.services.rds.db_instances import find_instance
from mainstay.services.rds.db_proxy_lookup import (
    converge,
    find_proxy,
    find_target_group,
    handles_proxies,
    instance_arns,
    proxy_arn,
    require_present,
    target_group_arn,
)
from mainstay.services.rds.db_proxy_view import show_target_group, show_targets
from mainstay.services.rds.filters import NO_FILTERS, select
from mainstay.services.rds.instance_view import InstanceView
from mainstay.services.rds.paging import page
from mainstay.workflows.proxy_specs import target_of

CONNECTIONS_PERCENT = (1, 100)
BORROW_TIMEOUT_S = (0, 3600)
INIT_QUERY_LENGTH = 16_384
REGISTRABLE = ("available", "modifying", "backing-up")
# Words of instances that run or are about to again, which RDS does not tell apart from the three above.
_REGISTRABLE_TOO = (
    "storage-optimization", "rebooting", "renaming", "upgrading", "maintenance", "resetting-master-credentials",
)  # fmt: skip


@handles_proxies("DescribeDBProxyTargetGroups", proxy_arn)
def describe_db_proxy_target_groups(call: Call, request: Request) -> Result:
    """The proxy's one target group."""
    proxy = find_proxy(call, request["DBProxyName"])
    found = [find_target_group(call, proxy, request.get("TargetGroupName"))]
    shown, more = page(select(found, request, NO_FILTERS), DBProxyTargetGroup.key, request)
    return {"TargetGroups": [show_target_group(proxy, group) for group in shown]} | more


@handles_proxies("ModifyDBProxyTargetGroup", target_group_arn)
def modify_db_proxy_target_group(call: Call, request: Request) -> Result:
    """Changes the connection pool; what is not given stays as it is."""
    proxy = find_proxy(call, request["DBProxyName"])
    group = find_target_group(call, proxy, request["TargetGroupName"])
    require_present(proxy)
    if request.get("NewName"):
        raise invalid_value("The default target group can't be renamed.")
    wanted = request.get("ConnectionPoolConfig") or {}
    group = msgspec.structs.replace(
        group,
        pool=_pool(group.pool, wanted),
        session_pinning_filters=_filters(proxy, group, wanted.get("SessionPinningFilters")),
        change=MODIFYING,
        updated_at=call.clock.wall(),
    )
    call.tx.put(group)
    converge(call, proxy)
    return {"DBProxyTargetGroup": show_target_group(proxy, group)}


@handles_proxies("DescribeDBProxyTargets", proxy_arn)
def describe_db_proxy_targets(call: Call, request: Request) -> Result:
    """The proxy's target with its health, or nothing while none is registered."""
    proxy = find_proxy(call, request["DBProxyName"])
    group = find_target_group(call, proxy, request.get("TargetGroupName"))
    targets = select(show_targets(call, proxy, group), request, NO_FILTERS)
    shown, more = page(targets, lambda target: str(target["RdsResourceId"]), request)
    return {"Targets": shown} | more


@handles_proxies("RegisterDBProxyTargets", target_group_arn, instance_arns)
def register_db_proxy_targets(call: Call, request: Request) -> Result:
    """Registers the one database that the proxy pools connections to."""
    proxy = find_proxy(call, request["DBProxyName"])
    group = find_target_group(call, proxy, request.get("TargetGroupName"))
    require_present(proxy)
    instance = _named_target(call, request)
    if group.target:
        raise ApiError(
            "DBProxyTargetAlreadyRegisteredFault",
            f"DB proxy {proxy.db_proxy_name} has a registered target already. Deregister it first.",
        )
    _check_target(call, proxy, instance)
    group = msgspec.structs.replace(group, target=instance.dbi_resource_id, target_since=call.clock.wall())
    call.tx.put(group)
    converge(call, proxy)
    return {"DBProxyTargets": show_targets(call, proxy, group)}


@handles_proxies("DeregisterDBProxyTargets", proxy_arn, target_group_arn, instance_arns)
def deregister_db_proxy_targets(call: Call, request: Request) -> Result:
    """Takes the database out of the target group; connections to it are closed."""
    proxy = find_proxy(call, request["DBProxyName"])
    group = find_target_group(call, proxy, request.get("TargetGroupName"))
    require_present(proxy)
    instance = target_of(call.tx, group)
    names = [str(name).lower() for name in request.get("DBInstanceIdentifiers") or ()]
    clusters = list(request.get("DBClusterIdentifiers") or ())
    registered = [] if instance is None else [instance.db_instance_identifier]
    for name in (*names, *clusters):
        if name not in registered:
            raise ApiError(
                "DBProxyTargetNotFoundFault", f"{name} is not registered with DB proxy {proxy.db_proxy_name}."
            )
    if not names:
        raise invalid_value("DBInstanceIdentifiers must be provided.")
    call.tx.put(msgspec.structs.replace(group, target="", target_since=0.0))
    converge(call, proxy)
    return {}


def _named_target(call: Call, request: Request) -> DBInstance:
    names = list(request.get("DBInstanceIdentifiers") or ())
    clusters = list(request.get("DBClusterIdentifiers") or ())
    if len(names) + len(clusters) != 1:
        raise invalid_combination("Specify exactly one DB instance or DB cluster to register with a DB proxy.")
    if clusters:
        raise ApiError("DBClusterNotFoundFault", f"DBCluster {clusters[0]} not found.")
    return find_instance(call, names[0])


def _check_target(call: Call, proxy: DBProxy, instance: DBInstance) -> None:
    name = instance.db_instance_identifier
    status = InstanceView(call).status(instance)
    if status not in (*REGISTRABLE, *_REGISTRABLE_TOO):
        words = ", ".join(word.upper().replace("-", "_") for word in REGISTRABLE)
        raise ApiError(
            "InvalidDBInstanceStateFault",
            f"DB instance {name} is in an unsupported state - {status.upper().replace('-', '_')}, needs to be in"
            f" [{words}]",
        )
    family = ENGINE_FAMILIES[proxy.engine_family]
    if instance.engine not in family.engines:
        raise invalid_value(
            f"DB instance {name} runs {instance.engine}, which is not of the proxy's engine family"
            f" {proxy.engine_family}."
        )
    if instance.source_dbi_resource_id:
        raise invalid_value(f"DB instance {name} is a read replica. Register its source DB instance instead.")
    if instance.vpc_id != proxy.vpc_id:
        raise invalid_value(
            f"The DB proxy and DB instance {name} are in different VPCs. The proxy is in {proxy.vpc_id} and the"
            f" instance is in {instance.vpc_id}."
        )


def _pool(present: PoolConfiguration, wanted: Mapping[str, Any]) -> PoolConfiguration:
    """The configuration with what a request asks for."""
    percent = wanted.get("MaxConnectionsPercent", present.max_connections_percent)
    _check_range("MaxConnectionsPercent", percent, CONNECTIONS_PERCENT)
    idle = wanted.get("MaxIdleConnectionsPercent")
    if idle is None:
        idle = percent // 2 if "MaxConnectionsPercent" in wanted else present.max_idle_connections_percent
    elif "MaxConnectionsPercent" not in wanted:
        raise invalid_combination("MaxConnectionsPercent must be specified together with MaxIdleConnectionsPercent.")
    _check_range("MaxIdleConnectionsPercent", idle, (0, percent))
    timeout_s = wanted.get("ConnectionBorrowTimeout", int(present.connection_borrow_timeout_s))
    _check_range("ConnectionBorrowTimeout", timeout_s, BORROW_TIMEOUT_S)
    query = wanted.get("InitQuery", present.init_query)
    if len(query) > INIT_QUERY_LENGTH or "\0" in query:
        raise invalid_value(f"InitQuery must be SQL of at most {INIT_QUERY_LENGTH} characters.")
    return msgspec.structs.replace(
        present,
        max_connections_percent=percent,
        max_idle_connections_percent=idle,
        connection_borrow_timeout_s=float(timeout_s),
        init_query=query,
    )


def _filters(proxy: DBProxy, group: DBProxyTargetGroup, wanted: list[str] | None) -> tuple[str, ...]:
    """SessionPinningFilters; only some engine families have any."""
    if wanted is None:
        return group.session_pinning_filters
    allowed = ENGINE_FAMILIES[proxy.engine_family].pinning_filters
    for one in wanted:
        if one not in allowed:
            valid = ", ".join(sorted(allowed)) or "none"
            raise invalid_value(
                f"SessionPinningFilters {one} is not valid for engine family {proxy.engine_family}. Valid values:"
                f" {valid}"
            )
    return tuple(dict.fromkeys(wanted))


def _check_range(member: str, value: int, bounds: tuple[int, int]) -> None:
    least, most = bounds
    if not least <= value <= most:
        raise invalid_value(f"{member} must be between {least} and {most}, not {value}.")
