"""Passwords that RDS and Secrets Manager change in a real engine, under running clients and under kills."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from botocore.exceptions import BotoCoreError, ClientError

from harness.files import holding
from harness.service import PASSWORD, Service, eventually

pytestmark = pytest.mark.engine

NAME = "managed"


@pytest.fixture(scope="module")
def instance(service: Service) -> Iterator[dict[str, Any]]:
    rds = service.client("rds")
    rds.create_db_instance(
        DBInstanceIdentifier=NAME, Engine="postgres", EngineVersion=service.engine_version, AllocatedStorage=20,
        DBInstanceClass="db.t3.micro", MasterUsername="app", ManageMasterUserPassword=True,
        BackupRetentionPeriod=0,
    )  # fmt: skip
    yield service.await_status(NAME, "available")
    arn = service.describe(NAME).get("MasterUserSecret", {}).get("SecretArn")
    service.delete_instance(NAME)
    if arn is not None:
        with pytest.raises(ClientError, match="ResourceNotFoundException"):
            service.client("secretsmanager").describe_secret(SecretId=arn)


def master_secret(service: Service) -> dict[str, Any]:
    shown: dict[str, Any] = service.describe(NAME)["MasterUserSecret"]
    return shown


def active(service: Service) -> dict[str, Any]:
    secret: dict[str, Any] = eventually(
        lambda: (
            (one := service.describe(NAME))["DBInstanceStatus"] == "available"
            and one["MasterUserSecret"]["SecretStatus"] == "active"
            and one["MasterUserSecret"]
        )
    )
    return secret


def password(service: Service, stage: str = "AWSCURRENT") -> str:
    arn = master_secret(service)["SecretArn"]
    text = service.client("secretsmanager").get_secret_value(SecretId=arn, VersionStage=stage)["SecretString"]
    value = json.loads(text)
    assert set(value) == {"username", "password"} and value["username"] == "app"
    found: str = value["password"]
    return found


def code(call: Any, **members: Any) -> str:
    with pytest.raises(ClientError) as refused:
        call(**members)
    return f"{refused.value.response['Error']['Code']}: {refused.value.response['Error']['Message']}"


def test_the_secret_is_rds_own_and_opens_the_instance(service: Service, instance: dict[str, Any]) -> None:
    shown = active(service)
    secrets = service.client("secretsmanager")
    described = secrets.describe_secret(SecretId=shown["SecretArn"])
    assert described["Name"].startswith("rds!db-") and described["OwningService"] == "rds"
    assert described["RotationEnabled"] and described["RotationRules"] == {"AutomaticallyAfterDays": 7}
    assert "RotationLambdaARN" not in described and described["NextRotationDate"] > described["CreatedDate"]
    assert {one["Key"]: one["Value"] for one in described["Tags"]} == {
        "aws:rds:primaryDBInstanceArn": instance["DBInstanceArn"],
        "aws:secretsmanager:owningService": "rds",
    }
    with service.connect(instance, password=password(service)) as session:
        assert session.execute("SELECT current_user").fetchone() == ("app",)
    managed = {"SecretId": shown["SecretArn"]}
    for call, members in (
        (secrets.delete_secret, {"ForceDeleteWithoutRecovery": True}),
        (secrets.put_secret_value, {"SecretString": "x"}),
        (secrets.update_secret, {"SecretString": "x"}),
        (secrets.update_secret_version_stage, {"VersionStage": "X", "MoveToVersionId": "0" * 32}),
    ):
        assert code(call, **managed, **members).startswith("InvalidRequestException: The secret is managed by another")


def test_a_rotation_under_running_clients_loses_none_of_them(service: Service, instance: dict[str, Any]) -> None:
    """Sessions stay; who reads the secret before each login is refused at most while the password changes."""
    active(service)
    before = password(service)
    outcomes: list[tuple[float, str]] = []
    ended = threading.Event()

    def client() -> None:
        while not ended.is_set():
            present = password(service)
            try:
                with service.connect(instance, password=present) as session:
                    session.execute("SELECT 1")
                outcomes.append((time.monotonic(), "in"))
            except psycopg.OperationalError as error:
                assert "password authentication failed" in str(error)
                outcomes.append((time.monotonic(), "refused"))

    with service.connect(instance, password=before) as session:
        thread = threading.Thread(target=client)
        thread.start()
        try:
            eventually(lambda: len(outcomes) > 5)
            for _ in range(3):
                count = len(outcomes)
                service.client("rds").modify_db_instance(
                    DBInstanceIdentifier=NAME, RotateMasterUserPassword=True, ApplyImmediately=True
                )
                active(service)
                session.execute("SELECT 1")
                eventually(lambda: len(outcomes) > count + 5)  # noqa: B023 - called at once
        finally:
            ended.set()
            thread.join()
    after = password(service)
    assert after != before
    assert outcomes[-1][1] == "in"
    with service.connect(instance, password=after) as session:
        session.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        service.connect(instance, password=before)
    refused = [at for at, what in outcomes if what == "refused"]
    assert len(refused) <= 9, "each change may refuse a few logins that read the secret just before it"


def test_rotate_secret_does_the_same_and_keeps_the_new_schedule(service: Service, instance: dict[str, Any]) -> None:
    arn = active(service)["SecretArn"]
    before = password(service)
    secrets = service.client("secretsmanager")
    version = secrets.rotate_secret(SecretId=arn, RotationRules={"AutomaticallyAfterDays": 3})["VersionId"]
    eventually(lambda: "AWSCURRENT" in secrets.describe_secret(SecretId=arn)["VersionIdsToStages"].get(version, ()))
    described = secrets.describe_secret(SecretId=arn)
    assert described["VersionIdsToStages"][version] == ["AWSCURRENT"]
    assert sorted(described["VersionIdsToStages"].values()) == [["AWSCURRENT"], ["AWSPREVIOUS"]]
    days = (described["NextRotationDate"] - described["LastRotatedDate"]).total_seconds() / 86400
    assert days == pytest.approx(3, abs=0.01)
    assert password(service, "AWSPREVIOUS") == before
    with service.connect(instance, password=password(service)) as session:
        session.execute("SELECT 1")
    # The other tests, in any order, find the schedule that RDS gives.
    secrets.rotate_secret(SecretId=arn, RotationRules={"AutomaticallyAfterDays": 7}, RotateImmediately=False)


def test_what_does_not_fit_is_refused(service: Service, instance: dict[str, Any]) -> None:
    active(service)
    rds = service.client("rds")
    for members, words in (
        ({"MasterUserPassword": PASSWORD}, "InvalidParameterCombination: You can't specify MasterUserPassword"),
        ({"ManageMasterUserPassword": False}, "InvalidParameterCombination: You must specify MasterUserPassword"),
        ({"RotateMasterUserPassword": True}, "InvalidParameterCombination: You must apply the change immediately"),
        ({"MasterUserSecretKmsKeyId": "alias/x"}, "InvalidParameterCombination: You can't change the KMS key"),
    ):
        assert code(rds.modify_db_instance, DBInstanceIdentifier=NAME, **members).startswith(words)
    assert "You can't specify MasterUserPassword" in code(
        rds.create_db_instance, DBInstanceIdentifier="never", Engine="postgres", DBInstanceClass="db.t3.micro",
        AllocatedStorage=20, MasterUsername="app", MasterUserPassword=PASSWORD, ManageMasterUserPassword=True,
    )  # fmt: skip


def rotate_masters_own_secret(service: Service, instance: dict[str, Any]) -> None:
    """The master user's password in a secret of the user's own: the new one outlives what Mainstay wrote before."""
    secrets = service.client("secretsmanager")
    value = {"engine": "postgres", "dbInstanceIdentifier": NAME, "username": "app", "password": PASSWORD}
    arn = secrets.create_secret(Name=f"master-{time.time_ns()}", SecretString=json.dumps(value))["ARN"]
    version = secrets.rotate_secret(SecretId=arn)["VersionId"]
    eventually(lambda: "AWSCURRENT" in secrets.describe_secret(SecretId=arn)["VersionIdsToStages"].get(version, ()))
    rotated = json.loads(secrets.get_secret_value(SecretId=arn)["SecretString"])["password"]
    service.client("rds").reboot_db_instance(DBInstanceIdentifier=NAME)
    service.await_status(NAME, "available")
    with service.connect(instance, password=rotated) as session:
        session.execute("SELECT 1")
    secrets.delete_secret(SecretId=arn, ForceDeleteWithoutRecovery=True)


def test_management_is_turned_off_with_a_password_and_on_again(service: Service, instance: dict[str, Any]) -> None:
    arn = active(service)["SecretArn"]
    rds, secrets = service.client("rds"), service.client("secretsmanager")
    rds.modify_db_instance(
        DBInstanceIdentifier=NAME, ManageMasterUserPassword=False, MasterUserPassword=PASSWORD, ApplyImmediately=True
    )
    assert "MasterUserSecret" not in service.await_status(NAME, "available")
    with pytest.raises(secrets.exceptions.ResourceNotFoundException):
        secrets.describe_secret(SecretId=arn)
    with service.connect(instance) as session:
        session.execute("SELECT 1")
    rotate_masters_own_secret(service, instance)
    kms = service.client("kms")
    key = kms.create_key()["KeyMetadata"]
    again = {"DBInstanceIdentifier": NAME, "ManageMasterUserPassword": True, "ApplyImmediately": True}
    refused = code(rds.modify_db_instance, **again, MasterUserSecretKmsKeyId="alias/x")
    assert refused.startswith("KMSKeyNotAccessibleFault: Specified KMS key [alias/x] does not exist, is not enabled")
    answer = rds.modify_db_instance(**again, MasterUserSecretKmsKeyId=key["KeyId"])
    assert answer["DBInstance"]["DBInstanceStatus"] == "resetting-master-credentials"
    assert answer["DBInstance"]["MasterUserSecret"]["SecretStatus"] == "creating"
    assert active(service)["SecretArn"] != arn and active(service)["KmsKeyId"] == key["Arn"]
    with service.connect(instance, password=password(service)) as session:
        session.execute("SELECT 1")
    kms.disable_key(KeyId=key["KeyId"])
    refused = code(rds.modify_db_instance, **again, RotateMasterUserPassword=True)
    assert refused.startswith("KMSKeyNotAccessibleFault")
    shown = master_secret(service)
    assert shown["SecretStatus"] == "impaired"
    assert "DecryptionFailure" in code(secrets.get_secret_value, SecretId=shown["SecretArn"])
    kms.enable_key(KeyId=key["KeyId"])
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        service.connect(instance)


def test_no_password_is_in_any_file_or_command_line(service: Service, instance: dict[str, Any]) -> None:
    active(service)
    known = [password(service).encode()]
    assert holding(service.home, *known) == []


def test_a_managed_password_needs_the_permission_to_make_secrets(service: Service) -> None:
    iam = service.client("iam")
    statement = {"Effect": "Allow", "Action": ["rds:*", "ec2:*"], "Resource": "*"}
    iam.create_user(UserName="rds-only")
    key = iam.create_access_key(UserName="rds-only")["AccessKey"]
    iam.put_user_policy(
        UserName="rds-only",
        PolicyName="p",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [statement]}),
    )
    try:
        rds = service.client("rds", key=(key["AccessKeyId"], key["SecretAccessKey"]))
        refused = code(
            rds.create_db_instance, DBInstanceIdentifier="never", Engine="postgres", DBInstanceClass="db.t3.micro",
            AllocatedStorage=20, MasterUsername="app", ManageMasterUserPassword=True,
        )  # fmt: skip
        assert refused.startswith("AccessDenied") and "secretsmanager:CreateSecret" in refused
        assert "never" not in [one["DBInstanceIdentifier"] for one in rds.describe_db_instances()["DBInstances"]]
    finally:
        iam.delete_user_policy(UserName="rds-only", PolicyName="p")
        iam.delete_access_key(UserName="rds-only", AccessKeyId=key["AccessKeyId"])
        iam.delete_user(UserName="rds-only")


def user_secret(service: Service, instance: dict[str, Any], **more: Any) -> tuple[str, dict[str, Any]]:
    """A database user of its own with a secret that AWS's rotation templates would take."""
    with service.connect(instance, password=password(service)) as session:
        session.execute("DROP ROLE IF EXISTS worker")
        session.execute("CREATE ROLE worker LOGIN PASSWORD 'before-rotation-1'")
    value = {
        "engine": "postgres", "host": instance["Endpoint"]["Address"], "port": instance["Endpoint"]["Port"],
        "username": "worker", "password": "before-rotation-1", "dbname": "postgres", "note": "kept", **more,
    }  # fmt: skip
    made = service.client("secretsmanager").create_secret(
        Name=f"worker-{time.time_ns()}", SecretString=json.dumps(value)
    )
    return made["ARN"], value


