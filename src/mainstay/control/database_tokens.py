"""Decides about IAM tokens that clients of databases and proxies log in with, and logs every decision with its reason.

Guarantees: a token is accepted only for the endpoint it was presented at; an error of any kind is a refusal; neither
token nor signature ever reaches a log or an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import msgspec
import structlog

from mainstay.host.clock import Clock
from mainstay.host.vault import Vault
from mainstay.model.db_instance import DBInstance
from mainstay.model.errors import MainstayError, Permanent
from mainstay.model.node import Node
from mainstay.model.records import Scope
from mainstay.services.iam.database_tokens import refused, verify_token
from mainstay.store import Reader, Store

log = structlog.get_logger()


class Verdict(msgspec.Struct, frozen=True):
    """Whether the login is allowed, and why not."""

    allowed: bool
    reason: str = ""


class EndpointQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """What `verify_database_token` is asked: may `username` log in with `token` at this endpoint?

    `hosts` are every name and address of the endpoint; `resource_id` is the `prx-…` or DbiResourceId that policies
    name. `region` may be left out for a DB instance.
    """

    token: str
    username: str
    resource_id: str
    hosts: list[str]
    port: int
    region: str = ""

    def __repr__(self) -> str:
        return f"EndpointQuestion({self.username!r} at {self.resource_id!r})"


class InstanceQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """What `verify_instance_login` is asked: may `username` log in with `token` at the DB instance `resource_id`?"""

    resource_id: str
    username: str
    token: str
    over_tls: bool

    def __repr__(self) -> str:
        return f"InstanceQuestion({self.username!r} at {self.resource_id!r})"


class DatabaseTokens:
    """Verifies tokens against the store as it is now."""

    def __init__(self, store: Store, vault: Vault, clock: Clock, account_id: str) -> None:
        self._store = store
        self._vault = vault
        self._clock = clock
        self._account_id = account_id

    def at_instance(self, dbi_resource_id: str, username: str, token: str) -> Verdict:
        """May `username` log in at the endpoint of this DB instance? Never raises."""
        return self._decided(dbi_resource_id, username, lambda: self._at_instance(dbi_resource_id, username, token))

    async def verify_instance_login(self, params: Any) -> dict[str, Any]:
        """`InstanceQuestion` -> `Verdict`, over RPC. Raises `Permanent` for a question that is not one."""
        try:
            asked = msgspec.convert(params, InstanceQuestion)
        except msgspec.ValidationError as error:
            raise Permanent(f"verify_instance_login: {error}") from None

        def verify() -> str:
            if not asked.over_tls:
                raise refused("The connection is not over TLS.")
            return self._at_instance(asked.resource_id, asked.username, asked.token)

        return msgspec.to_builtins(self._decided(asked.resource_id, asked.username, verify))  # type: ignore[no-any-return]

    async def verify_database_token(self, params: Any) -> dict[str, Any]:
        """`EndpointQuestion` -> `Verdict`, over RPC. Raises `Permanent` for a question that is not one."""
        try:
            asked = msgspec.convert(params, EndpointQuestion)
        except msgspec.ValidationError as error:
            raise Permanent(f"verify_database_token: {error}") from None
        hosts = [(host, asked.port) for host in asked.hosts]

        def verify() -> str:
            region = asked.region or self._region_of(asked.resource_id)
            return self._verify(asked.token, asked.username, hosts, asked.resource_id, Scope(self._account_id, region))

        verdict = self._decided(asked.resource_id, asked.username, verify)
        return msgspec.to_builtins(verdict)  # type: ignore[no-any-return]

    def _region_of(self, resource_id: str) -> str:
        found = self._store.view().find(DBInstance, None, "dbi-resource-id", resource_id)
        if not found:
            raise refused(f"There is no DB instance {resource_id}; name the region of any other resource.")
        return found[0].scope.region

    def _at_instance(self, dbi_resource_id: str, username: str, token: str) -> str:
        view = self._store.view()
        found = view.find(DBInstance, None, "dbi-resource-id", dbi_resource_id)
        if not found or not found[0].iam_database_authentication_enabled:
            raise refused(f"IAM database authentication is not enabled for {dbi_resource_id}.")
        hosts = endpoint_of(view, found[0])
        return self._verify(token, username, hosts, dbi_resource_id, found[0].scope)

    def _verify(
        self, token: str, username: str, hosts: Collection[tuple[str, int]], resource_id: str, scope: Scope
    ) -> str:
        with self._store.read() as view:
            caller = verify_token(
                view,
                self._vault,
                self._clock,
                token,
                username=username,
                allowed_hosts_ports=hosts,
                resource_id=resource_id,
                scope=scope,
            )
        return caller.arn

    def _decided(self, resource_id: str, username: str, verify: Callable[[], str]) -> Verdict:
        try:
            principal = verify()
        except MainstayError as error:
            log.warning("database_login.refused", resource_id=resource_id, username=username, reason=error.message)
            return Verdict(False, error.message)
        except Exception as error:  # whatever it was, it is no right to log in; its text may hold part of the token
            log.error("database_login.failed", resource_id=resource_id, username=username, error=type(error).__name__)
            return Verdict(False, "An internal error has occurred. See the control log.")
        log.info("database_login.allowed", resource_id=resource_id, username=username, principal=principal)
        return Verdict(True)


def endpoint_of(view: Reader, instance: DBInstance) -> list[tuple[str, int]]:
    """Hosts and ports that a token for this instance may name."""
    node = view.get(Node, instance.scope, instance.node_id)
    if node is None:
        return []
    endpoint = node.spec.endpoint
    return [(endpoint.address, endpoint.port), (endpoint.name, endpoint.port)]
