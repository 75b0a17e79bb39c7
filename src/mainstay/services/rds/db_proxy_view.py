"""Proxies, target groups, targets and endpoints as the API shows them. Values that do not hold are left out."""

from __future__ import annotations

from typing import Any

from mainstay.decide.db_proxy_status import db_proxy_endpoint_status, db_proxy_status, target_health
from mainstay.model.db_proxy import (
    DEFAULT_TARGET_GROUP,
    READ_WRITE,
    DBProxy,
    DBProxyEndpoint,
    DBProxyTargetGroup,
    GivenProxySpec,
    UserAuth,
)
from mainstay.model.node import Node
from mainstay.model.proxy import ProxyStatus
from mainstay.services.operations import Call
from mainstay.workflows.proxy_fleet import ProxyFleet
from mainstay.workflows.proxy_specs import endpoints_of, target_of

IPV4 = "IPV4"


def seen_of(call: Call, proxy: DBProxy) -> ProxyStatus | None:
    """What was last seen of the proxy."""
    fleet = call.use(ProxyFleet)  # type: ignore[type-abstract]  # the Protocol is the key of the collaborator
    return fleet.last_seen(proxy.db_proxy_id)


def show_proxy(call: Call, proxy: DBProxy) -> dict[str, Any]:
    """The whole `DBProxy` structure."""
    return {
        "DBProxyName": proxy.db_proxy_name,
        "DBProxyArn": proxy.arn,
        "Status": db_proxy_status(proxy, seen_of(call, proxy)),
        "EngineFamily": proxy.engine_family,
        "VpcId": proxy.vpc_id,
        "VpcSecurityGroupIds": list(proxy.vpc_security_group_ids),
        "VpcSubnetIds": list(proxy.vpc_subnet_ids),
        "DefaultAuthScheme": proxy.default_auth_scheme,
        "Auth": [_show_auth(auth) for auth in proxy.auth],
        "RoleArn": proxy.role_arn,
        "Endpoint": endpoints_of(call.tx, proxy)[0].address,
        "RequireTLS": proxy.require_tls,
        "IdleClientTimeout": proxy.idle_client_timeout_s,
        "DebugLogging": proxy.debug_logging,
        "CreatedDate": proxy.created_at,
        "UpdatedDate": proxy.updated_at,
        "EndpointNetworkType": IPV4,
        "TargetConnectionNetworkType": IPV4,
    }


def _show_auth(auth: UserAuth) -> dict[str, Any]:
    described = {"Description": auth.description} if auth.description else {}
    return described | {
        "AuthScheme": "SECRETS",
        "SecretArn": auth.secret_arn,
        "IAMAuth": auth.iam_auth,
        "ClientPasswordAuthType": str(auth.client_password_auth_type),
    }


def show_target_group(proxy: DBProxy, group: DBProxyTargetGroup) -> dict[str, Any]:
    """The whole `DBProxyTargetGroup` structure."""
    return {
        "DBProxyName": proxy.db_proxy_name,
        "TargetGroupName": DEFAULT_TARGET_GROUP,
        "TargetGroupArn": group.arn,
        "IsDefault": True,
        "Status": group.change or "available",
        "ConnectionPoolConfig": {
            "MaxConnectionsPercent": group.pool.max_connections_percent,
            "MaxIdleConnectionsPercent": group.pool.max_idle_connections_percent,
            "ConnectionBorrowTimeout": int(group.pool.connection_borrow_timeout_s),
            "SessionPinningFilters": list(group.session_pinning_filters),
        }
        | ({"InitQuery": group.pool.init_query} if group.pool.init_query else {}),
        "CreatedDate": group.created_at,
        "UpdatedDate": group.updated_at,
    }


def show_targets(call: Call, proxy: DBProxy, group: DBProxyTargetGroup) -> list[dict[str, Any]]:
    """The `DBProxyTarget` structures of the group: one or none."""
    instance = target_of(call.tx, group)
    if instance is None:
        return []
    given = call.tx.get(GivenProxySpec, proxy.scope, proxy.db_proxy_id)
    health = target_health(group, given, seen_of(call, proxy))
    node = call.tx.get(Node, instance.scope, instance.node_id)
    shown = {"State": str(health.state), "Reason": health.reason, "Description": health.description}
    return [
        {
            "TargetArn": instance.arn,
            "RdsResourceId": instance.db_instance_identifier,
            "Port": instance.port,
            "Type": "RDS_INSTANCE",
            "Role": READ_WRITE,
            "TargetHealth": {name: value for name, value in shown.items() if value},
        }
        | ({} if node is None else {"Endpoint": node.spec.endpoint.address})
    ]


def show_endpoint(call: Call, proxy: DBProxy, endpoint: DBProxyEndpoint) -> dict[str, Any]:
    """The whole `DBProxyEndpoint` structure."""
    return {
        "DBProxyEndpointName": endpoint.db_proxy_endpoint_name,
        "DBProxyEndpointArn": endpoint.arn,
        "DBProxyName": proxy.db_proxy_name,
        "Status": db_proxy_endpoint_status(proxy, endpoint, seen_of(call, proxy)),
        "VpcId": endpoint.vpc_id,
        "VpcSecurityGroupIds": list(endpoint.vpc_security_group_ids),
        "VpcSubnetIds": list(endpoint.vpc_subnet_ids),
        "Endpoint": endpoint.address,
        "CreatedDate": endpoint.created_at,
        "TargetRole": endpoint.target_role,
        "IsDefault": endpoint.is_default,
        "EndpointNetworkType": IPV4,
    }
