"""`rds` and what goes with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.builds import InstalledBuilds
from harness.rds_backups import DAY_S, SeenFleet, backed_up, create, prepare
from harness.rds_calls import DEFINITIONS, GIB, SCOPE, Rds
from mainstay.control.backup_desk import BackupDesk
from mainstay.engines.postgresql.rules import PostgresqlRules
from mainstay.engines.registry import Engines
from mainstay.host.certificates import CertificateAuthorities
from mainstay.host.clock import SimulatedClock
from mainstay.host.randomness import SeededRandomness
from mainstay.host.vault import Vault
from mainstay.model.capacity import HostCapacity
from mainstay.model.db_snapshot import DBInstanceAutomatedBackup
from mainstay.model.ec2 import Subnet, Vpc
from mainstay.model.node import ArchiveStatus
from mainstay.settings import Settings
from mainstay.store import SqliteStore
from mainstay.workflows.engine import Tools


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
def fleet(rds: Rds, group: str) -> SeenFleet:
    return prepare(rds)


@pytest.fixture
def desk(rds: Rds, fleet: SeenFleet) -> BackupDesk:
    made: dict[type, Any] = rds.collaborators
    tools = Tools(
        store=rds.store, fleet=fleet, proxies=None, clock=rds.clock, randomness=rds.randomness,  # type: ignore[arg-type]
        settings=rds.settings, engines=made[Engines], certificates=made[CertificateAuthorities], vault=made[Vault],
    )  # fmt: skip
    return BackupDesk(tools, Woken())  # type: ignore[arg-type]


@pytest.fixture
def backup(rds: Rds, fleet: SeenFleet) -> DBInstanceAutomatedBackup:
    """Of db1, of two days, with a log up to now."""
    now = rds.clock.wall()
    made = backed_up(rds, create(rds), now - 2 * DAY_S, now - DAY_S)
    fleet.archive = ArchiveStatus(latest_restorable_at=now - 3.0, timeline="00000001", position="0/9000000")
    return made
