"""boto3's KMS client and the aws command line, unmodified, over HTTP."""

from __future__ import annotations

import base64
import json
import secrets as random_source
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from harness.files import holding
from harness.guests import guest_of
from harness.service import Service

pytestmark = pytest.mark.engine


@pytest.fixture
def client(service: Service) -> Any:
    return service.client("kms")


@pytest.fixture
def key_id(client: Any) -> Iterator[str]:
    made = client.create_key(Description="clients")["KeyMetadata"]["KeyId"]
    yield made
    if client.describe_key(KeyId=made)["KeyMetadata"]["KeyState"] != "PendingDeletion":
        client.schedule_key_deletion(KeyId=made, PendingWindowInDays=7)


@pytest.fixture
def guest(service: Service) -> Iterator[Any]:
    with guest_of(service, "kms") as made:
        yield made


def test_a_key_encrypts_rotates_and_is_disabled_with_exceptions_that_programs_catch(client: Any, key_id: str) -> None:
    context = {"app": "shöp"}
    sealed = client.encrypt(KeyId=key_id, Plaintext=b"\x00\xff", EncryptionContext=context)["CiphertextBlob"]
    client.rotate_key_on_demand(KeyId=key_id)
    assert client.decrypt(CiphertextBlob=sealed, EncryptionContext=context)["Plaintext"] == b"\x00\xff"
    with pytest.raises(client.exceptions.InvalidCiphertextException):
        client.decrypt(CiphertextBlob=sealed)
    data_key = client.generate_data_key(KeyId=key_id, KeySpec="AES_256")
    assert client.decrypt(CiphertextBlob=data_key["CiphertextBlob"])["Plaintext"] == data_key["Plaintext"]
    assert client.list_key_rotations(KeyId=key_id)["Rotations"][0]["RotationType"] == "ON_DEMAND"
    client.enable_key_rotation(KeyId=key_id, RotationPeriodInDays=90)
    status = client.get_key_rotation_status(KeyId=key_id)
    assert status["KeyRotationEnabled"] and status["NextRotationDate"].tzinfo is not None
    client.disable_key(KeyId=key_id)
    with pytest.raises(client.exceptions.DisabledException, match="is disabled"):
        client.decrypt(CiphertextBlob=sealed, EncryptionContext=context)
    client.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
    with pytest.raises(client.exceptions.KMSInvalidStateException, match="is pending deletion") as refused:
        client.enable_key(KeyId=key_id)
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    with pytest.raises(client.exceptions.NotFoundException):
        client.describe_key(KeyId="alias/absent")


def test_paginators_see_every_key_alias_and_grant(client: Any, key_id: str) -> None:
    names = {f"alias/clients-{random_source.token_hex(4)}" for _ in range(3)}
    for name in names:
        client.create_alias(AliasName=name, TargetKeyId=key_id)
    pages = client.get_paginator("list_aliases").paginate(KeyId=key_id, PaginationConfig={"PageSize": 2})
    assert {one["AliasName"] for page in pages for one in page["Aliases"]} == names
    keys = [one["KeyId"] for page in client.get_paginator("list_keys").paginate() for one in page["Keys"]]
    assert key_id in keys
    for name in names:
        client.delete_alias(AliasName=name)


def test_a_user_needs_policy_or_grant(client: Any, guest: Any, key_id: str) -> None:
    with pytest.raises(ClientError, match=r"AccessDeniedException.*is not authorized to perform: kms:Encrypt"):
        guest.encrypt(KeyId=key_id, Plaintext=b"x")
    grant = client.create_grant(KeyId=key_id, GranteePrincipal=guest.user_arn, Operations=["Encrypt"])
    guest.encrypt(KeyId=key_id, Plaintext=b"x", GrantTokens=[grant["GrantToken"]])
    client.revoke_grant(KeyId=key_id, GrantId=grant["GrantId"])
    policy = json.loads(client.get_key_policy(KeyId=key_id, PolicyName="default")["Policy"])
    policy["Statement"].append(
        {"Effect": "Allow", "Principal": {"AWS": guest.user_arn}, "Action": "kms:Encrypt", "Resource": "*"}
    )
    client.put_key_policy(KeyId=key_id, PolicyName="default", Policy=json.dumps(policy))
    guest.encrypt(KeyId=key_id, Plaintext=b"x")


def test_the_command_line_encrypts_a_file(service: Service, key_id: str, tmp_path: Path) -> None:
    environment = service.aws_environment() | {"HOME": str(tmp_path), "AWS_DEFAULT_OUTPUT": "text"}
    (tmp_path / "clear").write_bytes(b"from a file")

    def aws(*arguments: str) -> str:
        done = subprocess.run(
            [str(Path(sys.executable).parent / "aws"), "kms", *arguments],
            env=environment, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        return done.stdout.strip()

    sealed = aws(
        "encrypt", "--key-id", key_id, "--plaintext", f"fileb://{tmp_path / 'clear'}", "--encryption-context", "a=b",
        "--query", "CiphertextBlob",
    )  # fmt: skip
    (tmp_path / "sealed").write_bytes(base64.b64decode(sealed))
    opened = aws(
        "decrypt", "--ciphertext-blob", f"fileb://{tmp_path / 'sealed'}", "--encryption-context", "a=b",
        "--query", "Plaintext",
    )  # fmt: skip
    assert base64.b64decode(opened) == b"from a file"


def test_no_plaintext_is_in_any_file_of_the_service(service: Service, client: Any, key_id: str) -> None:
    canary = f"canary{random_source.token_hex(12)}"
    data_key = client.generate_data_key(KeyId=key_id, NumberOfBytes=64)["Plaintext"]
    client.encrypt(KeyId=key_id, Plaintext=canary.encode())
    assert holding(service.home, canary.encode(), data_key, base64.b64encode(data_key)) == []
