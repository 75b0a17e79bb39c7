"""Terraform and the AWS provider, unmodified: apply, no changes, import, change in place, no changes, destroy.

The provider waits a minute before it first looks at an instance that is made, changed or deleted. So all scenarios run
at once, each with a service of its own, from the beginning of the test run on (`begin`, called by tests/conftest.py);
each test, at the end of it, is the outcome of one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from botocore.exceptions import ClientError

from harness.dialects import MARIADB, MYSQL, POSTGRES, EngineUnderTest, newest_of
from harness.service import PASSWORD, Service, eventually
from harness.volumes import why_not

HERE = Path(__file__).resolve().parent
PROVIDER = "registry.terraform.io/hashicorp/aws/5.100.0/linux_amd64"
STEP_TIMEOUT_S = 400
NO_CHANGES, CHANGES = 0, 2
CLI_CONFIG = """\
provider_installation {{
  filesystem_mirror {{
    path    = "{mirror}"
    include = ["registry.terraform.io/hashicorp/aws"]
  }}
}}
"""

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1200)]


class Terraform:
    """The command in a working directory of its own, pointed at the service by environment variables only."""

    def __init__(self, service: Service, directory: Path, mirror: Path, configuration: str = "main.tf") -> None:
        self.directory = directory
        shutil.copy(HERE / "terraform" / configuration, directory)
        config = directory / "cli.tfrc"
        config.write_text(CLI_CONFIG.format(mirror=mirror))
        family = family_of(service, EngineUnderTest(POSTGRES, service.engine_version))
        self.environment = service.aws_environment() | {
            "TF_CLI_CONFIG_FILE": str(config),
            "TF_IN_AUTOMATION": "1",
            "CHECKPOINT_DISABLE": "1",
            "TF_VAR_engine_version": service.engine_version,
            "TF_VAR_parameter_group_family": family,
            "TF_VAR_master_password": PASSWORD,
        }
        self.run("init", "-no-color", "-input=false")

    def run(self, *arguments: str, accepted: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
        """Runs one command; an exit code that is not accepted fails the test with what Terraform said."""
        done = subprocess.run(
            ["terraform", *arguments],
            cwd=self.directory, env=self.environment, capture_output=True, text=True, timeout=STEP_TIMEOUT_S,
            check=False,
        )  # fmt: skip
        if done.returncode not in accepted:
            raise AssertionError(f"terraform {arguments[0]} gave {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def apply(self, *arguments: str) -> None:
        self.run("apply", "-auto-approve", "-no-color", "-input=false", *arguments)

    def require_no_changes(self, *arguments: str) -> None:
        """`plan -detailed-exitcode` is 0: what the service shows is what the configuration says."""
        self.run("plan", "-detailed-exitcode", "-no-color", "-input=false", *arguments, accepted=(NO_CHANGES,))

    def outputs(self) -> dict[str, Any]:
        shown = json.loads(self.run("output", "-json").stdout)
        return {name: one["value"] for name, one in shown.items()}


Scenario = Callable[[Service, Path, Path], None]


def mirror() -> Path | str:
    """Where the provider is, or why there is nothing to test."""
    mirror = Path(os.environ.get("MAINSTAY_TERRAFORM_PLUGINS", "/opt/tf-plugins"))
    if shutil.which("terraform") is None:
        return "no terraform on the PATH"
    if not (mirror / PROVIDER).is_dir():
        return f"no AWS provider 5.100.0 below {mirror} (MAINSTAY_TERRAFORM_PLUGINS)"
    return mirror


def require_same_instance_after_import(terraform: Terraform) -> None:
    """The instance leaves the state and comes back by its name; Terraform then sees nothing to replace or destroy.

    The provider cannot read a password or its own flags back, so it plans to write those again, in place, and no more.
    """
    terraform.run("state", "rm", "aws_db_instance.main")
    terraform.run("import", "-no-color", "-input=false", "aws_db_instance.main", "clients")
    terraform.run("plan", "-out=imported", "-no-color", "-input=false", "-detailed-exitcode", accepted=(0, CHANGES))
    plan = json.loads(terraform.run("show", "-json", "imported").stdout)
    allowed = {"password", "apply_immediately", "skip_final_snapshot", "delete_automated_backups"}
    for change in plan["resource_changes"]:
        before, after = change["change"]["before"] or {}, change["change"]["after"] or {}
        assert change["change"]["actions"] in (["no-op"], ["read"], ["update"]), change["address"]
        if change["mode"] == "managed":
            different = {name for name in after if after[name] != before.get(name)}
            assert different <= allowed, (change["address"], different)


def family_of(service: Service, engine: EngineUnderTest) -> str:
    """The engine's DB parameter group family."""
    (found,) = service.client("rds").describe_db_engine_versions(
        Engine=engine.dialect.engine, EngineVersion=engine.version
    )["DBEngineVersions"]
    return str(found["DBParameterGroupFamily"])


