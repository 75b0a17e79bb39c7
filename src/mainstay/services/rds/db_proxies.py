"""CreateDBProxy, DescribeDBProxies, ModifyDBProxy, DeleteDBProxy. Source: RDS API reference."""

from __future__ import annotations

from typing import Any

import msgspec

from mainstay.decide.identifiers import check_db_instance_identifier
from mainstay.decide.rds_tags import with_tags
from mainstay.engines.registry import Engines
from mainstay.host.randomness import HEX
from mainstay.model.db_proxy import (
    DEFAULT_ENDPOINT,
    DELETING,
    ENGINE_FAMILIES,
    MODIFYING,
    DBProxy,
    DBProxyTargetGroup,
)
from mainstay.model.errors import ApiError, invalid_value
from mainstay.services.ec2.changes import notify
from mainstay.services.ec2.interfaces import set_interface_groups
from mainstay.services.operations import Call, Request, Result
from mainstay.services.rds.db_proxy_auth import check_auth, check_default_auth_scheme, check_role
from mainstay.services.rds.db_proxy_lookup import (
    converge,
    find_proxy,
    handles_proxies,
    proxy_arn,
    proxy_named,
    require_present,
)
from mainstay.services.rds.db_proxy_network import PROXY, new_endpoint, place
from mainstay.services.rds.db_proxy_view import show_proxy
from mainstay.services.rds.filters import NO_FILTERS, select
from mainstay.services.rds.paging import page
from mainstay.services.rds.placement import security_groups
from mainstay.services.rds.quotas import DB_PROXIES, require_room
from mainstay.workflows.proxy_specs import endpoints_of

ID_CHARACTERS = 17
IDLE_CLIENT_TIMEOUT_S = (1, 28_800)
DEFAULT_IDLE_CLIENT_TIMEOUT_S = 1800


@handles_proxies("CreateDBProxy")
def create_db_proxy(call: Call, request: Request) -> Result:
    """Records the proxy as `creating`, with its target group and default endpoint, and starts bringing it up."""
    name = check_db_instance_identifier(request["DBProxyName"], "DBProxyName")
    _require_free(call, name)
    require_room(call.tx.count(DBProxy, call.scope), DB_PROXIES, "DBProxyQuotaExceededFault", "DB proxies")
    family = _family(call, request["EngineFamily"])
    where = place(call, request)
    now = call.clock.wall()
    debug = bool(request.get("DebugLogging"))
    proxy = DBProxy(
        scope=call.scope,
        db_proxy_id=new_id(call, "prx"),
        db_proxy_name=name,
        engine_family=family,
        default_auth_scheme=check_default_auth_scheme(request.get("DefaultAuthScheme")),
        auth=check_auth(call.scope, family, request.get("Auth")),
        role_arn=check_role(call.scope, request["RoleArn"]),
        vpc_id=where.vpc_id,
        vpc_subnet_ids=where.subnet_ids,
        vpc_security_group_ids=where.group_ids,
        require_tls=bool(request.get("RequireTLS")),
        idle_client_timeout_s=_idle_client_timeout_s(request.get("IdleClientTimeout", DEFAULT_IDLE_CLIENT_TIMEOUT_S)),
        debug_logging=debug,
        debug_logging_since=now if debug else 0.0,
        tags=with_tags({}, request.get("Tags") or ()),
        created_at=now,
        updated_at=now,
    )
    call.tx.insert(proxy)
    group = DBProxyTargetGroup(
        scope=call.scope,
        target_group_id=new_id(call, "prx-tg"),
        db_proxy_id=proxy.db_proxy_id,
        created_at=now,
        updated_at=now,
    )
    call.tx.insert(group)
    new_endpoint(call, proxy.db_proxy_id, proxy.db_proxy_id, where, db_proxy_endpoint_name=DEFAULT_ENDPOINT)
    converge(call, proxy)
    return {"DBProxy": show_proxy(call, proxy)}


@handles_proxies("DescribeDBProxies", proxy_arn)
def describe_db_proxies(call: Call, request: Request) -> Result:
    """One proxy, or all of them a page at a time."""
    named = request.get("DBProxyName")
    proxies = [find_proxy(call, named)] if named else call.tx.scan(DBProxy, call.scope)
    shown, more = page(select(proxies, request, NO_FILTERS), lambda proxy: proxy.db_proxy_name, request)
    return {"DBProxies": [show_proxy(call, proxy) for proxy in shown]} | more


