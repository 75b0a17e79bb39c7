"""An account to call IAM and STS in, through the same tables the front uses: authorise, then handle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mainstay.host.clock import SimulatedClock
from mainstay.host.randomness import SeededRandomness
from mainstay.host.vault import Vault
from mainstay.model.records import Scope
from mainstay.services import iam, sts
from mainstay.services.iam.authorization import authorize, request_context_of
from mainstay.services.iam.principals import Credentials, ensure_root_access_key, resolve
from mainstay.services.operations import Call
from mainstay.settings import Settings
from mainstay.store.sqlite import SqliteStore

ACCOUNT = "123456789012"
SCOPE = Scope(ACCOUNT, "us-east-1")


class Account:
    """One account with its own store, clock and vault."""

    def __init__(self) -> None:
        self.store = SqliteStore(":memory:")
        self.clock = SimulatedClock()
        self.randomness = SeededRandomness(1)
        self.vault = Vault(bytes(32), self.randomness)
        with self.store.transaction() as tx:
            self.root_key, self.root_secret = ensure_root_access_key(tx, self.vault, self.randomness, ACCOUNT)
        self.root = self.credentials(self.root_key)

    def credentials(self, key_id: str, token: str | None = None) -> Credentials:
        with self.store.read() as tx:
            return resolve(tx, self.vault, self.clock, key_id, token, SCOPE)

    def call(self, service: str, operation: str, by: Credentials | None = None, **request: Any) -> Any:
        table = {"iam": iam.operations, "sts": sts.operations}[service].built[operation]
        with self.store.transaction() as tx:
            call = Call(
                caller=(by or self.root).caller,
                scope=SCOPE,
                tx=tx,
                clock=self.clock,
                randomness=self.randomness,
                settings=Settings(home=Path("/nowhere")),
                collaborators={Vault: self.vault},
                source_ip="10.1.2.3",
            )
            authorize(tx, call.caller, table.demands(call, request), request_context_of(call))
            return table.handler(call, request)

    def iam(self, operation: str, by: Credentials | None = None, **request: Any) -> Any:
        return self.call("iam", operation, by, **request)

    def sts(self, operation: str, by: Credentials | None = None, **request: Any) -> Any:
        return self.call("sts", operation, by, **request)

    def user(self, name: str, *statements: dict[str, Any], **request: Any) -> Credentials:
        """A new user with an inline policy of these statements, and its credentials."""
        self.iam("CreateUser", UserName=name, **request)
        if statements:
            self.iam("PutUserPolicy", UserName=name, PolicyName="own", PolicyDocument=policy(*statements))
        key = self.iam("CreateAccessKey", UserName=name)["AccessKey"]
        return self.credentials(key["AccessKeyId"])

    def assume(self, role: str, by: Credentials | None = None, **request: Any) -> Credentials:
        arn = f"arn:aws:iam::{ACCOUNT}:role/{role}"
        request = {"RoleSessionName": "session", **request}
        got = self.sts("AssumeRole", by, RoleArn=arn, **request)["Credentials"]
        return self.credentials(got["AccessKeyId"], got["SessionToken"])


def policy(*statements: dict[str, Any], version: str = "2012-10-17") -> str:
    return json.dumps({"Version": version, "Statement": list(statements)})


@pytest.fixture
def account() -> Iterator[Account]:
    made = Account()
    yield made
    made.store.close()


@pytest.fixture
def document() -> Any:
    return policy
