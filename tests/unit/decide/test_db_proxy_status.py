"""The words for proxies and the health of targets, from what is recorded and what is seen."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from mainstay.decide.db_proxy_status import TargetHealth, db_proxy_endpoint_status, db_proxy_status, target_health
from mainstay.model.db_proxy import DBProxy, DBProxyEndpoint, DBProxyTargetGroup, GivenProxySpec
from mainstay.model.proxy import ProxySpec, ProxyStatus, TargetState
from mainstay.model.records import Scope

SCOPE = Scope("123456789012", "us-east-1")
NETWORK: dict[str, Any] = {"vpc_id": "vpc-1", "vpc_subnet_ids": (), "vpc_security_group_ids": ()}
PROXY = DBProxy(
    scope=SCOPE, db_proxy_id="prx-1", db_proxy_name="pool", engine_family="POSTGRESQL", role_arn="r", created_at=0.0,
    updated_at=0.0, change="", **NETWORK,
)  # fmt: skip
GROUP = DBProxyTargetGroup(
    scope=SCOPE, target_group_id="prx-tg-1", db_proxy_id="prx-1", target="db-1", created_at=0.0, updated_at=0.0
)
SPEC = ProxySpec(
    proxy_id="prx-1", name="pool", account_id="1", region="us-east-1", generation=3, engine_family="POSTGRESQL",
    target="db-1",
)  # fmt: skip
GIVEN = GivenProxySpec(scope=SCOPE, spec=SPEC, user_count=1)
SEEN = ProxyStatus(proxy_id="prx-1", generation=3, target_state=TargetState.AVAILABLE)


def endpoint(name: str, change: str) -> DBProxyEndpoint:
    return DBProxyEndpoint(
        scope=SCOPE, db_proxy_endpoint_id="e", db_proxy_endpoint_name=name, db_proxy_id="prx-1", address="127.64.0.1",
        interface_ids=(), created_at=0.0, change=change, **NETWORK,
    )  # fmt: skip


def changed(record: Any, **fields: Any) -> Any:
    return msgspec.structs.replace(record, **fields)


@pytest.mark.parametrize(
    ("fields", "seen", "word"),
    [
        ({}, SEEN, "available"),
        ({}, None, "available"),
        ({"change": "modifying"}, SEEN, "modifying"),
        ({"change": "deleting", "failure": "x"}, SEEN, "deleting"),
        ({"failure": "address in use"}, SEEN, "incompatible-network"),
        ({}, changed(SEEN, failure="address in use"), "incompatible-network"),
    ],
)
def test_the_word_of_a_proxy(fields: dict[str, Any], seen: ProxyStatus | None, word: str) -> None:
    assert db_proxy_status(changed(PROXY, **fields), seen) == word


def test_the_default_endpoint_keeps_to_its_proxy() -> None:
    assert db_proxy_endpoint_status(PROXY, endpoint("default", "creating"), SEEN) == "available"
    assert db_proxy_endpoint_status(PROXY, endpoint("reports", "creating"), SEEN) == "creating"
    modified = changed(PROXY, change="modifying")
    assert db_proxy_endpoint_status(modified, endpoint("default", ""), SEEN) == "modifying"
    assert db_proxy_endpoint_status(modified, endpoint("reports", ""), SEEN) == "available", "it has its own words"
    failing = changed(SEEN, failure="address in use")
    assert db_proxy_endpoint_status(PROXY, endpoint("reports", ""), failing) == "incompatible-network"


REFUSED = changed(SEEN, target_state=TargetState.UNAVAILABLE, target_reason="CONNECTION_FAILED",
                  target_description="too many clients")  # fmt: skip
REJECTED = changed(REFUSED, target_reason="AUTH_FAILURE", target_description="password wrong")


@pytest.mark.parametrize(
    ("given", "seen", "health"),
    [
        (None, None, TargetHealth(TargetState.REGISTERING)),
        (GIVEN, SEEN, TargetHealth(TargetState.AVAILABLE)),
        (GIVEN, changed(SEEN, target_description="left over"), TargetHealth(TargetState.AVAILABLE)),
        (GIVEN, changed(SEEN, generation=2), TargetHealth(TargetState.REGISTERING)),
        (changed(GIVEN, spec=changed(SPEC, target="")), SEEN, TargetHealth(TargetState.REGISTERING)),
        (GIVEN, REFUSED, TargetHealth(TargetState.UNAVAILABLE, "CONNECTION_FAILED", "too many clients")),
        (changed(GIVEN, credential_problems=("no secret",)), REJECTED,
         TargetHealth(TargetState.UNAVAILABLE, "AUTH_FAILURE", "password wrong no secret")),
        (changed(GIVEN, obstacle="not admitted"), SEEN,
         TargetHealth(TargetState.UNAVAILABLE, "UNREACHABLE", "not admitted")),
        (changed(GIVEN, user_count=0, credential_problems=("no secret",)), SEEN,
         TargetHealth(TargetState.UNAVAILABLE, "AUTH_FAILURE",
                      "Proxy does not have any registered credentials. no secret")),
        (GIVEN, None,
         TargetHealth(TargetState.UNAVAILABLE, "PENDING_PROXY_CAPACITY", "The proxy process is starting.")),
    ],
)  # fmt: skip
def test_the_health_of_a_target(given: GivenProxySpec | None, seen: ProxyStatus | None, health: TargetHealth) -> None:
    assert target_health(GROUP, given, seen) == health
