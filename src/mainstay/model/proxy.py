"""RDS Proxies as the proxy process needs them: what it listens on, whom it lets in, which database it pools.

`ProxySpec` is made by control from the records of the proxy, its target group, its secrets and its security groups, and
handed to the proxy process, which reports `ProxyStatus`. It holds passwords: it travels over the private control socket
only and is kept in a file that only we can read.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from mainstay.model.node import ServerCertificate


class ClientPasswordAuthType(StrEnum):
    """How clients prove that they know the password (RDS API, UserAuthConfig)."""

    POSTGRES_SCRAM_SHA_256 = "POSTGRES_SCRAM_SHA_256"
    POSTGRES_MD5 = "POSTGRES_MD5"
    MYSQL_NATIVE_PASSWORD = "MYSQL_NATIVE_PASSWORD"  # noqa: S105 - a name, no secret
    MYSQL_CACHING_SHA2_PASSWORD = "MYSQL_CACHING_SHA2_PASSWORD"  # noqa: S105 - as above


class ProxyUser(msgspec.Struct, frozen=True, kw_only=True):
    """One database user, from one secret. With `iam_required` clients log in with a token, never with the password."""

    username: str
    password: str
    iam_required: bool = False
    client_password_auth_type: ClientPasswordAuthType = ClientPasswordAuthType.POSTGRES_SCRAM_SHA_256


class ProxyListener(msgspec.Struct, frozen=True, kw_only=True):
    """One proxy endpoint: stable address and port, its name, who may connect (CIDR strings), what it shows over TLS."""

    endpoint_id: str
    """Names the endpoint for good; the default one has the proxy's id (`prx-…`), others their own (`prx-endpoint-…`).
    """

    name: str
    """DNS name."""

    address: str
    port: int
    admits: tuple[str, ...]
    certificate: ServerCertificate
    read_only: bool = False


class PoolConfiguration(msgspec.Struct, frozen=True, kw_only=True):
    """ConnectionPoolConfiguration of the target group."""

    max_connections_percent: int = 100
    max_idle_connections_percent: int = 50
    connection_borrow_timeout_s: float = 120.0
    init_query: str = ""
    strict_pinning: bool = False
    """Pin on everything on AWS's list, until the session ends, instead of only when it must."""


class ProxySpec(msgspec.Struct, frozen=True, kw_only=True):
    """What control wants of one proxy. `generation` grows with every change; `absent`: nothing of it may be left.

    `target` is the DbiResourceId of the registered DB instance, "" while none is registered.
    """

    proxy_id: str
    name: str
    account_id: str
    region: str
    generation: int
    engine_family: str
    absent: bool = False
    listeners: tuple[ProxyListener, ...] = ()
    require_tls: bool = False
    idle_client_timeout_s: float = 1800.0
    debug_logging: bool = False
    users: tuple[ProxyUser, ...] = ()
    pool: PoolConfiguration = PoolConfiguration()
    target: str = ""


class TargetState(StrEnum):
    """TargetHealth.State (RDS API)."""

    REGISTERING = "REGISTERING"
    AVAILABLE = "AVAILABLE"
    UNAVAILABLE = "UNAVAILABLE"


class ProxyStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the proxy process sees of one proxy.

    `generation` is the newest spec that is fully in effect. `target_reason` is a TargetHealth.Reason ("" when
    AVAILABLE): UNREACHABLE, CONNECTION_FAILED, AUTH_FAILURE, PENDING_PROXY_CAPACITY, INVALID_REPLICATION_STATE.
    `metrics` are counters and gauges by CloudWatch metric name.
    """

    proxy_id: str
    generation: int
    target_state: TargetState = TargetState.REGISTERING
    target_reason: str = ""
    target_description: str = ""
    failure: str = ""
    metrics: dict[str, float] = {}