@pytest.mark.parametrize("with_master", [False, True])
def test_a_users_secret_is_rotated_without_a_lambda(
    service: Service, instance: dict[str, Any], with_master: bool
) -> None:
    more = {"masterarn": active(service)["SecretArn"]} if with_master else {}
    arn, value = user_secret(service, instance, **more)
    secrets = service.client("secretsmanager")
    if with_master:  # the secret's own password is of no use: only the master can help
        with service.connect(instance, password=password(service)) as session:
            session.execute("ALTER ROLE worker PASSWORD 'nobody-knows-this-2'")
    version = secrets.rotate_secret(SecretId=arn, RotationRules={"AutomaticallyAfterDays": 1})["VersionId"]
    eventually(lambda: "AWSCURRENT" in secrets.describe_secret(SecretId=arn)["VersionIdsToStages"].get(version, ()))
    rotated = json.loads(secrets.get_secret_value(SecretId=arn)["SecretString"])
    assert {**rotated, "password": ""} == {**value, "password": ""} and rotated["password"] != value["password"]
    with service.connect(instance, user="worker", password=rotated["password"]) as session:
        assert session.execute("SELECT current_user").fetchone() == ("worker",)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        service.connect(instance, user="worker", password=value["password"])
    secrets.cancel_rotate_secret(SecretId=arn)
    assert secrets.describe_secret(SecretId=arn)["RotationEnabled"] is False
    secrets.delete_secret(SecretId=arn, ForceDeleteWithoutRecovery=True)


