"""From what the user wants (proxy, target group, endpoints, secrets) to what the proxy process must do.

The one place that makes a `ProxySpec`, from records alone. `refresh_proxy` is idempotent: it writes a new generation
only if something in the spec differs from the last one, so that any number of callers may ask for it at any time.
"""

from __future__ import annotations

import hashlib

import msgspec
import structlog

from mainstay.host.certificates import RENEW_BEFORE_S
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_proxy import (
    CREATING,
    DELETING,
    ENGINE_FAMILIES,
    READ_ONLY,
    DBProxy,
    DBProxyEndpoint,
    DBProxyTargetGroup,
    GivenProxySpec,
)
from mainstay.model.ec2 import NetworkInterface
from mainstay.model.node import ServerCertificate
from mainstay.model.proxy import ProxyListener, ProxySpec, ProxyUser
from mainstay.model.records import Scope
from mainstay.services.ec2.interfaces import access_list_for
from mainstay.services.rds.events import record_event
from mainstay.settings import Settings
from mainstay.store import Reader, Transaction
from mainstay.workflows.engine import Tools
from mainstay.workflows.proxy_credentials import Credentials, read_credentials

KEY_CONTEXT = "proxy-certificate-key:"
USERS_CONTEXT = "proxy-users:"
log = structlog.get_logger()


def endpoint_name(settings: Settings, proxy: DBProxy, endpoint: DBProxyEndpoint) -> str:
    """The RDS-style name: `<proxy>.proxy-<12 characters constant per account and region>.<region>.rds.<zone>`."""
    scope = proxy.scope
    constant = hashlib.sha256(str(scope).encode()).hexdigest()[:12]
    label = proxy.db_proxy_name if endpoint.is_default else f"{endpoint.db_proxy_endpoint_name}.endpoint"
    return f"{label}.proxy-{constant}.{scope.region}.rds.{settings.dns_zone}"


def proxy_of(reader: Reader, scope: Scope, subject: str) -> DBProxy | None:
    """The proxy that a job's subject ("proxy:prx-…") names, or None when it has gone."""
    return reader.get(DBProxy, scope, subject.removeprefix("proxy:"))


def target_group_of(reader: Reader, proxy: DBProxy) -> DBProxyTargetGroup:
    """The proxy's one target group."""
    return reader.find(DBProxyTargetGroup, proxy.scope, "db-proxy", proxy.db_proxy_id)[0]


def endpoints_of(reader: Reader, proxy: DBProxy) -> list[DBProxyEndpoint]:
    """The proxy's endpoints, the default one first."""
    found = reader.find(DBProxyEndpoint, proxy.scope, "db-proxy", proxy.db_proxy_id)
    return sorted(found, key=lambda one: (not one.is_default, one.db_proxy_endpoint_name))


def target_of(reader: Reader, group: DBProxyTargetGroup) -> DBInstance | None:
    """The instance that is registered with the group, None without one or if it is gone."""
    found = reader.find(DBInstance, group.scope, "dbi-resource-id", group.target) if group.target else []
    return found[0] if found else None


def refresh_proxy(tx: Transaction, tools: Tools, proxy: DBProxy) -> GivenProxySpec:
    """Writes the proxy's spec as it should be now and returns it, its secrets still sealed away."""
    given = tx.get(GivenProxySpec, proxy.scope, proxy.db_proxy_id)
    wanted = wanted_spec(tx, tools, proxy, given)
    if given is None:
        wanted = _of_generation(wanted, 1)
        tx.insert(wanted)
    elif wanted == given:
        return given
    else:
        if (wanted.spec, wanted.sealed_users) != (given.spec, given.sealed_users):
            wanted = _of_generation(wanted, given.spec.generation + 1)
        tx.put(wanted)
    told = () if given is None else given.credential_problems
    for problem in wanted.credential_problems:
        if problem not in told:
            log.warning("proxy.credentials", proxy=proxy.db_proxy_name, problem=problem)
            record_event(tx, tools.clock, proxy, "MAINSTAY-EVENT-0001", reason=problem)
    return wanted


def wanted_spec(reader: Reader, tools: Tools, proxy: DBProxy, given: GivenProxySpec | None) -> GivenProxySpec:
    """What the spec should be now, of the generation given last; equal to `given` if nothing has changed."""
    bare = ProxySpec(
        proxy_id=proxy.db_proxy_id,
        name=proxy.db_proxy_name,
        account_id=proxy.scope.account_id,
        region=proxy.scope.region,
        generation=0 if given is None else given.spec.generation,
        engine_family=proxy.engine_family,
    )
    if proxy.change == DELETING:
        return GivenProxySpec(scope=proxy.scope, spec=msgspec.structs.replace(bare, absent=True))
    group = target_group_of(reader, proxy)
    obstacle = _obstacle(reader, proxy, group)
    credentials = read_credentials(reader, tools, proxy)
    renew = given is None or given.certificates_valid_till - RENEW_BEFORE_S < tools.clock.wall()
    listeners, valid_till = _listeners(reader, tools, proxy, () if renew or given is None else given.spec.listeners)
    spec = msgspec.structs.replace(
        bare,
        listeners=listeners,
        require_tls=proxy.require_tls,
        idle_client_timeout_s=float(proxy.idle_client_timeout_s),
        debug_logging=proxy.debug_logging,
        pool=group.pool,
        target="" if obstacle or target_of(reader, group) is None else group.target,
    )
    known = 0.0 if renew or given is None else given.certificates_valid_till
    return GivenProxySpec(
        scope=proxy.scope,
        spec=spec,
        sealed_users=_sealed(tools, proxy, credentials, given),
        user_count=len(credentials.users),
        credential_problems=credentials.problems,
        obstacle=obstacle,
        certificates_valid_till=min((till for till in (known, valid_till) if till), default=0.0),
    )


