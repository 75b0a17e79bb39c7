"""What the API says of a proxy: its status word and the health of its target, from records and what is seen."""

from __future__ import annotations

import msgspec

from mainstay.model.db_proxy import DBProxy, DBProxyEndpoint, DBProxyTargetGroup, GivenProxySpec
from mainstay.model.proxy import ProxyStatus, TargetState

AVAILABLE = "available"
UNAVAILABLE = "incompatible-network"
"""The word for a proxy whose listeners cannot be opened: the only one of RDS's that says where to look."""


class TargetHealth(msgspec.Struct, frozen=True):
    """TargetHealth of the RDS API; `reason` and `description` are "" where they do not hold."""

    state: TargetState
    reason: str = ""
    description: str = ""


def db_proxy_status(proxy: DBProxy, seen: ProxyStatus | None) -> str:
    """One of the words of DBProxyStatus."""
    return proxy.change or _word_at_rest(proxy, seen)


def db_proxy_endpoint_status(proxy: DBProxy, endpoint: DBProxyEndpoint, seen: ProxyStatus | None) -> str:
    """One of the words of DBProxyEndpointStatus; that of the default endpoint is its proxy's."""
    if endpoint.is_default:
        return db_proxy_status(proxy, seen)
    return endpoint.change or _word_at_rest(proxy, seen)


def _word_at_rest(proxy: DBProxy, seen: ProxyStatus | None) -> str:
    return UNAVAILABLE if proxy.failure or (seen is not None and seen.failure) else AVAILABLE


def target_health(group: DBProxyTargetGroup, given: GivenProxySpec | None, seen: ProxyStatus | None) -> TargetHealth:
    """The health of the group's target, which there must be.

    What stands in the way before any connection (no credentials, not admitted) is known to the control plane, all else
    is what the proxy process has found.
    """
    if given is None:
        return TargetHealth(TargetState.REGISTERING)
    if given.obstacle:
        return TargetHealth(TargetState.UNAVAILABLE, "UNREACHABLE", given.obstacle)
    if not given.user_count:
        problems = " ".join(("Proxy does not have any registered credentials.", *given.credential_problems))
        return TargetHealth(TargetState.UNAVAILABLE, "AUTH_FAILURE", problems)
    if given.spec.target != group.target:
        return TargetHealth(TargetState.REGISTERING)
    if seen is None:
        return TargetHealth(TargetState.UNAVAILABLE, "PENDING_PROXY_CAPACITY", "The proxy process is starting.")
    if seen.generation < given.spec.generation:
        return TargetHealth(TargetState.REGISTERING)
    if seen.target_state is not TargetState.UNAVAILABLE:
        return TargetHealth(seen.target_state)
    description = seen.target_description
    if seen.target_reason == "AUTH_FAILURE":
        description = " ".join(filter(None, (description, *given.credential_problems)))
    return TargetHealth(seen.target_state, seen.target_reason, description)
