"""The RDS service on an in-memory store, without the wire: `rds.call("DescribeDBInstances", MaxRecords=20)`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from botocore.session import get_session
from botocore.validate import ParamValidator

from harness.rds_backups import DAY_S, SeenFleet, backed_up, create, prepare
from mainstay.control.backup_desk import BackupDesk
from mainstay.engines.postgresql.rules import PostgresqlRules
from mainstay.engines.registry import Engines
from mainstay.host.certificates import CertificateAuthorities
from mainstay.host.clock import SimulatedClock
from mainstay.host.randomness import SeededRandomness
from mainstay.host.vault import Vault
from mainstay.model.capacity import HostCapacity
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_snapshot import DBInstanceAutomatedBackup
from mainstay.model.ec2 import Subnet, Vpc
from mainstay.model.engine import EngineBuild, ParameterDefinition
from mainstay.model.errors import ApiError, Permanent
from mainstay.model.node import ArchiveStatus
from mainstay.model.records import Record, Scope
from mainstay.services.operations import Call, Caller, Demand
from mainstay.services.rds.api import operations
from mainstay.settings import Settings
from mainstay.store import Event, Job, SqliteStore
from mainstay.workflows.engine import Tools

MODEL = get_session().get_service_model("rds")
SCOPE = Scope("123456789012", "us-east-1")
GIB = 1 << 30


def build(version: str) -> EngineBuild:
    nowhere = Path("/nowhere")
    major = version.split(".")[0]
    return EngineBuild(
        engine="postgres",
        version=version,
        major=major,
        family=f"postgres{major}",
        prefix=nowhere,
        bin_directory=nowhere,
        library_directory=nowhere,
        share_directory=nowhere,
        origin="installed",
    )


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


class InstalledBuilds:
    """Builds as the registry asks for them."""

    def __init__(self, *versions: str) -> None:
        self.present = [build(version) for version in versions]

    def installed(self) -> list[EngineBuild]:
        return list(self.present)

    def of(self, engine: str) -> list[EngineBuild]:
        return [one for one in self.present if one.engine == engine]

    def resolve(self, engine: str, version: str) -> EngineBuild:
        found = [one for one in self.of(engine) if version in (one.version, one.major)]
        if not found:
            raise Permanent(f"{engine} {version} is not installed")
        return max(found, key=lambda one: one.version)


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
        caller = Caller(
            kind="root",
            account_id=self.scope.account_id,
            arn=f"arn:aws:iam::{self.scope.account_id}:root",
            user_id=self.scope.account_id,
            principal="root",
            access_key_id="AKIA",
        )
        return Call(
            caller=caller,
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
            "scope": self.scope,
            "db_instance_identifier": identifier,
            "dbi_resource_id": f"db-{identifier.upper()}",
            "engine": "postgres",
            "engine_version": "17.5",
            "db_instance_class": "db.t3.micro",
            "allocated_storage_gib": 20,
            "storage_type": "gp3",
            "master_username": "admin1",
            "master_password_verifier": "x",
            "port": 5432,
            "vpc_id": "vpc-1",
            "subnet_id": "subnet-a",
            "vpc_security_group_ids": ("sg-1",),
            "db_subnet_group_name": "mine",
            "availability_zone": "us-east-1a",
            "preferred_backup_window": "03:00-03:30",
            "preferred_maintenance_window": "sun:05:00-sun:05:30",
            "license_model": "postgresql-license",
            "db_parameter_group_name": group,
            "parameter_group_in_force": group,
            "option_group_name": "default:postgres-17",
            "ca_certificate_identifier": "rds-ca-rsa2048-g1",
            "requested_at": self.clock.wall(),
            "change": "",
            "node_id": f"node-{identifier}",
        }
        instance = DBInstance(**(values | fields))
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


@pytest.fixture(scope="session")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthorities:
    return CertificateAuthorities(tmp_path_factory.mktemp("ca"), SimulatedClock())


@pytest.fixture
def rds(tmp_path: Path, authorities: CertificateAuthorities) -> Iterator[Rds]:
    """With PostgreSQL 17.2, 17.5 and 18.1, two VPCs, and a default one with three default subnets."""
    store = SqliteStore(":memory:")
    builds = InstalledBuilds("17.5", "17.2", "18.1")
    registry = Engines(builds, {"postgres": PostgresqlRules(lambda _build: DEFINITIONS)})  # type: ignore[arg-type]
    collaborators: dict[type, Any] = {
        Engines: registry,
        HostCapacity: HostCapacity(memory_bytes=8 * GIB, vcpus=2),
        CertificateAuthorities: authorities,
        Vault: Vault(b"k" * 32, SeededRandomness(2)),
    }
    service = Rds(store, SimulatedClock(), builds, collaborators, Settings(home=tmp_path))
    for vpc_id in ("vpc-1", "vpc-2"):
        service.insert(Vpc(scope=SCOPE, vpc_id=vpc_id, cidr_block="10.0.0.0/16", cidr_association_id="x",
                           dhcp_options_id="d", is_default=vpc_id == "vpc-1"))  # fmt: skip
    for letter, zone, vpc_id in (("a", "a", "vpc-1"), ("b", "b", "vpc-1"), ("c", "c", "vpc-1"), ("a2", "a", "vpc-1"),
                                 ("x", "a", "vpc-2"), ("y", "b", "vpc-2")):  # fmt: skip
        service.insert(Subnet(scope=SCOPE, subnet_id=f"subnet-{letter}", vpc_id=vpc_id, cidr_block="10.0.0.0/24",
                              availability_zone=f"us-east-1{zone}", acl_association_id="acl",
                              default_for_az=letter in "abc"))  # fmt: skip
    yield service
    store.close()


@pytest.fixture
def group(rds: Rds) -> str:
    """The subnet group "mine" in subnets a and b."""
    rds.call("CreateDBSubnetGroup", DBSubnetGroupName="mine", DBSubnetGroupDescription="d",
             SubnetIds=["subnet-a", "subnet-b"])  # fmt: skip
    return "mine"


class Woken:
    """The worker, as far as the desk needs it."""

    def wake(self) -> None:
        return


@pytest.fixture
def fleet(rds: Any, group: str) -> SeenFleet:
    return prepare(rds)


@pytest.fixture
def desk(rds: Any, fleet: SeenFleet) -> BackupDesk:
    made: dict[type, Any] = rds.collaborators
    tools = Tools(
        store=rds.store, fleet=fleet, proxies=None, clock=rds.clock, randomness=rds.randomness,  # type: ignore[arg-type]
        settings=rds.settings, engines=made[Engines], certificates=made[CertificateAuthorities], vault=made[Vault],
    )  # fmt: skip
    return BackupDesk(tools, Woken())  # type: ignore[arg-type]


@pytest.fixture
def backup(rds: Any, fleet: SeenFleet) -> DBInstanceAutomatedBackup:
    """Of db1, of two days, with a log up to now."""
    now = rds.clock.wall()
    made = backed_up(rds, create(rds), now - 2 * DAY_S, now - DAY_S)
    fleet.archive = ArchiveStatus(latest_restorable_at=now - 3.0, timeline="00000001", position="0/9000000")
    return made
