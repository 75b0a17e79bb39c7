"""CreateDBProxyEndpoint, DescribeDBProxyEndpoints, ModifyDBProxyEndpoint, DeleteDBProxyEndpoint.

Source: RDS API reference, operations of these names.
"""

from __future__ import annotations

from typing import Any

import msgspec

from mainstay.decide.identifiers import check_db_instance_identifier
from mainstay.decide.rds_tags import with_tags
from mainstay.model.db_proxy import DELETING, MODIFYING, DBProxy, DBProxyEndpoint
from mainstay.model.errors import ApiError
from mainstay.services.ec2.changes import notify
from mainstay.services.ec2.interfaces import set_interface_groups
from mainstay.services.operations import Call, Request, Result
from mainstay.services.rds.db_proxies import new_id
from mainstay.services.rds.db_proxy_lookup import (
    converge,
    endpoint_arn,
    endpoint_named,
    find_endpoint,
    find_proxy,
    handles_proxies,
    proxy_arn,
    require_present,
)
from mainstay.services.rds.db_proxy_network import PROXY, check_not_reserved, check_target_role, new_endpoint, place
from mainstay.services.rds.db_proxy_view import show_endpoint
from mainstay.services.rds.filters import NO_FILTERS, select
from mainstay.services.rds.paging import page
from mainstay.services.rds.placement import security_groups
from mainstay.services.rds.quotas import DB_PROXY_ENDPOINTS_PER_PROXY, require_room
from mainstay.services.rds.resources import BY_KIND
from mainstay.workflows.proxy_specs import endpoints_of


@handles_proxies("CreateDBProxyEndpoint", proxy_arn, endpoint_arn)
def create_db_proxy_endpoint(call: Call, request: Request) -> Result:
    """One more address of the proxy, in subnets and security groups of its own, of any VPC."""
    proxy = find_proxy(call, request["DBProxyName"])
    name = _free_name(call, request["DBProxyEndpointName"], "DBProxyEndpointName")
    require_present(proxy)
    own = [one for one in endpoints_of(call.tx, proxy) if not one.is_default]
    require_room(
        len(own), DB_PROXY_ENDPOINTS_PER_PROXY, "DBProxyEndpointQuotaExceededFault", "endpoints for a DB proxy"
    )
    endpoint = new_endpoint(
        call,
        proxy.db_proxy_id,
        new_id(call, "prx-endpoint"),
        place(call, request),
        db_proxy_endpoint_name=name,
        target_role=check_target_role(request),
        tags=with_tags({}, request.get("Tags") or ()),
    )
    converge(call, proxy)
    return {"DBProxyEndpoint": show_endpoint(call, proxy, endpoint)}


@handles_proxies("DescribeDBProxyEndpoints", endpoint_arn)
def describe_db_proxy_endpoints(call: Call, request: Request) -> Result:
    """Endpoints by name or proxy, or all of them a page at a time, default ones too."""
    found = _named(call, request)
    shown, more = page(select(found, request, NO_FILTERS), _order, request)
    return {"DBProxyEndpoints": [show_endpoint(call, proxy, endpoint) for proxy, endpoint in shown]} | more


@handles_proxies("ModifyDBProxyEndpoint", endpoint_arn)
def modify_db_proxy_endpoint(call: Call, request: Request) -> Result:
    """Changes the endpoint's name, and with it its DNS name, or its security groups."""
    endpoint = find_endpoint(call, request["DBProxyEndpointName"])
    proxy = _proxy_of(call, endpoint)
    require_present(proxy)
    _refuse_deleted(endpoint)
    changes: dict[str, Any] = {"change": MODIFYING}
    new_name = request.get("NewDBProxyEndpointName")
    if new_name and new_name.lower() != endpoint.db_proxy_endpoint_name:
        changes["db_proxy_endpoint_name"] = _free_name(call, new_name, "NewDBProxyEndpointName")
    if request.get("VpcSecurityGroupIds"):
        wanted = security_groups(call, endpoint.vpc_id, request["VpcSecurityGroupIds"], of=PROXY)
        changes["vpc_security_group_ids"] = wanted
        for interface_id in endpoint.interface_ids:
            set_interface_groups(call.tx, call.scope, interface_id, wanted)
        notify(call)
    endpoint = msgspec.structs.replace(endpoint, **changes)
    call.tx.put(endpoint)
    converge(call, proxy)
    return {"DBProxyEndpoint": show_endpoint(call, proxy, endpoint)}


@handles_proxies("DeleteDBProxyEndpoint", endpoint_arn)
def delete_db_proxy_endpoint(call: Call, request: Request) -> Result:
    """Deletes the endpoint and cuts its clients off; the proxy's other endpoints are not touched."""
    endpoint = find_endpoint(call, request["DBProxyEndpointName"])
    proxy = _proxy_of(call, endpoint)
    _refuse_deleted(endpoint)
    endpoint = msgspec.structs.replace(endpoint, change=DELETING)
    call.tx.put(endpoint)
    converge(call, proxy)
    return {"DBProxyEndpoint": show_endpoint(call, proxy, endpoint)}


def _named(call: Call, request: Request) -> list[tuple[DBProxy, DBProxyEndpoint]]:
    proxy_name, name = request.get("DBProxyName"), request.get("DBProxyEndpointName")
    proxies = [find_proxy(call, proxy_name)] if proxy_name else call.tx.scan(DBProxy, call.scope)
    found = [
        (proxy, endpoint)
        for proxy in proxies
        for endpoint in endpoints_of(call.tx, proxy)
        if name is None or endpoint.db_proxy_endpoint_name == name.lower()
    ]
    if name is not None and not found:
        raise BY_KIND[DBProxyEndpoint].not_found(name)
    return found


def _order(pair: tuple[DBProxy, DBProxyEndpoint]) -> str:
    return f"{pair[0].db_proxy_name}/{pair[1].db_proxy_endpoint_name}"


def _proxy_of(call: Call, endpoint: DBProxyEndpoint) -> DBProxy:
    proxy = call.tx.get(DBProxy, call.scope, endpoint.db_proxy_id)
    if proxy is None:
        raise BY_KIND[DBProxy].not_found(endpoint.db_proxy_id)
    return proxy


def _free_name(call: Call, text: str, member: str) -> str:
    name = check_not_reserved(check_db_instance_identifier(text, member))
    if endpoint_named(call, name) is not None:
        raise ApiError("DBProxyEndpointAlreadyExistsFault", f"DB proxy endpoint {name} already exists.")
    return name


def _refuse_deleted(endpoint: DBProxyEndpoint) -> None:
    if endpoint.change == DELETING:
        raise ApiError(
            "InvalidDBProxyEndpointStateFault",
            f"DB proxy endpoint {endpoint.db_proxy_endpoint_name} is already being deleted.",
        )
