"""Terraform and the AWS provider, unmodified: apply, no changes, import, change in place, no changes, destroy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from harness.service import PASSWORD, Service

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

    def __init__(self, service: Service, directory: Path, mirror: Path) -> None:
        self.directory = directory
        shutil.copy(HERE / "terraform" / "main.tf", directory)
        config = directory / "cli.tfrc"
        config.write_text(CLI_CONFIG.format(mirror=mirror))
        family = service.client("rds").describe_db_engine_versions(
            Engine="postgres", EngineVersion=service.engine_version
        )["DBEngineVersions"][0]["DBParameterGroupFamily"]
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


@pytest.fixture
def terraform(service: Service, tmp_path: Path) -> Terraform:
    mirror = Path(os.environ.get("MAINSTAY_TERRAFORM_PLUGINS", "/opt/tf-plugins"))
    if shutil.which("terraform") is None:
        pytest.skip("no terraform on the PATH")
    if not (mirror / PROVIDER).is_dir():
        pytest.skip(f"no AWS provider 5.100.0 below {mirror} (MAINSTAY_TERRAFORM_PLUGINS)")
    return Terraform(service, tmp_path, mirror)


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


def test_a_database_and_its_network_through_their_whole_life(service: Service, terraform: Terraform) -> None:
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

        require_same_instance_after_import(terraform)
        terraform.environment |= {
            "TF_VAR_stage": "second",
            "TF_VAR_instance_class": "db.t3.small",
            "TF_VAR_work_mem": "16384",
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
    finally:
        terraform.run("destroy", "-auto-approve", "-no-color", "-input=false")
    with pytest.raises(ClientError, match="DBInstanceNotFound"):
        service.describe("clients")
    for missing, describe in (
        ("DBSubnetGroupNotFoundFault", lambda: rds.describe_db_subnet_groups(DBSubnetGroupName="clients")),
        ("DBParameterGroupNotFound", lambda: rds.describe_db_parameter_groups(DBParameterGroupName="clients")),
        ("OptionGroupNotFoundFault", lambda: rds.describe_option_groups(OptionGroupName="clients")),
        ("NoSuchEntity", lambda: iam.get_role(RoleName="clients-app")),
    ):
        with pytest.raises(ClientError, match=missing):
            describe()
    assert not ec2.describe_vpcs(Filters=[{"Name": "cidr", "Values": ["10.20.0.0/16"]}])["Vpcs"]
