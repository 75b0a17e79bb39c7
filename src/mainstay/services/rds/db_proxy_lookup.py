"""Finding proxies and what belongs to them by name, and what a call about them must be allowed to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from mainstay.model.db_proxy import (
    CREATING,
    DEFAULT_ENDPOINT,
    DEFAULT_TARGET_GROUP,
    DELETING,
    DBProxy,
    DBProxyEndpoint,
    DBProxyTargetGroup,
)
from mainstay.model.errors import ApiError
from mainstay.services.operations import Call, Demand, Demands, Handler, Request
from mainstay.services.rds.demands import request_context, resource_context
from mainstay.services.rds.resources import BY_KIND
from mainstay.services.rds.table import operations
from mainstay.workflows.db_proxy import request_convergence_in
from mainstay.workflows.proxy_specs import target_group_of

ArnsOf: TypeAlias = Callable[[Call, Request], Sequence[str]]


def proxy_named(call: Call, name: str) -> DBProxy | None:
    """The proxy of this name, in whatever case."""
    found = call.tx.find(DBProxy, call.scope, "name", name.lower())
    return found[0] if found else None


def endpoint_named(call: Call, name: str) -> DBProxyEndpoint | None:
    """The endpoint that a user made under this name, in whatever case."""
    found = call.tx.find(DBProxyEndpoint, call.scope, "name", name.lower())
    return found[0] if found else None


def find_proxy(call: Call, name: str) -> DBProxy:
    """The proxy of this name. Raises `ApiError` DBProxyNotFoundFault."""
    proxy = proxy_named(call, name)
    if proxy is None:
        raise BY_KIND[DBProxy].not_found(name)
    return proxy


def find_endpoint(call: Call, name: str) -> DBProxyEndpoint:
    """The user's endpoint of this name, for operations that change it.

    Raises `ApiError` DBProxyEndpointNotFoundFault, and InvalidDBProxyEndpointStateFault for the default one.
    """
    if name.lower() == DEFAULT_ENDPOINT:
        raise ApiError(
            "InvalidDBProxyEndpointStateFault",
            "The default endpoint of a DB proxy can be neither modified nor deleted: it changes with its proxy.",
        )
    endpoint = endpoint_named(call, name)
    if endpoint is None:
        raise BY_KIND[DBProxyEndpoint].not_found(name)
    return endpoint


def find_target_group(call: Call, proxy: DBProxy, name: str | None) -> DBProxyTargetGroup:
    """The proxy's target group, if it is the one named. Raises `ApiError` DBProxyTargetGroupNotFoundFault."""
    if name is not None and name.lower() != DEFAULT_TARGET_GROUP:
        raise BY_KIND[DBProxyTargetGroup].not_found(name)
    return target_group_of(call.tx, proxy)


def require_present(proxy: DBProxy) -> None:
    """Raises `ApiError` InvalidDBProxyStateFault while the proxy is being created or deleted."""
    if proxy.change in (CREATING, DELETING):
        raise ApiError(
            "InvalidDBProxyStateFault", f"DB proxy {proxy.db_proxy_name} is in an unsupported state: {proxy.change}."
        )


def converge(call: Call, proxy: DBProxy) -> None:
    """Starts bringing the proxy process to the records, or brings forward what is under way."""
    request_convergence_in(call.tx, call.clock.wall(), proxy)


def handles_proxies(name: str, *resources: ArnsOf) -> Callable[[Handler], Handler]:
    """Registers a handler that needs `rds:<name>` on each of the resources, on "*" without any.

    A request with tags also needs `rds:AddTagsToResource`, one with a RoleArn `iam:PassRole` on it.
    """
    return operations.handles(name, demands=_demands(f"rds:{name}", resources))


def _demands(action: str, resources: Sequence[ArnsOf]) -> Demands:
    def demands(call: Call, request: Request) -> Sequence[Demand]:
        requested = request_context(request)
        arns = [arn for arns_of in resources for arn in arns_of(call, request)] or ["*"]
        wanted = [Demand(action=action, resource=arn, context=resource_context(call, arn) | requested) for arn in arns]
        if request.get("Tags"):
            wanted.append(Demand(action="rds:AddTagsToResource", resource=arns[-1], context=requested))
        if request.get("RoleArn"):
            passed: dict[str, str | list[str]] = {"iam:PassedToService": "rds.amazonaws.com"}
            wanted.append(Demand(action="iam:PassRole", resource=str(request["RoleArn"]), context=passed))
        return wanted

    return demands


def proxy_arn(call: Call, request: Request) -> Sequence[str]:
    """The proxy named; without a name all of them. One that does not exist has its name where its id would be."""
    name = request.get("DBProxyName")
    proxy = proxy_named(call, str(name)) if name else None
    return (call.scope.arn("rds", f"db-proxy:{name.lower() if name else '*'}") if proxy is None else proxy.arn,)


def target_group_arn(call: Call, request: Request) -> Sequence[str]:
    """The target group of the proxy named."""
    proxy = proxy_named(call, str(request.get("DBProxyName") or ""))
    return (call.scope.arn("rds", "target-group:*") if proxy is None else target_group_of(call.tx, proxy).arn,)


def endpoint_arn(call: Call, request: Request) -> Sequence[str]:
    """The endpoint named; without a name, or before it exists, all of them."""
    name = request.get("DBProxyEndpointName")
    endpoint = endpoint_named(call, str(name)) if name else None
    return (call.scope.arn("rds", "db-proxy-endpoint:*") if endpoint is None else endpoint.arn,)


def instance_arns(call: Call, request: Request) -> Sequence[str]:
    """The DB instances named."""
    return [call.scope.arn("rds", f"db:{str(name).lower()}") for name in request.get("DBInstanceIdentifiers") or ()]
