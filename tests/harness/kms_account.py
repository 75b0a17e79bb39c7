"""An account to call KMS in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from harness.accounts import SCOPE, JsonAccount
from mainstay.model.errors import ApiError
from mainstay.model.kms import KmsKey
from mainstay.model.records import Scope
from mainstay.services.iam.principals import Credentials
from mainstay.services.kms.changes import KeyStateListener
from mainstay.workflows.engine import Worker
from mainstay.workflows.programs import PROGRAMS


def allowing(*actions: str, resource: str = "*", **more: Any) -> dict[str, Any]:
    """A statement that allows these actions of KMS."""
    return {"Effect": "Allow", "Action": [f"kms:{action}" for action in actions], "Resource": resource, **more}


class Listener:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def key_state_changed(self, _scope: Scope, key_arn: str) -> None:
        self.heard.append(key_arn)


class Kms(JsonAccount):
    """It hears of the states of keys, and lets time pass. An error must be one that AWS's model lists, or common."""

    service = "kms"

    def __init__(self) -> None:
        super().__init__()
        self.listener = Listener()
        self.collaborators[KeyStateListener] = self.listener

    def check_error(self, operation: str, error: ApiError) -> None:
        listed = {shape.name for shape in self.model.operation_model(operation).error_shapes}
        assert error.shape in listed | {"AccessDenied", "ValidationException", "NotAuthorizedException"}

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
