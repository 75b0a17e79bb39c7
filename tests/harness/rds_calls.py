"""The RDS service on an in-memory store, without the wire: `rds.call("DescribeDBInstances", MaxRecords=20)`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from botocore.session import get_session
from botocore.validate import ParamValidator

from harness.builds import InstalledBuilds
from harness.callers import root_caller
from harness.records import db_instance
from mainstay.host.clock import SimulatedClock
from mainstay.host.randomness import SeededRandomness
from mainstay.model.db_instance import DBInstance
from mainstay.model.engine import ParameterDefinition
from mainstay.model.errors import ApiError
from mainstay.model.records import Record, Scope
from mainstay.services.operations import Call, Demand
from mainstay.services.rds.api import operations
from mainstay.settings import Settings
from mainstay.store import Event, Job, SqliteStore

MODEL = get_session().get_service_model("rds")
SCOPE = Scope("123456789012", "us-east-1")
GIB = 1 << 30


def parameter(name: str, data_type: str, apply_type: str, default: str, **more: Any) -> ParameterDefinition:
    return ParameterDefinition(name=name, data_type=data_type, apply_type=apply_type, default=default, **more)


DEFINITIONS = {
    one.name: one
    for one in (
        parameter("work_mem", "integer", "dynamic", "4096", allowed_values="64-2147483647", description="Memory."),
        parameter("log_statement", "string", "dynamic", "", allowed_values="none,ddl,mod,all"),
        parameter("shared_buffers", "integer", "static", "{DBInstanceClassMemory/32768}", source="system",
                  allowed_values="16-1073741823"),
        parameter("max_connections", "integer", "static", "100", allowed_values="6-262143"),
        parameter("data_directory", "string", "static", "", is_modifiable=False),
        *(parameter(f"padding_{number:03}", "integer", "dynamic", "1", allowed_values="0-9") for number in range(120)),
    )
}  # fmt: skip


def without_none(shown: Any) -> Any:
    """As the serializer writes it: members without a value are left out."""
    if isinstance(shown, dict):
        return {name: without_none(value) for name, value in shown.items() if value is not None}
    return [without_none(one) for one in shown] if isinstance(shown, list) else shown


def check_shape(operation: str, result: Any) -> None:
    """The answer has only members of the service model, each of its type."""
    shape = MODEL.operation_model(operation).output_shape
    if shape is None:
        assert result is None
    else:
        report = ParamValidator().validate(without_none(result), shape)
        assert not report.has_errors(), report.generate_report()


@dataclass
class Rds:
    """One account in one region, and what its calls changed."""

    store: SqliteStore
    clock: SimulatedClock
    builds: InstalledBuilds
    collaborators: dict[type, Any]
    settings: Settings
    scope: Scope = SCOPE
    randomness: SeededRandomness = field(default_factory=lambda: SeededRandomness(1))

    def _call(self, tx: Any) -> Call:
        return Call(
            caller=root_caller(self.scope.account_id),
            scope=self.scope,
            tx=tx,
            clock=self.clock,
            randomness=self.randomness,
            settings=self.settings,
            collaborators=self.collaborators,
        )

    def call(self, operation: str, **request: Any) -> Any:
        """The operation's result; raises its `ApiError`, and then nothing was changed."""
        with self.store.transaction() as tx:
            result: Any = operations.built[operation].handler(self._call(tx), request)
        check_shape(operation, result)
        return result

    def run(self, function: Any, *args: Any) -> Any:
        """`function(call, *args)` in a transaction of its own."""
        with self.store.transaction() as tx:
            return function(self._call(tx), *args)

    def refused(self, operation: str, **request: Any) -> str:
        """The error of a call that must fail: "<shape>: <message>"."""
        with pytest.raises(ApiError) as caught:
            self.call(operation, **request)
        return str(caught.value)

    def demands(self, operation: str, **request: Any) -> list[Demand]:
        with self.store.read() as tx:
            return list(operations.built[operation].demands(self._call(tx), request))

    def insert(self, *records: Record) -> None:
        with self.store.transaction() as tx:
            for record in records:
                tx.insert(record)

    def get(self, kind: Any, key: str) -> Any:
        with self.store.read() as tx:
            return tx.get(kind, self.scope, key)

    def instance(self, identifier: str = "db1", **fields: Any) -> DBInstance:
        """A stored instance in the subnet group "mine" with the groups named, by default the default ones."""
        group = fields.get("db_parameter_group_name", "default.postgres17")
        values: dict[str, Any] = {
            "scope": self.scope, "master_username": "admin1", "vpc_security_group_ids": ("sg-1",),
            "db_subnet_group_name": "mine", "db_parameter_group_name": group, "parameter_group_in_force": group,
            "option_group_name": "default:postgres-17", "ca_certificate_identifier": "rds-ca-rsa2048-g1",
            "requested_at": self.clock.wall(),
        }  # fmt: skip
        instance = db_instance(identifier, **values | fields)
        self.insert(instance)
        return instance

    def change_instance(self, instance: DBInstance, **fields: Any) -> None:
        with self.store.transaction() as tx:
            tx.put(msgspec.structs.replace(instance, **fields))

    def jobs(self) -> list[Job]:
        """All but the yearly rotation of the AWS managed keys, which is there from the first secret on."""
        with self.store.read() as tx:
            return [job for job in tx.jobs() if not job.subject.startswith("key:")]

    def events(self) -> list[Event]:
        with self.store.read() as tx:
            return tx.events(self.scope, 0, 1e12)
