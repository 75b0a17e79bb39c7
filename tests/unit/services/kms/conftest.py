"""An account to call KMS in, through the tables and checks that the front uses, without the wire."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.session import get_session
from botocore.validate import ParamValidator

from mainstay.host.clock import SimulatedClock
from mainstay.host.randomness import SeededRandomness
from mainstay.host.vault import Vault
from mainstay.model.errors import ApiError
from mainstay.model.kms import KmsKey
from mainstay.model.records import Record, Scope
from mainstay.protocol.aws.models import MODELS
from mainstay.protocol.aws.validate import validate
from mainstay.services import iam, sts
from mainstay.services.iam.authorization import authorize, request_context_of
from mainstay.services.iam.principals import Credentials, ensure_root_access_key, resolve
from mainstay.services.kms import api as kms
from mainstay.services.kms.changes import KeyStateListener
from mainstay.services.operations import Call
from mainstay.settings import Settings
from mainstay.store import Job, SqliteStore
from mainstay.workflows.engine import Worker
from mainstay.workflows.programs import PROGRAMS

ACCOUNT = "123456789012"
SCOPE = Scope(ACCOUNT, "us-east-1")
MODEL = get_session().get_service_model("kms")
TABLES = {"iam": iam.operations, "sts": sts.operations, "kms": kms.operations}


class Listener:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def key_state_changed(self, _scope: Scope, key_arn: str) -> None:
        self.heard.append(key_arn)


class Kms:
    """One account with its own store, clock and vault. Calls are validated and answers checked by AWS's model."""

    def __init__(self) -> None:
        self.store = SqliteStore(":memory:")
        self.clock = SimulatedClock()
        self.randomness = SeededRandomness(1)
        self.vault = Vault(bytes(32), self.randomness)
        self.scope = SCOPE
        self.listener = Listener()
        with self.store.transaction() as tx:
            key, _secret = ensure_root_access_key(tx, self.vault, self.randomness, ACCOUNT)
        self.root = self.credentials(key)

    def credentials(self, key_id: str, token: str | None = None) -> Credentials:
        with self.store.read() as tx:
            return resolve(tx, self.vault, self.clock, key_id, token, SCOPE)

    def call(self, operation: str, by: Credentials | None = None, service: str = "kms", **request: Any) -> Any:
        """The answer; raises its `ApiError`, and then nothing was changed."""
        if service == "kms":
            model = MODELS.operation(service, operation)
            validate(model.input_shape, request, service, "json")  # type: ignore[arg-type]
        entry = TABLES[service].built[operation]
        with self.store.transaction() as tx:
            call = self.open_call(tx, by)
            authorize(tx, call.caller, entry.demands(call, request), request_context_of(call))
            result = entry.handler(call, request)
        if service == "kms":
            self._check(operation, result)
        return result

    def open_call(self, tx: Any, by: Credentials | None = None) -> Call:
        return Call(
            caller=(by or self.root).caller,
            scope=self.scope,
            tx=tx,
            clock=self.clock,
            randomness=self.randomness,
            settings=Settings(home=Path("/nowhere")),
            collaborators={Vault: self.vault, KeyStateListener: self.listener},
            source_ip="10.1.2.3",
        )

    def _check(self, operation: str, result: Any) -> None:
        shape = MODEL.operation_model(operation).output_shape
        if shape is None:
            assert result is None
        else:
            report = ParamValidator().validate(result, shape)
            assert not report.has_errors(), report.generate_report()

    def refused(self, operation: str, by: Credentials | None = None, **request: Any) -> str:
        """The error of a call that must fail: "<code>: <message>". It must be one that AWS's model lists, or common."""
        with pytest.raises(ApiError) as caught:
            self.call(operation, by, **request)
        listed = {shape.name for shape in MODEL.operation_model(operation).error_shapes}
        assert caught.value.shape in listed | {"AccessDenied", "ValidationException", "NotAuthorizedException"}
        return str(caught.value)

    def create(self, **request: Any) -> str:
        """A new key's id."""
        key_id: str = self.call("CreateKey", **request)["KeyMetadata"]["KeyId"]
        return key_id

    def arn(self, key_id: str) -> str:
        return SCOPE.arn("kms", f"key/{key_id}")

    def state(self, key_id: str) -> str:
        found: str = self.call("DescribeKey", KeyId=key_id)["KeyMetadata"]["KeyState"]
        return found

    def encrypt(self, key_id: str, plaintext: bytes = b"clear", by: Credentials | None = None, **request: Any) -> bytes:
        blob: bytes = self.call("Encrypt", by, KeyId=key_id, Plaintext=plaintext, **request)["CiphertextBlob"]
        return blob

    def decrypt(self, blob: bytes, by: Credentials | None = None, **request: Any) -> bytes:
        plaintext: bytes = self.call("Decrypt", by, CiphertextBlob=blob, **request)["Plaintext"]
        return plaintext

    def user(self, name: str, *statements: dict[str, Any]) -> Credentials:
        """A new user with an inline policy of these statements, and its credentials."""
        self.call("CreateUser", service="iam", UserName=name)
        if statements:
            self.call(
                "PutUserPolicy", service="iam", UserName=name, PolicyName="own", PolicyDocument=policy(*statements)
            )
        key = self.call("CreateAccessKey", service="iam", UserName=name)["AccessKey"]
        return self.credentials(key["AccessKeyId"])

    def jobs(self) -> list[Job]:
        with self.store.read() as view:
            return view.jobs()

    def records(self, kind: type[Record]) -> list[Any]:
        with self.store.read() as view:
            return view.scan(kind)

    def key(self, key_id: str) -> KmsKey:
        with self.store.read() as view:
            found = view.get(KmsKey, SCOPE, key_id)
        assert found is not None
        return found

    async def wait(self, days: float) -> None:
        """Lets time pass and the worker do what is due then; every job is woken, so that it must know its own time."""
        self.clock.advance(days * 24 * 3600.0)
        tools: Any = SimpleNamespace(store=self.store, clock=self.clock, vault=self.vault, randomness=self.randomness)
        worker = Worker(PROGRAMS, tools)
        for _ in range(3):
            for job in self.jobs():
                worker.wake(job.subject)
            await worker.drain()


def policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def allow(*actions: str, resource: str = "*", **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": [f"kms:{action}" for action in actions], "Resource": resource, **more}


@pytest.fixture
def kms_account() -> Iterator[Kms]:
    made = Kms()
    yield made
    made.store.close()


@pytest.fixture
def document() -> Any:
    return policy


@pytest.fixture
def allowing() -> Any:
    return allow
