"""boto3's Secrets Manager client, unmodified, over HTTP: values, versions, policies, denied access, deletion."""

from __future__ import annotations

import json
import secrets as random_source
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from harness.files import holding
from harness.guests import guest_of
from harness.service import Service

pytestmark = pytest.mark.engine


@pytest.fixture
def name() -> str:
    return f"clients/{random_source.token_hex(4)}"


@pytest.fixture
def client(service: Service, name: str) -> Iterator[Any]:
    made = service.client("secretsmanager")
    yield made
    made.delete_secret(SecretId=name, ForceDeleteWithoutRecovery=True)


@pytest.fixture
def guest(service: Service) -> Iterator[Any]:
    with guest_of(service, "secretsmanager") as made:
        yield made


def refusal(call: Any, **members: Any) -> tuple[str, str, int]:
    """Code, message and HTTP status of the error that the call must give."""
    with pytest.raises(ClientError) as refused:
        call(**members)
    answer = refused.value.response
    return answer["Error"]["Code"], answer["Error"]["Message"], answer["ResponseMetadata"]["HTTPStatusCode"]


def test_a_secret_lives_from_creation_to_its_end(client: Any, name: str) -> None:
    made = client.create_secret(
        Name=name, SecretString='{"a":"ü☃"}', Description="d", Tags=[{"Key": "k", "Value": "v"}]
    )
    got = client.get_secret_value(SecretId=made["ARN"])
    assert (got["SecretString"], got["VersionId"], got["VersionStages"]) == (
        '{"a":"ü☃"}',
        made["VersionId"],
        ["AWSCURRENT"],
    )
    second = client.put_secret_value(SecretId=name, SecretBinary=b"\x00\xff")["VersionId"]
    assert client.get_secret_value(SecretId=name)["SecretBinary"] == b"\x00\xff"
    previous = client.get_secret_value(SecretId=name, VersionStage="AWSPREVIOUS")
    assert previous["SecretString"] == '{"a":"ü☃"}' and previous["CreatedDate"].tzinfo is not None
    client.update_secret_version_stage(
        SecretId=name, VersionStage="AWSCURRENT", MoveToVersionId=made["VersionId"], RemoveFromVersionId=second
    )
    shown = client.describe_secret(SecretId=name)
    assert shown["VersionIdsToStages"] == {made["VersionId"]: ["AWSCURRENT"], second: ["AWSPREVIOUS"]}
    found = [one for page in client.get_paginator("list_secrets").paginate(Filters=[{"Key": "name", "Values": [name]}])
             for one in page["SecretList"]]  # fmt: skip
    assert [one["ARN"] for one in found] == [made["ARN"]]
    assert client.batch_get_secret_value(SecretIdList=[name])["SecretValues"][0]["SecretString"] == '{"a":"ü☃"}'
    deletion = client.delete_secret(SecretId=name, RecoveryWindowInDays=7)
    assert deletion["DeletionDate"] > shown["CreatedDate"]
    assert refusal(client.get_secret_value, SecretId=name)[::2] == ("InvalidRequestException", 400)
    client.restore_secret(SecretId=name)
    assert client.get_secret_value(SecretId=name)["SecretString"] == '{"a":"ü☃"}'


def test_exceptions_have_the_types_that_programs_catch(client: Any, name: str) -> None:
    with pytest.raises(client.exceptions.ResourceNotFoundException, match="can't find the specified secret"):
        client.get_secret_value(SecretId=name)
    token = str(uuid.uuid4())
    client.create_secret(Name=name, SecretString="x", ClientRequestToken=token)
    client.create_secret(Name=name, SecretString="x", ClientRequestToken=token)
    with pytest.raises(client.exceptions.ResourceExistsException, match="already exists"):
        client.create_secret(Name=name, SecretString="x")
    with pytest.raises(client.exceptions.ResourceExistsException):
        client.put_secret_value(SecretId=name, SecretString="y", ClientRequestToken=token)
    with pytest.raises(client.exceptions.MalformedPolicyDocumentException):
        client.put_resource_policy(SecretId=name, ResourcePolicy="{}")
    with pytest.raises(client.exceptions.InvalidRequestException, match="cannot be rotated"):
        client.rotate_secret(SecretId=name)
    code, message, status = refusal(client.put_secret_value, SecretId=name, SecretString="x" * 65537)
    assert (code, status) == ("ValidationException", 400) and "65536" in message and "xxx" not in message
    code, message, _ = refusal(
        client.replicate_secret_to_regions, SecretId=name, AddReplicaRegions=[{"Region": "us-east-1"}]
    )
    assert code == "UnknownOperationException" and "not built" in message


def test_a_user_reads_only_what_the_secrets_policy_lets_it(client: Any, guest: Any, name: str) -> None:
    made = client.create_secret(Name=name, SecretString="x")
    code, message, status = refusal(guest.get_secret_value, SecretId=name)
    assert (code, status) == ("AccessDeniedException", 400)
    assert "is not authorized to perform: secretsmanager:GetSecretValue" in message and made["ARN"] in message
    statement = {"Effect": "Allow", "Principal": {"AWS": guest.user_arn}, "Action": "secretsmanager:GetSecretValue",
                 "Resource": "*"}  # fmt: skip
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    assert client.validate_resource_policy(SecretId=name, ResourcePolicy=document)["PolicyValidationPassed"]
    client.put_resource_policy(SecretId=name, ResourcePolicy=document, BlockPublicPolicy=True)
    assert guest.get_secret_value(SecretId=name)["SecretString"] == "x"
    assert refusal(guest.describe_secret, SecretId=name)[0] == "AccessDeniedException"
    client.put_resource_policy(
        SecretId=name,
        ResourcePolicy=json.dumps({"Version": "2012-10-17", "Statement": [{**statement, "Effect": "Deny"}]}),
    )
    assert "explicit deny" in refusal(guest.get_secret_value, SecretId=name)[1]


def test_passwords_of_any_kind(service: Service) -> None:
    client = service.client("secretsmanager")
    password = client.get_random_password(PasswordLength=64, ExcludePunctuation=True)["RandomPassword"]
    assert len(password) == 64 and password.isalnum()
    assert refusal(client.get_random_password, PasswordLength=2)[0] == "InvalidParameterException"


def test_no_value_is_in_any_file_of_the_service(service: Service, client: Any, name: str) -> None:
    canary = f"canary{random_source.token_hex(12)}"
    client.create_secret(Name=name, SecretString=canary)
    client.put_secret_value(SecretId=name, SecretString=canary + "2")
    assert client.get_secret_value(SecretId=name)["SecretString"] == canary + "2"
    assert holding(service.home, canary.encode()) == []
