"""Fixtures of tests that need an instance behind an RDS Proxy, or one of the module's `engine`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from harness.dialects import Client, EngineUnderTest
from harness.proxy import PROXY_USERS, ProxyUnderTest
from harness.service import Service, eventually


@pytest.fixture(scope="session")
def proxied_instance(service: Service) -> Iterator[dict[str, Any]]:
    made = service.create_instance()
    with service.connect(made) as session:
        session.execute("CREATE ROLE second LOGIN PASSWORD 'second-pass-1'")
        session.execute("CREATE DATABASE other")
        session.execute("CREATE TABLE shared (id int PRIMARY KEY, value text)")
        session.execute("GRANT ALL ON shared TO second")
    yield made
    service.delete_instance(made["DBInstanceIdentifier"])


@pytest.fixture(scope="module")
def proxy_of_module(service: Service, proxied_instance: dict[str, Any]) -> Iterator[ProxyUnderTest]:
    with ProxyUnderTest(
        service, proxied_instance, users=PROXY_USERS, pool={"connection_borrow_timeout_s": 30.0}
    ) as proxy:
        yield proxy


@pytest.fixture
def proxy(proxy_of_module: ProxyUnderTest) -> Iterator[ProxyUnderTest]:
    """The module's proxy as it was at the beginning; every client of a test is gone at its end."""
    before = proxy_of_module.spec
    yield proxy_of_module
    if proxy_of_module.spec != before:
        proxy_of_module.put(
            pool=before.pool,
            users=before.users,
            require_tls=before.require_tls,
            idle_client_timeout_s=before.idle_client_timeout_s,
        )
    eventually(lambda: not proxy_of_module.sessions())
    # Nobody's connection is kept by anybody, and all of them can be used.
    eventually(lambda: proxy_of_module.stats()["DatabaseConnectionsCurrentlyBorrowed"] == 0)
    log = proxy_of_module.log()
    assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:3000]


@pytest.fixture(scope="module")
def shop(service: Service, engine: EngineUnderTest) -> Iterator[dict[str, Any]]:
    """An instance with a database of this name."""
    made = engine.create(service, DBName="shop")
    yield made
    service.delete_instance(made["DBInstanceIdentifier"])


@pytest.fixture
def master(service: Service, engine: EngineUnderTest, shop: dict[str, Any]) -> Iterator[Client]:
    """A session of its master user."""
    with engine.connect(service, shop, database="shop") as client:
        yield client
