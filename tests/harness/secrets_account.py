"""An account to call Secrets Manager in."""

from __future__ import annotations

import uuid
from typing import Any

from harness.accounts import SCOPE, JsonAccount
from harness.records import db_instance
from mainstay.engines.postgresql.rules import PostgresqlRules
from mainstay.engines.registry import Engines
from mainstay.model.db_instance import DBInstance
from mainstay.model.records import Record
from mainstay.model.secrets_manager import SecretValue, StoredSecret
from mainstay.services.iam.principals import Credentials
from mainstay.store import Job

WITH_TOKEN = {"CreateSecret", "PutSecretValue", "UpdateSecret", "RotateSecret"}


def allowing(*actions: str, resource: str = "*", **more: Any) -> dict[str, Any]:
    """A statement that allows these actions of Secrets Manager."""
    return {
        "Effect": "Allow", "Action": [f"secretsmanager:{action}" for action in actions], "Resource": resource, **more
    }  # fmt: skip


class Secrets(JsonAccount):
    """It also holds instances, whose passwords are secrets. The tokens that SDKs add to calls are added."""

    service = "secretsmanager"

    def __init__(self) -> None:
        super().__init__()
        self.collaborators[Engines] = Engines(None, {"postgres": PostgresqlRules(lambda _build: {})})  # type: ignore[arg-type]

    def call(self, operation: str, by: Credentials | None = None, **request: Any) -> Any:
        """The answer; raises its `ApiError`, and then nothing was changed. With a token of None, none is added."""
        if operation in WITH_TOKEN and "ClientRequestToken" not in request:
            request["ClientRequestToken"] = str(uuid.uuid4())
        if request.get("ClientRequestToken", "") is None:
            del request["ClientRequestToken"]
        return super().call(operation, by, **request)

    def create(self, name: str = "app", value: str | None = "one", **request: Any) -> dict[str, Any]:
        given: dict[str, Any] = {} if value is None else {"SecretString": value}
        made: dict[str, Any] = self.call("CreateSecret", Name=name, **given, **request)
        return made

    def value(self, name: str = "app", by: Credentials | None = None, **request: Any) -> str:
        text: str = self.call("GetSecretValue", by, SecretId=name, **request)["SecretString"]
        return text

    def stages(self, name: str = "app") -> dict[str, list[str]]:
        found: dict[str, list[str]] = self.call("DescribeSecret", SecretId=name).get("VersionIdsToStages", {})
        return found

    def jobs(self) -> list[Job]:
        """All but the yearly rotation of the AWS managed keys, which is there from the first secret on."""
        with self.store.read() as view:
            return [job for job in view.jobs() if not job.subject.startswith("key:")]

    def secret(self, name: str = "app") -> StoredSecret:
        with self.store.read() as view:
            found = view.get(StoredSecret, SCOPE, name)
        assert found is not None
        return found

    def sealed_values(self) -> list[SecretValue]:
        return self.records(SecretValue)

    def insert(self, *records: Record) -> None:
        with self.store.transaction() as tx:
            for record in records:
                tx.insert(record)

    def instance(self, identifier: str = "db1", **fields: Any) -> DBInstance:
        times = {"requested_at": self.clock.wall(), "instance_create_time": self.clock.wall()}
        instance = db_instance(identifier, **{"master_username": "chief", **times, **fields})
        self.insert(instance)
        return instance