def opened(given: GivenProxySpec, tools: Tools) -> ProxySpec:
    """The spec as the proxy process needs it: keys and users in the clear."""
    users: tuple[ProxyUser, ...] = ()
    if given.sealed_users:
        text = tools.vault.unseal(given.sealed_users, USERS_CONTEXT + given.spec.proxy_id)
        users = msgspec.json.decode(text, type=tuple[ProxyUser, ...])
    listeners = tuple(
        msgspec.structs.replace(
            one,
            certificate=msgspec.structs.replace(
                one.certificate,
                private_key_pem=tools.vault.unseal(one.certificate.private_key_pem, KEY_CONTEXT + one.endpoint_id),
            ),
        )
        for one in given.spec.listeners
    )
    return msgspec.structs.replace(given.spec, users=users, listeners=listeners)


def _of_generation(given: GivenProxySpec, generation: int) -> GivenProxySpec:
    return msgspec.structs.replace(given, spec=msgspec.structs.replace(given.spec, generation=generation))


def _sealed(tools: Tools, proxy: DBProxy, credentials: Credentials, given: GivenProxySpec | None) -> str:
    """The users, sealed; the very text of before if they are the same, for sealing twice never gives the same."""
    if not credentials.users:
        return ""
    context = USERS_CONTEXT + proxy.db_proxy_id
    text = msgspec.json.encode(credentials.users).decode()
    if given is not None and given.sealed_users and tools.vault.unseal(given.sealed_users, context) == text:
        return given.sealed_users
    return tools.vault.seal(text, context)


def _listeners(
    reader: Reader, tools: Tools, proxy: DBProxy, before: tuple[ProxyListener, ...]
) -> tuple[tuple[ProxyListener, ...], float]:
    """A listener per endpoint, and until when certificates that had to be issued are valid (0: none was issued)."""
    port = ENGINE_FAMILIES[proxy.engine_family].port
    certificates = {(one.endpoint_id, one.name, one.address): one.certificate for one in before}
    listeners: list[ProxyListener] = []
    valid_till = 0.0
    for endpoint in endpoints_of(reader, proxy):
        if endpoint.change == DELETING:
            continue
        name = endpoint_name(tools.settings, proxy, endpoint)
        certificate = certificates.get((endpoint.db_proxy_endpoint_id, name, endpoint.address))
        if certificate is None:
            issued, valid_till = tools.certificates.issue((name,), (endpoint.address,))
            sealed = tools.vault.seal(issued.private_key_pem, KEY_CONTEXT + endpoint.db_proxy_endpoint_id)
            certificate = ServerCertificate(issued.certificate_pem, sealed, issued.ca_pem)
        access = access_list_for(reader, proxy.scope, endpoint.vpc_security_group_ids, port)
        listeners.append(
            ProxyListener(
                endpoint_id=endpoint.db_proxy_endpoint_id,
                name=name,
                address=endpoint.address,
                port=port,
                admits=access.ipv4 + access.ipv6,
                certificate=certificate,
                read_only=endpoint.target_role == READ_ONLY,
            )
        )
    return tuple(listeners), valid_till


def _obstacle(reader: Reader, proxy: DBProxy, group: DBProxyTargetGroup) -> str:
    """Why the proxy must not reach its target: the instance's security groups hold for a proxy as for any client."""
    instance = target_of(reader, group)
    if instance is None or instance.change == CREATING:
        return ""
    default = endpoints_of(reader, proxy)[0]
    interfaces = (reader.get(NetworkInterface, proxy.scope, one) for one in default.interface_ids)
    own = [address for interface in interfaces if interface is not None for address in interface.addresses]
    access = access_list_for(reader, proxy.scope, instance.vpc_security_group_ids, instance.port)
    if any(access.admits(address) for address in own):
        return ""
    return (
        f"The security groups of DB instance {instance.db_instance_identifier}"
        f" ({', '.join(instance.vpc_security_group_ids)}) do not admit the proxy to port {instance.port}. Add an"
        f" inbound rule for one of the proxy's security groups: {', '.join(proxy.vpc_security_group_ids)}."
    )
