"""The proxy workflow dies before and after every effect, requests come in the middle of its steps: it converges."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from harness.proxies import Proxies
from harness.rds_calls import Rds
from mainstay.host.certificates import CertificateAuthorities
from mainstay.model.addresses import AddressLease
from mainstay.model.db_proxy import DBProxy, DBProxyEndpoint, DBProxyTargetGroup, GivenProxySpec
from mainstay.model.ec2 import NetworkInterface
from mainstay.model.proxy import ProxySpec
from mainstay.workflows.engine import Worker
from mainstay.workflows.programs import PROGRAMS

BEFORE, AFTER = "before", "after"


class Killed(BaseException):
    """kill -9 of the control process."""


class Mortal:
    """Lets the process die at one effect: a transaction of the worker, or a call to the proxy process."""

    def __init__(self, proxies: Proxies) -> None:
        self.store = proxies.tools.store
        self.process = proxies.process
        self.count = 0
        self.at: tuple[int, str] | None = None
        self.deaths = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        number, self.count = self.count, self.count + 1
        self._die((number, BEFORE))
        yield
        self._die((number, AFTER))

    def _die(self, here: tuple[int, str]) -> None:
        if self.at == here:
            self.at = None
            self.deaths += 1
            raise Killed

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        with self.one(), self.store.transaction() as tx:
            yield tx

    async def put_proxy(self, spec: ProxySpec) -> None:
        with self.one():
            await self.process.put_proxy(spec)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.process if name in ("observe", "last_seen") else self.store, name)


class Life:
    """Everything that can happen to a proxy, in order, with the worker started again whenever it has died."""

    def __init__(self, proxies: Proxies) -> None:
        self.proxies = proxies
        self.mortal = Mortal(proxies)
        self.tools = replace(proxies.tools, store=self.mortal, proxies=self.mortal)
        self.auth = [{"SecretArn": proxies.user_secret()}]
        proxies.instance()

    def settle(self) -> None:
        while True:
            self.proxies.worker = Worker(PROGRAMS, self.tools)
            try:
                self.proxies.settle()
            except Killed:
                continue
            return

    def live(self, name: str, at: tuple[int, str] | None = None) -> int:
        """One life; how many effects there were."""
        rds = self.proxies.rds
        self.mortal.count, self.mortal.at = 0, at
        rds.call("CreateDBProxy", **self.proxies.request(name, Auth=self.auth))
        self.settle()
        rds.call("RegisterDBProxyTargets", DBProxyName=name, DBInstanceIdentifiers=["db1"])
        rds.call("CreateDBProxyEndpoint", DBProxyName=name, DBProxyEndpointName=f"{name}-more",
                 VpcSubnetIds=["subnet-a", "subnet-b"])  # fmt: skip
        self.settle()
        rds.call("ModifyDBProxy", DBProxyName=name, NewDBProxyName=f"{name}-new", RequireTLS=True)
        self.settle()
        self.check(f"{name}-new")
        rds.call("DeleteDBProxyEndpoint", DBProxyEndpointName=f"{name}-more")
        self.settle()
        assert len(self.proxies.spec(f"{name}-new").listeners) == 1
        rds.call("DeleteDBProxy", DBProxyName=f"{name}-new")
        self.settle()
        assert self.proxies.process.specs == {}
        with rds.store.read() as view:
            kinds = (DBProxy, DBProxyEndpoint, DBProxyTargetGroup, GivenProxySpec, NetworkInterface, AddressLease)
            assert {kind.KIND: view.scan(kind) for kind in kinds if view.scan(kind)} == {}
        return self.mortal.count

    def check(self, name: str) -> None:
        assert self.proxies.describe(name)["Status"] == "available"
        spec = self.proxies.spec(name)
        assert (spec.require_tls, spec.target, len(spec.listeners)) == (True, "db-DB1", 2)
        assert [user.username for user in spec.users] == ["app"]
        with self.proxies.rds.store.read() as view:
            given = view.get(GivenProxySpec, self.proxies.rds.scope, spec.proxy_id)
            assert given is not None and given.spec.generation == spec.generation


@pytest.fixture
def proxies(rds: Rds, group: str, authorities: CertificateAuthorities) -> Proxies:
    return Proxies(rds, authorities)


def test_it_may_die_before_and_after_every_effect(proxies: Proxies) -> None:
    life = Life(proxies)
    effects = life.live("calm")
    assert effects > 15
    for number in range(effects):
        for when in (BEFORE, AFTER):
            life.live(f"p{number}-{when}", (number, when))
    assert life.mortal.deaths == 2 * effects
    events = [event.message for event in proxies.rds.events()]
    for message in ("RDS created DB proxy {}.", "RDS deleted DB proxy {}-new."):
        for number in range(effects):
            assert events.count(message.format(f"p{number}-before")) == 1, "told exactly once"


def test_a_request_in_the_middle_of_a_put_is_not_lost(proxies: Proxies) -> None:
    proxies.create()
    process, put = proxies.process, proxies.process.put_proxy

    async def interrupted(spec: ProxySpec) -> None:
        await put(spec)
        if spec.require_tls and spec.idle_client_timeout_s != 77.0:
            proxies.rds.call("ModifyDBProxy", DBProxyName="pool", IdleClientTimeout=77)

    process.put_proxy = interrupted  # type: ignore[method-assign]
    proxies.rds.call("ModifyDBProxy", DBProxyName="pool", RequireTLS=True)
    proxies.settle()
    assert proxies.describe()["Status"] == "available"
    assert proxies.spec().require_tls and proxies.spec().idle_client_timeout_s == 77.0