def a_database_and_its_network_through_their_whole_life(service: Service, directory: Path, mirror: Path) -> None:
    terraform = Terraform(service, directory, mirror)
    others = [*newest_of(MARIADB), *newest_of(MYSQL)]
    terraform.environment |= {
        "TF_VAR_others": json.dumps({one.dialect.engine: one.version for one in others}),
        "TF_VAR_other_families": json.dumps({one.dialect.engine: family_of(service, one) for one in others}),
    }
    rds, ec2, iam = service.client("rds"), service.client("ec2"), service.client("iam")
    try:
        terraform.apply()
        terraform.require_no_changes()
        created = service.describe("clients")
        assert terraform.outputs()["address"] == created["Endpoint"]["Address"]
        assert created["DBSubnetGroup"]["DBSubnetGroupName"] == "clients"
        with service.connect(created, dbname="shop") as connection:
            assert connection.execute("SHOW work_mem").fetchone() == ("8MB",)
            assert connection.execute("SHOW max_connections").fetchone() == ("120",)
        made = {one: service.describe(f"clients-{one.dialect.engine}") for one in others}
        for one, instance in made.items():
            with one.connect(service, instance, database="shop") as client:
                assert client.rows("SELECT @@max_allowed_packet, @@ft_min_word_len") == [(33554432, 7)]

        require_same_instance_after_import(terraform)
        terraform.environment |= {
            "TF_VAR_stage": "second",
            "TF_VAR_instance_class": "db.t3.small",
            "TF_VAR_work_mem": "16384",
            "TF_VAR_packet": "67108864",
            "TF_VAR_client_network": "127.0.0.0/16",
        }
        terraform.apply()
        terraform.require_no_changes()
        changed = service.describe("clients")
        assert changed["DbiResourceId"] == created["DbiResourceId"], "changed in place, not replaced"
        assert changed["DBInstanceClass"] == "db.t3.small"
        assert {"Key": "stage", "Value": "second"} in changed["TagList"]
        with service.connect(changed, dbname="shop") as connection:
            assert connection.execute("SHOW work_mem").fetchone() == ("16MB",)
        for one, before in made.items():
            after = service.describe(before["DBInstanceIdentifier"])
            assert after["DbiResourceId"] == before["DbiResourceId"], "changed in place, not replaced"
            assert after["DBInstanceClass"] == "db.t3.small"
            with one.connect(service, after, database="shop") as client:
                assert client.value("SELECT @@max_allowed_packet") == 67108864
    finally:
        terraform.run("destroy", "-auto-approve", "-no-color", "-input=false")
    assert rds.describe_db_instances()["DBInstances"] == []
    gone: tuple[tuple[str, Callable[[], object]], ...] = (
        ("DBSubnetGroupNotFoundFault", lambda: rds.describe_db_subnet_groups(DBSubnetGroupName="clients")),
        ("DBParameterGroupNotFound", lambda: rds.describe_db_parameter_groups(DBParameterGroupName="clients")),
        ("OptionGroupNotFoundFault", lambda: rds.describe_option_groups(OptionGroupName="clients")),
        ("NoSuchEntity", lambda: iam.get_role(RoleName="clients-app")),
    )
    for missing, describe in gone:
        with pytest.raises(ClientError, match=missing):
            describe()
    assert not ec2.describe_vpcs(Filters=[{"Name": "cidr", "Values": ["10.20.0.0/16"]}])["Vpcs"]


