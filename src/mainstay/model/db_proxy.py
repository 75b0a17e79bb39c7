"""RDS Proxy as the user asked for it: proxy, target group, endpoint. What is *seen* of them lives in `ProxyStatus`.

Records are kept by the ids in their ARNs (`prx-…`), so that a new name changes no identity. Names are lower case and
unique in their scope. `change` is AWS's status word of what is under way ("creating", "modifying", "deleting") or "".
"""

from __future__ import annotations

from types import MappingProxyType
from typing import ClassVar

import msgspec

from mainstay.model.proxy import ClientPasswordAuthType, PoolConfiguration, ProxySpec
from mainstay.model.records import Record

DEFAULT_TARGET_GROUP = "default"
DEFAULT_ENDPOINT = "default"
READ_WRITE = "READ_WRITE"
READ_ONLY = "READ_ONLY"
IAM_REQUIRED = "REQUIRED"
EXCLUDE_VARIABLE_SETS = "EXCLUDE_VARIABLE_SETS"
"""The only SessionPinningFilter there is (RDS API, ConnectionPoolConfiguration)."""

CREATING, MODIFYING, DELETING = "creating", "modifying", "deleting"


class EngineFamily(msgspec.Struct, frozen=True, kw_only=True):
    """One EngineFamily: the engines in it, the port of its proxies, and what goes for its clients.

    `served`: whether the proxy process speaks its protocol.
    `client_password_auth_types`: the default one first. `pinning_filters`: those that ModifyDBProxyTargetGroup takes.
    """

    engines: frozenset[str]
    served: bool
    port: int
    client_password_auth_types: tuple[ClientPasswordAuthType, ...]
    pinning_filters: frozenset[str] = frozenset()


ENGINE_FAMILIES = MappingProxyType(
    {
        "POSTGRESQL": EngineFamily(
            engines=frozenset({"postgres"}),
            served=True,
            port=5432,
            client_password_auth_types=(
                ClientPasswordAuthType.POSTGRES_SCRAM_SHA_256,
                ClientPasswordAuthType.POSTGRES_MD5,
            ),
        ),
        "MYSQL": EngineFamily(
            engines=frozenset({"mysql", "mariadb"}),
            served=False,
            port=3306,
            client_password_auth_types=(
                ClientPasswordAuthType.MYSQL_CACHING_SHA2_PASSWORD,
                ClientPasswordAuthType.MYSQL_NATIVE_PASSWORD,
            ),
            pinning_filters=frozenset({EXCLUDE_VARIABLE_SETS}),
        ),
    }
)


class UserAuth(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of Auth (UserAuthConfig): a secret with the name and password of a database user."""

    secret_arn: str
    iam_auth: str = "DISABLED"
    client_password_auth_type: ClientPasswordAuthType
    description: str = ""


class DBProxy(Record, frozen=True, kw_only=True, omit_defaults=True):
    """One DB proxy. Fields are named as in the RDS API; times are epoch seconds.

    `failure` is why the last change could not be put into effect, "" if it was. `debug_logging_since` is when debug
    logging was switched on; it is switched off again after a day.
    """

    KIND: ClassVar[str] = "db-proxy"

    db_proxy_id: str
    db_proxy_name: str
    engine_family: str
    default_auth_scheme: str = "NONE"
    auth: tuple[UserAuth, ...] = ()
    role_arn: str
    vpc_id: str
    vpc_subnet_ids: tuple[str, ...]
    vpc_security_group_ids: tuple[str, ...]
    require_tls: bool = False
    idle_client_timeout_s: int = 1800
    debug_logging: bool = False
    debug_logging_since: float = 0.0
    tags: dict[str, str] = {}
    created_at: float
    updated_at: float
    change: str = CREATING
    failure: str = ""

    def key(self) -> str:
        return self.db_proxy_id

    def index(self) -> dict[str, str]:
        return {"name": self.db_proxy_name}

    @property
    def subject(self) -> str:
        """What its jobs are about."""
        return f"proxy:{self.db_proxy_id}"

    @property
    def arn(self) -> str:
        """`arn:aws:rds:<region>:<account>:db-proxy:prx-…`."""
        return self.scope.arn("rds", f"db-proxy:{self.db_proxy_id}")


class DBProxyTargetGroup(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The one target group of a proxy, named `default`. `target` is the DbiResourceId of its target, "" without one.

    `target_since` is when the target was registered, epoch seconds.
    """

    KIND: ClassVar[str] = "db-proxy-target-group"

    target_group_id: str
    db_proxy_id: str
    pool: PoolConfiguration = PoolConfiguration()
    session_pinning_filters: tuple[str, ...] = ()
    target: str = ""
    target_since: float = 0.0
    tags: dict[str, str] = {}
    created_at: float
    updated_at: float
    change: str = ""

    def key(self) -> str:
        return self.target_group_id

    def index(self) -> dict[str, str]:
        return {"db-proxy": self.db_proxy_id} | ({"target": self.target} if self.target else {})

    @property
    def arn(self) -> str:
        """`arn:aws:rds:<region>:<account>:target-group:prx-tg-…`."""
        return self.scope.arn("rds", f"target-group:{self.target_group_id}")


class DBProxyEndpoint(Record, frozen=True, kw_only=True, omit_defaults=True):
    """One endpoint of a proxy. The default one is named `default` and keeps to its proxy's network and status.

    `address` is what it listens on, leased for as long as it exists; `interface_ids` stand for it in its subnets.
    """

    KIND: ClassVar[str] = "db-proxy-endpoint"

    db_proxy_endpoint_id: str
    db_proxy_endpoint_name: str
    db_proxy_id: str
    vpc_id: str
    vpc_subnet_ids: tuple[str, ...]
    vpc_security_group_ids: tuple[str, ...]
    target_role: str = READ_WRITE
    address: str
    interface_ids: tuple[str, ...]
    tags: dict[str, str] = {}
    created_at: float
    change: str = CREATING

    def key(self) -> str:
        return self.db_proxy_endpoint_id

    def index(self) -> dict[str, str]:
        named = {} if self.is_default else {"name": self.db_proxy_endpoint_name}
        return named | {"db-proxy": self.db_proxy_id}

    @property
    def is_default(self) -> bool:
        """Whether it came with the proxy and goes with it."""
        return self.db_proxy_endpoint_name == DEFAULT_ENDPOINT

    @property
    def arn(self) -> str:
        """`arn:aws:rds:<region>:<account>:db-proxy-endpoint:prx-endpoint-…`."""
        return self.scope.arn("rds", f"db-proxy-endpoint:{self.db_proxy_endpoint_id}")


class GivenProxySpec(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The spec last given to the proxy process, with nothing in it that must not be read.

    Private keys in `spec` are sealed and `spec.users` is empty: `sealed_users` holds them, one JSON document;
    `user_count` says how many they are. `credential_problems` tell which secrets could not be used and why, `obstacle`
    why the proxy may not reach its target. `certificates_valid_till` is the earliest end of a listener's certificate,
    epoch seconds.
    """

    KIND: ClassVar[str] = "db-proxy-spec"

    spec: ProxySpec
    sealed_users: str = ""
    user_count: int = 0
    credential_problems: tuple[str, ...] = ()
    obstacle: str = ""
    certificates_valid_till: float = 0.0

    def key(self) -> str:
        return self.spec.proxy_id
