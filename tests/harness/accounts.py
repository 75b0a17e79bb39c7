"""Accounts to call IAM, STS, KMS and Secrets Manager in, through the tables and checks that the front uses, without
the wire: authorise, then handle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from botocore.session import get_session
from botocore.validate import ParamValidator

from mainstay.host.aws_models import MODELS
from mainstay.host.clock import SimulatedClock
from mainstay.host.randomness import SeededRandomness
from mainstay.host.vault import Vault
from mainstay.model.errors import ApiError
from mainstay.model.records import Record, Scope
from mainstay.protocol.aws.validate import validate
from mainstay.services import iam, sts
from mainstay.services.iam.authorization import authorize, request_context_of
from mainstay.services.iam.principals import Credentials, ensure_root_access_key, resolve
from mainstay.services.kms import api as kms
from mainstay.services.operations import Call
from mainstay.services.secretsmanager import api as secretsmanager
from mainstay.settings import Settings
from mainstay.store import Job, SqliteStore, Transaction

ACCOUNT = "123456789012"
SCOPE = Scope(ACCOUNT, "us-east-1")
TABLES = {
    "iam": iam.operations,
    "sts": sts.operations,
    "kms": kms.operations,
    "secretsmanager": secretsmanager.operations,
}


def document(*statements: dict[str, Any], version: str = "2012-10-17") -> str:
    """A policy as an operation takes it."""
    return json.dumps({"Version": version, "Statement": list(statements)})


class Account:
    """One account with its own store, clock and vault."""

    def __init__(self) -> None:
        self.store = SqliteStore(":memory:")
        self.clock = SimulatedClock()
        self.randomness = SeededRandomness(1)
        self.vault = Vault(bytes(32), self.randomness)
        self.scope = SCOPE
        self.collaborators: dict[type, Any] = {Vault: self.vault}
        with self.store.transaction() as tx:
            self.root_key, self.root_secret = ensure_root_access_key(tx, self.vault, self.randomness, ACCOUNT)
        self.root = self.credentials(self.root_key)

    def credentials(self, key_id: str, token: str | None = None) -> Credentials:
        with self.store.read() as view:
            return resolve(view, self.vault, self.clock, key_id, token, SCOPE)

    def iam(self, operation: str, by: Credentials | None = None, **request: Any) -> Any:
        return self.ask("iam", operation, by, request)

    def sts(self, operation: str, by: Credentials | None = None, **request: Any) -> Any:
        return self.ask("sts", operation, by, request)

    def kms(self, operation: str, by: Credentials | None = None, **request: Any) -> Any:
        return self.ask("kms", operation, by, request)

    def ask(self, service: str, operation: str, by: Credentials | None, request: dict[str, Any]) -> Any:
        """The answer; raises its `ApiError`, and then nothing was changed."""
        entry = TABLES[service].built[operation]
        with self.store.transaction() as tx:
            call = self.open_call(tx, by)
            authorize(tx, call.caller, entry.demands(call, request), request_context_of(call))
            return entry.handler(call, request)

    def open_call(self, tx: Transaction, by: Credentials | None = None) -> Call:
        return Call(
            caller=(by or self.root).caller,
            scope=self.scope,
            tx=tx,
            clock=self.clock,
            randomness=self.randomness,
            settings=Settings(home=Path("/nowhere")),
            collaborators=self.collaborators,
            source_ip="10.1.2.3",
        )

    def user(self, name: str, *statements: dict[str, Any], **request: Any) -> Credentials:
        """A new user with an inline policy of these statements, and its credentials."""
        self.iam("CreateUser", UserName=name, **request)
        if statements:
            self.iam("PutUserPolicy", UserName=name, PolicyName="own", PolicyDocument=document(*statements))
        key = self.iam("CreateAccessKey", UserName=name)["AccessKey"]
        return self.credentials(key["AccessKeyId"])

    def assume(self, role: str, by: Credentials | None = None, **request: Any) -> Credentials:
        arn = f"arn:aws:iam::{ACCOUNT}:role/{role}"
        request = {"RoleSessionName": "session", **request}
        got = self.sts("AssumeRole", by, RoleArn=arn, **request)["Credentials"]
        return self.credentials(got["AccessKeyId"], got["SessionToken"])

    def jobs(self) -> list[Job]:
        with self.store.read() as view:
            return view.jobs()

    def records(self, kind: type[Record]) -> list[Any]:
        with self.store.read() as view:
            return view.scan(kind)


class JsonAccount(Account):
    """An account to call one JSON service in. Calls are validated and answers checked by AWS's model."""

    service: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.model = get_session().get_service_model(self.service)

    def call(self, operation: str, by: Credentials | None = None, **request: Any) -> Any:
        """The answer; raises its `ApiError`, and then nothing was changed."""
        shape = MODELS.operation(self.service, operation).input_shape
        assert shape is not None
        validate(shape, request, self.service, "json")
        result = self.ask(self.service, operation, by, request)
        output = self.model.operation_model(operation).output_shape
        if output is None:
            assert result is None
        else:
            report = ParamValidator().validate(result, output)
            assert not report.has_errors(), report.generate_report()
        return result

    def refused(self, operation: str, by: Credentials | None = None, **request: Any) -> str:
        """The error of a call that must fail: "<code>: <message>"."""
        with pytest.raises(ApiError) as caught:
            self.call(operation, by, **request)
        self.check_error(operation, caught.value)
        return str(caught.value)

    def check_error(self, operation: str, error: ApiError) -> None:
        """Fails if the operation may not be refused so."""