def multi_az_is_switched_on_and_off_and_a_read_replica_promoted(
    service: Service, directory: Path, mirror: Path
) -> None:
    terraform = Terraform(service, directory, mirror, "replica/main.tf")
    try:
        terraform.apply()
        terraform.require_no_changes()
        assert service.describe("replicated")["ReadReplicaDBInstanceIdentifiers"] == ["replicated-reader"]
        made = service.describe("replicated-reader")
        assert terraform.outputs()["address"] == made["Endpoint"]["Address"]
        assert made["ReadReplicaSourceDBInstanceIdentifier"] == "replicated"
        assert made["PreferredMaintenanceWindow"] == "sun:05:00-sun:05:30"
        with service.connect(made, dbname="shop") as connection:
            assert connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)
            assert connection.execute("SHOW work_mem").fetchone() == ("8MB",)

        terraform.environment |= {"TF_VAR_multi_az": "true"}
        terraform.apply()
        terraform.require_no_changes()
        source = service.describe("replicated")
        assert source["MultiAZ"] and source["SecondaryAvailabilityZone"] != source["AvailabilityZone"]

        terraform.environment |= {"TF_VAR_independent": "true", "TF_VAR_multi_az": "false"}
        terraform.apply()
        terraform.require_no_changes()
        assert not service.describe("replicated")["MultiAZ"]
        promoted = service.describe("replicated-reader")
        assert promoted["DbiResourceId"] == made["DbiResourceId"], "promoted in place, not replaced"
        assert "ReadReplicaSourceDBInstanceIdentifier" not in promoted
        with service.connect(promoted, dbname="shop") as connection:
            connection.execute("CREATE TABLE own (a int)")
    finally:
        terraform.run("destroy", "-auto-approve", "-no-color", "-input=false")
    for identifier in ("replicated", "replicated-reader"):
        with pytest.raises(ClientError, match="DBInstanceNotFound"):
            service.describe(identifier)


def snapshots_copies_and_restores(service: Service, directory: Path, mirror: Path) -> None:
    terraform = Terraform(service, directory, mirror, "backups/main.tf")
    rds, abroad = service.client("rds"), service.client("rds", region="eu-west-1")
    try:
        terraform.apply()
        terraform.require_no_changes()
        shown = {
            one["DBSnapshotIdentifier"]: one for one in rds.describe_db_snapshots(SnapshotType="manual")["DBSnapshots"]
        }
        assert {one["Status"] for one in shown.values()} == {"available"} and set(shown) == {"taken", "copied"}
        assert shown["copied"]["SourceDBSnapshotIdentifier"] == shown["taken"]["DBSnapshotArn"]
        for identifier in ("of-snapshot", "of-moment"):
            with service.connect(service.describe(identifier), dbname="shop") as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
        assert service.describe("of-moment")["BackupRetentionPeriod"] == 7
        (followed,) = abroad.describe_db_instance_automated_backups()["DBInstanceAutomatedBackups"]
        assert (followed["Status"], followed["BackupRetentionPeriod"]) == ("replicating", 3)
    finally:
        terraform.run("destroy", "-auto-approve", "-no-color", "-input=false")
    (followed,) = abroad.describe_db_instance_automated_backups()["DBInstanceAutomatedBackups"]
    assert followed["Status"] == "retained"
    assert rds.describe_db_snapshots()["DBSnapshots"] == []
    assert rds.describe_db_instance_automated_backups()["DBInstanceAutomatedBackups"] == []