def test_a_users_rotation_survives_a_kill_of_control(service: Service, instance: dict[str, Any]) -> None:
    active(service)
    for _ in range(3):
        arn, _value = user_secret(service, instance)
        version = service.client("secretsmanager").rotate_secret(SecretId=arn)["VersionId"]
        service.kill("control")
        eventually(lambda: moved(service, arn, version))  # noqa: B023 - called at once
        text = service.client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"]
        with service.connect(instance, user="worker", password=json.loads(text)["password"]) as session:
            session.execute("SELECT 1")
        service.client("secretsmanager").delete_secret(SecretId=arn, ForceDeleteWithoutRecovery=True)


def moved(service: Service, arn: str, version_id: str) -> bool:
    """Whether the version is AWSCURRENT; False as long as control is being started again."""
    try:
        stages = service.client("secretsmanager").describe_secret(SecretId=arn)["VersionIdsToStages"]
    except (BotoCoreError, ClientError):
        return False
    return "AWSCURRENT" in stages.get(version_id, ())


def test_a_users_secret_with_a_wrong_password_stays_as_it_is(service: Service, instance: dict[str, Any]) -> None:
    active(service)
    arn, _value = user_secret(service, instance, password="not-the-password")
    secrets = service.client("secretsmanager")
    version = secrets.rotate_secret(SecretId=arn)["VersionId"]
    eventually(lambda: "AWSPENDING" in secrets.describe_secret(SecretId=arn)["VersionIdsToStages"].get(version, ()))
    time.sleep(1.0)
    assert json.loads(secrets.get_secret_value(SecretId=arn)["SecretString"])["password"] == "not-the-password"
    with service.connect(instance, user="worker", password="before-rotation-1") as session:
        session.execute("SELECT 1")
    secrets.delete_secret(SecretId=arn, ForceDeleteWithoutRecovery=True)


def test_the_password_survives_kills_of_every_process_while_it_changes(
    service: Service, instance: dict[str, Any]
) -> None:
    for name in ("control", "agent"):
        arn = active(service)["SecretArn"]
        secrets = service.client("secretsmanager")
        version = secrets.rotate_secret(SecretId=arn)["VersionId"]
        service.kill(name)
        eventually(lambda: moved(service, arn, version))  # noqa: B023 - called at once
        with service.connect(instance, password=password(service)) as session:
            session.execute("SELECT 1")
