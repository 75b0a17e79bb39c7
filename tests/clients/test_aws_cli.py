"""The aws command line, unmodified, configured by environment variables as `mainstay env` prints them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.service import PASSWORD, Service

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

NAME = "cli"
AWS = Path(sys.executable).parent / "aws"


class Cli:
    """Runs `aws`; answers are parsed JSON, or text for what is not JSON."""

    def __init__(self, service: Service, home: Path) -> None:
        # A home without ~/.aws: a person's own configuration must not decide a test.
        self.environment = service.aws_environment() | {"HOME": str(home), "AWS_DEFAULT_OUTPUT": "json"}

    def raw(self, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(AWS), *arguments], env=self.environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def __call__(self, *arguments: str, timeout_s: float = 60) -> Any:
        done = self.raw(*arguments, timeout_s=timeout_s)
        assert done.returncode == 0, f"aws {' '.join(arguments)}: {done.stderr}"
        if not done.stdout.strip():
            return None
        return json.loads(done.stdout) if done.stdout.lstrip()[0] in '{["' else done.stdout

    def refused(self, *arguments: str) -> str:
        """What the command says when the service refuses it (exit code 255)."""
        done = self.raw(*arguments)
        assert done.returncode == 255, (done.returncode, done.stdout, done.stderr)
        return done.stderr


@pytest.fixture(scope="module")
def aws(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    return Cli(service, tmp_path_factory.mktemp("cli-home"))


@pytest.fixture(scope="module")
def instance(service: Service, aws: Cli) -> Iterator[dict[str, Any]]:
    """An instance that the CLI makes, waits for with its own waiter (it polls every 30 s), and deletes."""
    shown = aws(
        "rds", "create-db-instance", "--db-instance-identifier", NAME, "--engine", "postgres",
        "--engine-version", service.engine_version, "--db-instance-class", "db.t3.micro", "--allocated-storage", "20",
        "--master-username", "app", "--master-user-password", PASSWORD, "--backup-retention-period", "0",
        "--no-multi-az", "--tags", "Key=team,Value=blue",
    )["DBInstance"]  # fmt: skip
    assert shown["DBInstanceStatus"] == "creating" and PASSWORD not in json.dumps(shown)
    assert "Endpoint" not in shown
    aws("rds", "wait", "db-instance-available", "--db-instance-identifier", NAME, timeout_s=120)
    yield aws("rds", "describe-db-instances", "--db-instance-identifier", NAME)["DBInstances"][0]
    gone = aws("rds", "delete-db-instance", "--db-instance-identifier", NAME, "--skip-final-snapshot")
    assert gone["DBInstance"]["DBInstanceStatus"] == "deleting"


def test_describe_with_query_filters_and_output_formats(aws: Cli, instance: dict[str, Any]) -> None:
    assert instance["DBInstanceStatus"] == "available" and instance["Endpoint"]["Port"] == 5432
    query = "DBInstances[].[DBInstanceIdentifier,DBInstanceStatus]"
    described = ("rds", "describe-db-instances", "--query", query)
    assert aws(*described, "--filters", f"Name=db-instance-id,Values={NAME}") == [[NAME, "available"]]
    shown = aws(*described, "--filters", f"Name=db-instance-id,Values={NAME}", "--output", "text")
    assert shown == f"{NAME}\tavailable\n"
    assert aws(*described, "--filters", "Name=engine,Values=mysql") == []
    assert NAME in aws("rds", "describe-db-instances", "--output", "table")
    assert "DBInstanceNotFound" in aws.refused("rds", "describe-db-instances", "--db-instance-identifier", "no")


def test_modify_reboot_stop_and_start(service: Service, aws: Cli, instance: dict[str, Any]) -> None:
    named = ("--db-instance-identifier", NAME)
    shown = aws("rds", "modify-db-instance", *named, "--db-instance-class", "db.t3.small")["DBInstance"]
    assert shown["PendingModifiedValues"] == {"DBInstanceClass": "db.t3.small"}
    aws("rds", "modify-db-instance", *named, "--db-instance-class", "db.t3.small", "--apply-immediately")
    assert service.await_status(NAME, "available")["DBInstanceClass"] == "db.t3.small"
    assert aws("rds", "reboot-db-instance", *named)["DBInstance"]["DBInstanceStatus"] == "rebooting"
    service.await_status(NAME, "available")
    assert aws("rds", "stop-db-instance", *named)["DBInstance"]["DBInstanceStatus"] == "stopping"
    service.await_status(NAME, "stopped")
    assert "InvalidDBInstanceState" in aws.refused("rds", "stop-db-instance", *named)
    assert aws("rds", "start-db-instance", *named)["DBInstance"]["DBInstanceStatus"] == "starting"
    service.await_status(NAME, "available")
    events = aws("rds", "describe-events", "--source-type", "db-instance", "--source-identifier", NAME,
                 "--duration", "60", "--query", "Events[].Message")  # fmt: skip
    told = " ".join(events).lower()
    assert all(word in told for word in ("created", "restarted", "stopped", "started")), told


def test_parameter_groups(service: Service, aws: Cli) -> None:
    version = aws("rds", "describe-db-engine-versions", "--engine", "postgres",
                  "--engine-version", service.engine_version)["DBEngineVersions"][0]  # fmt: skip
    named = ("--db-parameter-group-name", "cli-group")
    made = aws("rds", "create-db-parameter-group", *named, "--db-parameter-group-family",
               version["DBParameterGroupFamily"], "--description", "a b c")["DBParameterGroup"]  # fmt: skip
    assert made["DBParameterGroupArn"].endswith(":pg:cli-group")
    try:
        aws("rds", "modify-db-parameter-group", *named, "--parameters",
            "ParameterName=work_mem,ParameterValue=8192,ApplyMethod=immediate",
            "ParameterName=max_connections,ParameterValue=99,ApplyMethod=pending-reboot")  # fmt: skip
        mine = aws("rds", "describe-db-parameters", *named, "--source", "user")["Parameters"]
        assert {one["ParameterName"]: one["ParameterValue"] for one in mine} == {
            "work_mem": "8192",
            "max_connections": "99",
        }
        static = "ParameterName=max_connections,ParameterValue=98,ApplyMethod=immediate"
        assert "InvalidParameterCombination" in aws.refused(
            "rds", "modify-db-parameter-group", *named, "--parameters", static
        )
        first = aws("rds", "describe-db-parameters", *named, "--max-items", "30")
        rest = aws("rds", "describe-db-parameters", *named, "--starting-token", first["NextToken"])
        everything = aws("rds", "describe-db-parameters", *named)["Parameters"]
        assert len(first["Parameters"]) == 30 and first["Parameters"] + rest["Parameters"] == everything
        aws("rds", "reset-db-parameter-group", *named, "--reset-all-parameters")
        assert aws("rds", "describe-db-parameters", *named, "--source", "user")["Parameters"] == []
    finally:
        aws("rds", "delete-db-parameter-group", *named)
    assert "DBParameterGroupNotFound" in aws.refused("rds", "describe-db-parameter-groups", *named)


def test_subnet_groups_option_groups_and_tags(service: Service, aws: Cli) -> None:
    subnets = aws("ec2", "describe-subnets", "--filters", "Name=default-for-az,Values=true",
                  "--query", "Subnets[].SubnetId")  # fmt: skip
    group = aws("rds", "create-db-subnet-group", "--db-subnet-group-name", "cli-subnets",
                "--db-subnet-group-description", "d", "--subnet-ids", *subnets)["DBSubnetGroup"]  # fmt: skip
    arn = group["DBSubnetGroupArn"]
    assert {one["SubnetIdentifier"] for one in group["Subnets"]} == set(subnets)
    aws("rds", "add-tags-to-resource", "--resource-name", arn, "--tags", "Key=a,Value=1", "Key=b,Value=")
    listed = ("rds", "list-tags-for-resource", "--resource-name", arn, "--query", "TagList")
    assert aws(*listed) == [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": ""}]
    aws("rds", "remove-tags-from-resource", "--resource-name", arn, "--tag-keys", "a")
    assert aws(*listed) == [{"Key": "b", "Value": ""}]
    aws("rds", "delete-db-subnet-group", "--db-subnet-group-name", "cli-subnets")
    major = service.engine_version.split(".")[0]
    made = aws("rds", "create-option-group", "--option-group-name", "cli-options", "--engine-name", "postgres",
               "--major-engine-version", major, "--option-group-description", "d")["OptionGroup"]  # fmt: skip
    assert made["EngineName"] == "postgres" and made["MajorEngineVersion"] == major
    aws("rds", "delete-option-group", "--option-group-name", "cli-options")
    assert "OptionGroupNotFoundFault" in aws.refused(
        "rds", "describe-option-groups", "--option-group-name", "cli-options"
    )


def test_log_files_portion_by_portion_and_whole(aws: Cli, instance: dict[str, Any]) -> None:
    named = ("--db-instance-identifier", NAME)
    files = aws("rds", "describe-db-log-files", *named)["DescribeDBLogFiles"]
    assert files and all(file["Size"] >= 0 and file["LastWritten"] > 0 for file in files)
    log = max(files, key=lambda file: int(file["Size"]))["LogFileName"]
    portion = ("rds", "download-db-log-file-portion", *named, "--log-file-name", log, "--output", "json")
    # The CLI joins all portions to one text and counts its characters as items.
    head = aws(*portion, "--starting-token", "0", "--max-items", "40")
    whole = aws(*portion, "--starting-token", "0")["LogFileData"]
    assert "database system is ready to accept connections" in whole
    assert head["LogFileData"] == whole[:40] and head["NextToken"]
    end = aws(*portion, "--no-paginate", "--number-of-lines", "2")
    assert end["AdditionalDataPending"] is False and 1 <= len(end["LogFileData"].splitlines()) <= 2
    again = aws(*portion, "--no-paginate", "--marker", end["Marker"])
    assert end["LogFileData"] not in (again.get("LogFileData") or "")
    assert "DBLogFileNotFoundFault" in aws.refused(
        "rds", "download-db-log-file-portion", *named, "--log-file-name", "error/absent.log"
    )


def test_the_catalogue(service: Service, aws: Cli) -> None:
    versions = aws("rds", "describe-db-engine-versions", "--engine", "postgres",
                   "--query", "DBEngineVersions[].EngineVersion")  # fmt: skip
    assert service.engine_version in versions
    query = "OrderableDBInstanceOptions[].[DBInstanceClass,StorageType]"
    options = aws("rds", "describe-orderable-db-instance-options", "--engine", "postgres", "--engine-version",
                  service.engine_version, "--db-instance-class", "db.t3.micro", "--query", query)  # fmt: skip
    assert {db_class for db_class, _ in options} == {"db.t3.micro"}
    assert "gp3" in {storage_type for _, storage_type in options}
    certificates = aws("rds", "describe-certificates")
    known = {one["CertificateIdentifier"] for one in certificates["Certificates"]}
    assert certificates["DefaultCertificateForNewLaunches"] in known
    quotas = aws("rds", "describe-account-attributes")["AccountQuotas"]
    assert {"AccountQuotaName": "DBParameterGroups", "Used": 0, "Max": 50} in quotas
    assert "db-instance" in {
        one["SourceType"] for one in aws("rds", "describe-event-categories")["EventCategoriesMapList"]
    }
    assert aws("rds", "describe-reserved-db-instances")["ReservedDBInstances"] == []


def test_identity_network_and_policies(aws: Cli) -> None:
    account = aws("sts", "get-caller-identity")["Account"]
    assert len(account) == 12 and account.isdecimal()
    zones = aws("ec2", "describe-availability-zones", "--query", "AvailabilityZones[].ZoneName")
    assert len(zones) >= 2
    vpc = aws("ec2", "create-vpc", "--cidr-block", "10.88.0.0/16")["Vpc"]["VpcId"]
    aws("ec2", "wait", "vpc-available", "--vpc-ids", vpc)
    group = aws("ec2", "create-security-group", "--group-name", "cli", "--description", "d", "--vpc-id", vpc)["GroupId"]
    rule = ("--group-id", group, "--protocol", "tcp", "--port", "5432", "--cidr", "10.0.0.0/8")
    made = aws("ec2", "authorize-security-group-ingress", *rule)
    assert made["Return"] is True and made["SecurityGroupRules"][0]["CidrIpv4"] == "10.0.0.0/8"
    assert "InvalidPermission.Duplicate" in aws.refused("ec2", "authorize-security-group-ingress", *rule)
    aws("ec2", "delete-security-group", "--group-id", group)
    aws("ec2", "delete-vpc", "--vpc-id", vpc)
    assert "InvalidVpcID.NotFound" in aws.refused("ec2", "describe-vpcs", "--vpc-ids", vpc)
    trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": account}}
    aws("iam", "create-role", "--role-name", "cli-role", "--assume-role-policy-document",
        json.dumps({"Version": "2012-10-17", "Statement": [trust]}))  # fmt: skip
    shown = aws("iam", "get-role", "--role-name", "cli-role")["Role"]
    assert shown["AssumeRolePolicyDocument"]["Statement"][0]["Action"] == "sts:AssumeRole"
    session = aws("sts", "assume-role", "--role-arn", shown["Arn"], "--role-session-name", "clients")
    assert session["Credentials"]["AccessKeyId"].startswith("ASIA")
    aws("iam", "delete-role", "--role-name", "cli-role")
    assert "NoSuchEntity" in aws.refused("iam", "get-role", "--role-name", "cli-role")
