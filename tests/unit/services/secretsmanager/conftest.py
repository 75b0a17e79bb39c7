"""An account to call Secrets Manager in, through the tables and checks that the front uses, without the wire."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.session import get_session
from botocore.validate import ParamValidator

from mainstay.engines.postgresql.rules import PostgresqlRules
from mainstay.engines.registry import Engines
from mainstay.host.clock import SimulatedClock
from mainstay.host.randomness import SeededRandomness
from mainstay.host.vault import Vault
from mainstay.model.db_instance import DBInstance
from mainstay.model.errors import ApiError
from mainstay.model.records import Record, Scope
from mainstay.model.secrets_manager import SecretValue, StoredSecret
from mainstay.protocol.aws.models import MODELS
from mainstay.protocol.aws.validate import validate
from mainstay.services import iam, sts
from mainstay.services.iam.authorization import authorize, request_context_of
from mainstay.services.iam.principals import Credentials, ensure_root_access_key, resolve
from mainstay.services.kms import api as kms
from mainstay.services.operations import Call
from mainstay.services.secretsmanager import api as secretsmanager
from mainstay.settings import Settings
from mainstay.store import Job, SqliteStore

ACCOUNT = "123456789012"
SCOPE = Scope(ACCOUNT, "us-east-1")
MODEL = get_session().get_service_model("secretsmanager")
TABLES = {
    "iam": iam.operations,
    "sts": sts.operations,
    "kms": kms.operations,
    "secretsmanager": secretsmanager.operations,
}
WITH_TOKEN = {"CreateSecret", "PutSecretValue", "UpdateSecret", "RotateSecret"}


class Secrets:
    """One account with its own store, clock and vault. Calls are validated and answers checked by AWS's model."""

    def __init__(self) -> None:
        self.store = SqliteStore(":memory:")
        self.clock = SimulatedClock()
        self.randomness = SeededRandomness(1)
        self.vault = Vault(bytes(32), self.randomness)
        self.scope = SCOPE
        self.engines = Engines(None, {"postgres": PostgresqlRules(lambda _build: {})})  # type: ignore[arg-type]
        with self.store.transaction() as tx:
            key, _secret = ensure_root_access_key(tx, self.vault, self.randomness, ACCOUNT)
        self.root = self.credentials(key)

    def credentials(self, key_id: str, token: str | None = None) -> Credentials:
        with self.store.read() as tx:
            return resolve(tx, self.vault, self.clock, key_id, token, SCOPE)

    def call(
        self, operation: str, by: Credentials | None = None, service: str = "secretsmanager", **request: Any
    ) -> Any:
        """The answer; raises its `ApiError`, and then nothing was changed. SDKs' tokens are added."""
        if operation in WITH_TOKEN and "ClientRequestToken" not in request:
            request["ClientRequestToken"] = str(uuid.uuid4())
        if request.get("ClientRequestToken", "") is None:
            del request["ClientRequestToken"]
        if service == "secretsmanager":
            model = MODELS.operation(service, operation)
            validate(model.input_shape, request, service, "json")  # type: ignore[arg-type]
        entry = TABLES[service].built[operation]
        with self.store.transaction() as tx:
            call = Call(
                caller=(by or self.root).caller,
                scope=self.scope,
                tx=tx,
                clock=self.clock,
                randomness=self.randomness,
                settings=Settings(home=Path("/nowhere")),
                collaborators={Vault: self.vault, Engines: self.engines},
                source_ip="10.1.2.3",
            )
            authorize(tx, call.caller, entry.demands(call, request), request_context_of(call))
            result = entry.handler(call, request)
        if service == "secretsmanager":
            self._check(operation, result)
        return result

    def _check(self, operation: str, result: Any) -> None:
        shape = MODEL.operation_model(operation).output_shape
        if shape is None:
            assert result is None
        else:
            report = ParamValidator().validate(result, shape)
            assert not report.has_errors(), report.generate_report()

    def refused(self, operation: str, by: Credentials | None = None, **request: Any) -> str:
        """The error of a call that must fail: "<code>: <message>"."""
        with pytest.raises(ApiError) as caught:
            self.call(operation, by, **request)
        return str(caught.value)

    def create(self, name: str = "app", value: str | None = "one", **request: Any) -> dict[str, Any]:
        given = {} if value is None else {"SecretString": value}
        made: dict[str, Any] = self.call("CreateSecret", Name=name, **given, **request)
        return made

    def value(self, name: str = "app", by: Credentials | None = None, **request: Any) -> str:
        text: str = self.call("GetSecretValue", by, SecretId=name, **request)["SecretString"]
        return text

    def stages(self, name: str = "app") -> dict[str, list[str]]:
        found: dict[str, list[str]] = self.call("DescribeSecret", SecretId=name).get("VersionIdsToStages", {})
        return found

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
        """All but the yearly rotation of the AWS managed keys, which is there from the first secret on."""
        with self.store.read() as view:
            return [job for job in view.jobs() if not job.subject.startswith("key:")]

    def records(self, kind: type[Record]) -> list[Any]:
        with self.store.read() as view:
            return view.scan(kind)

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
        values: dict[str, Any] = {
            "scope": SCOPE, "db_instance_identifier": identifier, "dbi_resource_id": f"db-{identifier.upper()}",
            "engine": "postgres", "engine_version": "17.5", "db_instance_class": "db.t3.micro",
            "allocated_storage_gib": 20, "storage_type": "gp3", "master_username": "chief",
            "master_password_verifier": "x", "port": 5432, "vpc_id": "vpc-1", "subnet_id": "subnet-a",
            "vpc_security_group_ids": ("sg-1",), "db_subnet_group_name": "mine", "availability_zone": "us-east-1a",
            "preferred_backup_window": "03:00-03:30", "preferred_maintenance_window": "sun:05:00-sun:05:30",
            "license_model": "postgresql-license", "db_parameter_group_name": "default.postgres17",
            "parameter_group_in_force": "default.postgres17", "option_group_name": "default:postgres-17",
            "ca_certificate_identifier": "rds-ca-rsa2048-g1", "requested_at": self.clock.wall(), "change": "",
            "node_id": f"node-{identifier}", "instance_create_time": self.clock.wall(),
        }  # fmt: skip
        instance = DBInstance(**(values | fields))
        self.insert(instance)
        return instance


def policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def allow(*actions: str, resource: str = "*", **more: Any) -> dict[str, Any]:
    return {
        "Effect": "Allow", "Action": [f"secretsmanager:{action}" for action in actions], "Resource": resource, **more
    }  # fmt: skip


@pytest.fixture
def secrets() -> Iterator[Secrets]:
    made = Secrets()
    yield made
    made.store.close()


@pytest.fixture
def document() -> Any:
    return policy


@pytest.fixture
def allowing() -> Any:
    return allow