def a_proxy_with_its_secret_role_and_endpoints(service: Service, directory: Path, mirror: Path) -> None:
    rds, ec2 = service.client("rds"), service.client("ec2")
    interfaces = len(ec2.describe_network_interfaces()["NetworkInterfaces"])
    terraform = Terraform(service, directory, mirror, "proxy/main.tf")

    def through(endpoint: str) -> str:
        """Who one is in the database that is reached through this endpoint."""
        with psycopg.connect(
            host=endpoint, port=5432, user="app", password=PASSWORD, dbname="shop", connect_timeout=10,
            sslmode="verify-full", sslrootcert=service.variables["MAINSTAY_CA_BUNDLE"],
        ) as connection:  # fmt: skip
            row = connection.execute("SELECT current_user").fetchone()
            assert row is not None
            return str(row[0])

    try:
        terraform.apply()
        terraform.require_no_changes()
        made = rds.describe_db_proxies(DBProxyName="proxied")["DBProxies"][0]
        endpoints = terraform.outputs()["endpoints"]
        assert terraform.outputs()["target"] == "proxied" and endpoints[0] == made["Endpoint"]
        eventually(lambda: health(rds, "proxied")["State"] == "AVAILABLE")
        assert [through(endpoint) for endpoint in endpoints] == ["app"] * 3

        for address, identity in (
            ("aws_db_proxy.main", "proxied"),
            ("aws_db_proxy_default_target_group.main", "proxied"),
            ("aws_db_proxy_target.main", "proxied/default/RDS_INSTANCE/proxied"),
            ("aws_db_proxy_endpoint.more[1]", "proxied/proxied-1"),
        ):
            terraform.run("state", "rm", address)
            terraform.run("import", "-no-color", "-input=false", address, identity)
        terraform.require_no_changes()

        terraform.environment |= {
            "TF_VAR_stage": "second", "TF_VAR_idle_client_timeout": "60", "TF_VAR_max_connections_percent": "50",
        }  # fmt: skip
        terraform.apply()
        terraform.require_no_changes()
        changed = rds.describe_db_proxies(DBProxyName="proxied")["DBProxies"][0]
        assert changed["DBProxyArn"] == made["DBProxyArn"] and changed["IdleClientTimeout"] == 60
        group = rds.describe_db_proxy_target_groups(DBProxyName="proxied")["TargetGroups"][0]
        assert group["ConnectionPoolConfig"]["MaxConnectionsPercent"] == 50
        assert through(endpoints[2]) == "app"
    finally:
        terraform.run("destroy", "-auto-approve", "-no-color", "-input=false")
    with pytest.raises(ClientError, match="DBProxyNotFoundFault"):
        rds.describe_db_proxies(DBProxyName="proxied")
    assert rds.describe_db_proxy_endpoints()["DBProxyEndpoints"] == []
    assert len(ec2.describe_network_interfaces()["NetworkInterfaces"]) == interfaces


def health(rds: Any, name: str) -> dict[str, str]:
    """TargetHealth of a proxy's only target."""
    (target,) = rds.describe_db_proxy_targets(DBProxyName=name)["Targets"]
    found: dict[str, str] = target["TargetHealth"]
    return found


def secrets_and_a_managed_master_password(service: Service, directory: Path, mirror: Path) -> None:
    terraform = Terraform(service, directory, mirror, "secrets/main.tf")
    secrets = service.client("secretsmanager")
    try:
        terraform.apply()
        terraform.require_no_changes()
        outputs = terraform.outputs()
        assert outputs["read_back"] == '{"key":"first"}'
        master = json.loads(secrets.get_secret_value(SecretId=outputs["master_secret"])["SecretString"])
        with service.connect(service.describe("terraform-managed"), password=master["password"]) as connection:
            connection.execute("SELECT 1")

        terraform.environment |= {"TF_VAR_value": "second", "TF_VAR_days": "3"}
        terraform.apply()
        terraform.require_no_changes()
        assert json.loads(secrets.get_secret_value(SecretId="terraform/app")["SecretString"]) == {"key": "second"}
        described = secrets.describe_secret(SecretId=outputs["master_secret"])
        assert described["RotationRules"] == {"AutomaticallyAfterDays": 3}
    finally:
        terraform.run("destroy", "-auto-approve", "-no-color", "-input=false")
    for gone in ("terraform/app", outputs["master_secret"]):
        with pytest.raises(ClientError, match="ResourceNotFoundException"):
            secrets.describe_secret(SecretId=gone)