@handles_proxies("ModifyDBProxy", proxy_arn)
def modify_db_proxy(call: Call, request: Request) -> Result:
    """Accepts the changes; they are in force when the status is available again. A new name changes the endpoint's."""
    before = find_proxy(call, request["DBProxyName"])
    require_present(before)
    after = msgspec.structs.replace(before, **_changes(call, before, request))
    after = msgspec.structs.replace(after, change=MODIFYING, failure="", updated_at=call.clock.wall())
    call.tx.put(after)
    if after.vpc_security_group_ids != before.vpc_security_group_ids:
        _regroup(call, after)
    converge(call, after)
    return {"DBProxy": show_proxy(call, after)}


@handles_proxies("DeleteDBProxy", proxy_arn)
def delete_db_proxy(call: Call, request: Request) -> Result:
    """Deletes the proxy with its endpoints and registrations; its clients are cut off, the database is not touched."""
    proxy = find_proxy(call, request["DBProxyName"])
    if proxy.change == DELETING:
        raise ApiError("InvalidDBProxyStateFault", f"DB proxy {proxy.db_proxy_name} is already being deleted.")
    proxy = msgspec.structs.replace(proxy, change=DELETING)
    call.tx.put(proxy)
    for endpoint in endpoints_of(call.tx, proxy):
        call.tx.put(msgspec.structs.replace(endpoint, change=DELETING))
    converge(call, proxy)
    return {"DBProxy": show_proxy(call, proxy)}


def new_id(call: Call, prefix: str) -> str:
    """A fresh id in the form of RDS's: the prefix and 17 hexadecimal digits."""
    return f"{prefix}-{call.randomness.text(ID_CHARACTERS, HEX)}"


def _changes(call: Call, proxy: DBProxy, request: Request) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if request.get("NewDBProxyName"):
        changes["db_proxy_name"] = name = check_db_instance_identifier(request["NewDBProxyName"], "NewDBProxyName")
        if name != proxy.db_proxy_name:
            _require_free(call, name)
    if "DefaultAuthScheme" in request:
        changes["default_auth_scheme"] = check_default_auth_scheme(request["DefaultAuthScheme"])
    if "Auth" in request:
        changes["auth"] = check_auth(call.scope, proxy.engine_family, request["Auth"])
    if "RequireTLS" in request:
        changes["require_tls"] = request["RequireTLS"]
    if "IdleClientTimeout" in request:
        changes["idle_client_timeout_s"] = _idle_client_timeout_s(request["IdleClientTimeout"])
    if "DebugLogging" in request:
        changes["debug_logging"] = request["DebugLogging"]
        changes["debug_logging_since"] = call.clock.wall() if request["DebugLogging"] else 0.0
    if "RoleArn" in request:
        changes["role_arn"] = check_role(call.scope, request["RoleArn"])
    if request.get("SecurityGroups"):
        changes["vpc_security_group_ids"] = security_groups(call, proxy.vpc_id, request["SecurityGroups"], of=PROXY)
    return changes


def _regroup(call: Call, proxy: DBProxy) -> None:
    """The proxy's security groups are its default endpoint's."""
    default = endpoints_of(call.tx, proxy)[0]
    for interface_id in default.interface_ids:
        set_interface_groups(call.tx, call.scope, interface_id, proxy.vpc_security_group_ids)
    call.tx.put(msgspec.structs.replace(default, vpc_security_group_ids=proxy.vpc_security_group_ids))
    notify(call)


def _require_free(call: Call, name: str) -> None:
    if proxy_named(call, name) is not None:
        raise ApiError("DBProxyAlreadyExistsFault", f"DB proxy {name} already exists.")


def _family(call: Call, family: str) -> str:
    """The engine family, if proxies of it are served and an engine of it is here."""
    engines = call.use(Engines).names()
    here = [name for name, one in ENGINE_FAMILIES.items() if one.served and not one.engines.isdisjoint(engines)]
    if family not in here:
        raise invalid_value(
            f"The engine family {family} is not available in this version of Mainstay. Valid values: {', '.join(here)}"
        )
    return family


def _idle_client_timeout_s(seconds: int) -> int:
    least, most = IDLE_CLIENT_TIMEOUT_S
    if not least <= seconds <= most:
        raise invalid_value(f"IdleClientTimeout must be between {least} and {most} seconds, not {seconds}.")
    return seconds
