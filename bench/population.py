"""A control process alone, with any number of DB instances that exist only as records in its store.

The records are the service's own (`DBInstance`, `Node`), written through its own store before control starts; there is
no agent and no engine, because what is measured is the API.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from harness.service import free_port
from mainstay.host.certificates import CertificateAuthorities
from mainstay.host.clock import SystemClock
from mainstay.host.files import make_private_directory
from mainstay.host.layout import down_marker, prepare, spawn
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_subnet_group import DEFAULT_SUBNET_GROUP, DBSubnetGroup, GroupedSubnet
from mainstay.model.node import MasterUser, Node, NodeEndpoint, NodeLimits, NodeSpec, NodeTarget
from mainstay.model.records import Scope
from mainstay.settings import Settings, load_settings
from mainstay.store import SqliteStore

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0
QUIET_TIMEOUT_S = 300.0
REGION = "us-east-1"
"""Where the instances are; `load.signed` signs for it."""
PARAMETERS = {f"parameter_{number}": str(number) for number in range(30)}


class Control(msgspec.Struct, frozen=True):
    """A running control process."""

    port: int
    key: tuple[str, str]


@contextmanager
def control_with(instances: int) -> Iterator[Control]:
    """Runs control over a store with so many instances, named by `identifier`; removes everything at the end."""
    home = Path(tempfile.mkdtemp(prefix="mainstay-bench-", dir="/var/tmp"))
    settings = load_settings({}, home=str(home), port=free_port(), region=REGION)
    process: subprocess.Popen[bytes] | None = None
    try:
        prepare(settings)
        down_marker(settings).touch()  # otherwise control would start a supervisor, and that all the rest
        _populate(settings, instances)
        process = spawn(settings, "control")
        _await_health(settings.port, process)
        _await_quiet(settings)
        lines = (home / "credentials").read_text().split()
        values = dict(line.split("=", 1) for line in lines)
        yield Control(settings.port, (values["AWS_ACCESS_KEY_ID"], values["AWS_SECRET_ACCESS_KEY"]))
    finally:
        if process is not None:
            process.terminate()
            process.wait(STOP_TIMEOUT_S)
        shutil.rmtree(home)
        shutil.rmtree(settings.runtime, ignore_errors=True)


def identifier(number: int) -> str:
    """DBInstanceIdentifier of the instance of this number."""
    return f"instance-{number:05d}"


def resource_id(number: int) -> str:
    """DbiResourceId of the instance of this number."""
    return f"db-{number:026d}"


def _await_health(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/_mainstay/health", timeout=1).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise RuntimeError("control did not start")


def _await_quiet(settings: Settings) -> None:
    """At start control refreshes every instance's access list, one job each: a cost of starting, not of a call."""
    store = SqliteStore(settings.home / "control" / "store.sqlite")
    deadline = time.monotonic() + QUIET_TIMEOUT_S
    while store.next_due_at() is not None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"control still has jobs after {QUIET_TIMEOUT_S} s")
        time.sleep(0.2)
    store.close()


def _populate(settings: Settings, count: int) -> None:
    scope = Scope(settings.account_id, settings.region)
    make_private_directory(settings.home / "control")
    authorities = CertificateAuthorities(settings.home / "control" / "ca", SystemClock())
    certificate, _valid_till = authorities.issue(("instance.rds.mainstay.internal",), ("127.1.0.1",))
    subnets = tuple(GroupedSubnet(f"subnet-{number:017x}", f"{scope.region}{'abc'[number]}") for number in range(3))
    store = SqliteStore(settings.home / "control" / "store.sqlite")
    with store.transaction() as tx:
        tx.insert(
            DBSubnetGroup(
                scope=scope,
                db_subnet_group_name=DEFAULT_SUBNET_GROUP,
                description="default",
                vpc_id="vpc-00000000000000001",
                subnets=subnets,
            )
        )
        for number in range(count):
            instance = _instance(scope, number)
            tx.insert(instance)
            spec = NodeSpec(
                node_id=instance.node_id,
                scope=scope,
                dbi_resource_id=instance.dbi_resource_id,
                db_instance_identifier=instance.db_instance_identifier,
                availability_zone=instance.availability_zone,
                generation=1,
                target=NodeTarget.RUNNING,
                engine=instance.engine,
                engine_version=instance.engine_version,
                listen_address="127.0.0.1",
                port=20000,
                endpoint=NodeEndpoint(
                    endpoint_id=instance.node_id, address="127.1.0.1", port=5432, name="", admits=("0.0.0.0/0",)
                ),
                parameters=PARAMETERS,
                require_tls=True,
                master=MasterUser("app", "SCRAM-SHA-256$4096:"),
                database="postgres",
                certificate=certificate,
                limits=NodeLimits(memory_bytes=2**30, vcpus=2),
            )
            tx.insert(Node(scope=scope, spec=spec))
    store.close()


def _instance(scope: Scope, number: int) -> DBInstance:
    return DBInstance(
        scope=scope,
        db_instance_identifier=identifier(number),
        dbi_resource_id=resource_id(number),
        engine="postgres",
        engine_version="17.5",
        db_instance_class="db.t3.micro",
        allocated_storage_gib=20,
        storage_type="gp2",
        master_username="app",
        master_password_verifier="SCRAM-SHA-256$4096:",
        port=5432,
        vpc_id="vpc-00000000000000001",
        subnet_id="subnet-00000000000000000",
        vpc_security_group_ids=("sg-00000000000000001",),
        db_subnet_group_name=DEFAULT_SUBNET_GROUP,
        availability_zone=f"{scope.region}a",
        preferred_backup_window="03:00-03:30",
        preferred_maintenance_window="sun:05:00-sun:05:30",
        license_model="postgresql-license",
        db_parameter_group_name="default.postgres17",
        parameter_group_in_force="default.postgres17",
        option_group_name="default:postgres-17",
        ca_certificate_identifier="rds-ca-rsa2048-g1",
        tags={"team": "bench"},
        requested_at=time.time(),
        instance_create_time=time.time(),
        change="",
        node_id=f"node-{number:017x}",
        endpoint_address="127.1.0.1",
    )