def a_key_with_its_alias_policy_and_grant(service: Service, directory: Path, mirror: Path) -> None:
    terraform = Terraform(service, directory, mirror, "kms/main.tf")
    kms = service.client("kms")
    try:
        terraform.apply()
        terraform.require_no_changes()
        outputs = terraform.outputs()
        key_id = outputs["key_id"]
        assert outputs["manager"] == "AWS"
        assert kms.describe_key(KeyId="alias/terraform/main")["KeyMetadata"]["KeyId"] == key_id
        assert kms.get_key_rotation_status(KeyId=key_id)["RotationPeriodInDays"] == 90
        assert set(kms.list_grants(KeyId=key_id)["Grants"][0]["Operations"]) == {"Encrypt", "GenerateDataKey"}
        for address, identity in (("aws_kms_key.main", key_id), ("aws_kms_alias.main", "alias/terraform/main")):
            terraform.run("state", "rm", address)
            terraform.run("import", "-no-color", "-input=false", address, identity)

        terraform.environment |= {"TF_VAR_stage": "second", "TF_VAR_rotation_days": "180"}
        terraform.apply()
        terraform.require_no_changes()
        changed = kms.describe_key(KeyId=key_id)["KeyMetadata"]
        assert (changed["Description"], changed["KeyState"]) == ("terraform second", "Enabled"), "changed in place"
        assert kms.get_key_rotation_status(KeyId=key_id)["RotationPeriodInDays"] == 180
        assert kms.describe_key(KeyId="alias/terraform/main")["KeyMetadata"]["KeyId"] != key_id
    finally:
        terraform.run("destroy", "-auto-approve", "-no-color", "-input=false")
    assert kms.describe_key(KeyId=key_id)["KeyMetadata"]["KeyState"] == "PendingDeletion"
    with pytest.raises(ClientError, match="NotFoundException"):
        kms.describe_key(KeyId="alias/terraform/main")


def an_encrypted_instance_and_the_way_from_a_plain_one(service: Service, directory: Path, mirror: Path) -> None:
    """On a host that cannot encrypt volumes: that the refusal comes in words."""
    terraform = Terraform(service, directory, mirror, "encryption/main.tf")
    rds = service.client("rds")
    try:
        if reason := why_not("image", True):
            refused = terraform.run("apply", "-auto-approve", "-no-color", "-input=false", accepted=(1,))
            assert "mainstay doctor" in refused.stderr, (reason, refused.stderr)
            return
        terraform.apply()
        terraform.require_no_changes()
        outputs = terraform.outputs()
        assert outputs["copy_encrypted"] is True
        for identifier in ("tf-encrypted", "tf-restored"):
            shown = service.describe(identifier)
            assert (shown["StorageEncrypted"], shown["KmsKeyId"]) == (True, outputs["key_arn"])
    finally:
        terraform.run("destroy", "-auto-approve", "-no-color", "-input=false")
    assert rds.describe_db_instances()["DBInstances"] == rds.describe_db_snapshots()["DBSnapshots"] == []


SCENARIOS: dict[str, Scenario] = {
    one.__name__: one
    for one in (
        a_database_and_its_network_through_their_whole_life,
        multi_az_is_switched_on_and_off_and_a_read_replica_promoted,
        snapshots_copies_and_restores,
        a_proxy_with_its_secret_role_and_endpoints,
        secrets_and_a_managed_master_password,
        a_key_with_its_alias_policy_and_grant,
        an_encrypted_instance_and_the_way_from_a_plain_one,
    )
}


def played(scenario: Scenario, directory: Path, mirror: Path) -> None:
    """The scenario from beginning to end."""
    directory.mkdir()
    with Service(memory_overcommit="8") as service:
        try:
            scenario(service, directory, mirror)
        except AssertionError as error:
            error.add_note(service.log_tail())
            raise


@contextmanager
def begin(items: Sequence[pytest.Function], place: Path) -> Iterator[None]:
    """Every scenario that these tests are about, under way; at the end it waits for them."""
    provider = mirror()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        if isinstance(provider, Path):
            for name in {str(item.callspec.params["name"]) for item in items}:
                running[name] = threads.submit(played, SCENARIOS[name], place / name, provider)
        yield


AT_ONCE = 2
"""Terraform mostly waits, but each start of its provider takes seconds of a processor that other tests need too."""

running: dict[str, Future[None]] = {}


@pytest.mark.parametrize("name", SCENARIOS)
def test_terraform(name: str) -> None:
    if name not in running:
        pytest.skip(str(mirror()))
    running[name].result()
