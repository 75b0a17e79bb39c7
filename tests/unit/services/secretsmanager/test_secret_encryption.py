"""Values under KMS keys: whose, with whose permission, and what happens when a key is disabled or changed."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest

from harness.accounts import document
from harness.secrets_account import Secrets, allowing
from mainstay.model.secrets_manager import SecretValue
from mainstay.protocol.kms import decode_blob
from mainstay.services.secretsmanager import interfaces
from mainstay.services.secretsmanager.encryption import is_usable

DENIED = "AccessDenied: Access to KMS is not allowed"


def new_key(secrets: Secrets) -> str:
    key_id: str = secrets.kms("CreateKey")["KeyMetadata"]["KeyId"]
    return key_id


def keys_in_use(secrets: Secrets, name: str = "app") -> set[str]:
    """The ids of the keys that the values of a secret are under."""
    values = [one for one in secrets.sealed_values() if one.secret == secrets.secret(name).resource]
    return {decode_blob(base64.b64decode(one.data_key)).key_id for one in values}


def allow_kms(*actions: str, **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": [f"kms:{action}" for action in actions], "Resource": "*", **more}


def test_without_a_key_of_its_own_a_secret_is_under_the_accounts_managed_one(secrets: Secrets) -> None:
    secrets.create()
    managed = secrets.kms("DescribeKey", KeyId="alias/aws/secretsmanager")["KeyMetadata"]
    assert managed["KeyManager"] == "AWS" and keys_in_use(secrets) == {managed["KeyId"]}
    assert secrets.value() == "one"
    assert "KmsKeyId" not in secrets.call("DescribeSecret", SecretId="app")


def test_a_secret_is_under_the_key_that_it_names_and_shows_the_name_it_was_given(secrets: Secrets) -> None:
    key_id = new_key(secrets)
    secrets.kms("CreateAlias", AliasName="alias/mine", TargetKeyId=key_id)
    secrets.create(KmsKeyId="alias/mine")
    assert keys_in_use(secrets) == {key_id} and secrets.value() == "one"
    assert secrets.call("DescribeSecret", SecretId="app")["KmsKeyId"] == "alias/mine"


@pytest.mark.parametrize("named", ["alias/no", "12345678-1234-4321-8888-123456789012", "nonsense"])
def test_a_key_that_is_not_there_is_refused_and_no_secret_is_made(secrets: Secrets, named: str) -> None:
    for value in ("one", None):
        given: dict[str, Any] = {} if value is None else {"SecretString": value}
        refusal = secrets.refused("CreateSecret", Name="app", KmsKeyId=named, **given)
        assert refusal.startswith("EncryptionFailure") and "does not exist" in refusal
    assert secrets.sealed_values() == []


def test_a_disabled_key_gives_and_takes_no_value_until_it_is_enabled_again(secrets: Secrets) -> None:
    key_id = new_key(secrets)
    secrets.create(KmsKeyId=key_id)
    secrets.kms("DisableKey", KeyId=key_id)
    assert secrets.refused("GetSecretValue", SecretId="app") == (
        "DecryptionFailure: Secrets Manager can't decrypt the protected secret text using the provided KMS key. The KMS"
        f" key arn:aws:kms:us-east-1:123456789012:key/{key_id} is disabled. Enable it."
    )
    for operation in ("PutSecretValue", "UpdateSecret"):
        refusal = secrets.refused(operation, SecretId="app", SecretString="two")
        assert refusal.startswith("EncryptionFailure") and "is disabled" in refusal
    batch = secrets.call("BatchGetSecretValue", SecretIdList=["app"])
    assert [one["ErrorCode"] for one in batch["Errors"]] == ["DecryptionFailure"]
    with secrets.store.read() as view:
        assert not is_usable(view, secrets.secret())
    secrets.kms("EnableKey", KeyId=key_id)
    assert secrets.value() == "one"


def test_values_that_the_vault_sealed_before_there_was_a_kms_go_on_opening(secrets: Secrets) -> None:
    made = secrets.create()
    (record,) = secrets.sealed_values()
    context = f"secret:{secrets.scope}:{secrets.secret().resource}:{made['VersionId']}"
    old = msgspec.structs.replace(record, sealed=secrets.vault.seal("from before", context), data_key="")
    assert "data_key" not in msgspec.to_builtins(old)
    with secrets.store.transaction() as tx:
        tx.put(old)
    assert secrets.value() == "from before"
    secrets.call("UpdateSecret", SecretId="app", KmsKeyId=new_key(secrets))
    assert secrets.value() == "from before" and secrets.sealed_values()[0].data_key


def test_another_key_takes_over_the_versions_in_use_and_only_those(secrets: Secrets) -> None:
    old, new = new_key(secrets), new_key(secrets)
    secrets.create(KmsKeyId=old)
    for value in ("two", "three"):
        secrets.call("PutSecretValue", SecretId="app", SecretString=value)
    secrets.call("UpdateSecret", SecretId="app", KmsKeyId=new)
    assert keys_in_use(secrets) == {old, new}, "the version without labels stays under the old key"
    secrets.kms("DisableKey", KeyId=old)
    assert secrets.value() == "three"
    assert secrets.value(VersionStage="AWSPREVIOUS") == "two"


def test_a_key_is_not_changed_while_the_old_one_cannot_be_used(secrets: Secrets) -> None:
    old, new = new_key(secrets), new_key(secrets)
    secrets.create(KmsKeyId=old)
    secrets.kms("DisableKey", KeyId=old)
    assert secrets.refused("UpdateSecret", SecretId="app", KmsKeyId=new).startswith("DecryptionFailure")
    assert secrets.secret().kms_key_id == old


def test_a_value_moved_to_another_secret_or_version_does_not_open(secrets: Secrets) -> None:
    secrets.create("one", value="first")
    secrets.create("other", value="x")
    one, other = (next(v for v in secrets.sealed_values() if v.secret.startswith(name)) for name in ("one", "other"))
    with secrets.store.transaction() as tx:
        tx.put(msgspec.structs.replace(other, sealed=one.sealed, data_key=one.data_key))
    assert secrets.refused("GetSecretValue", SecretId="other").startswith("DecryptionFailure")
    assert isinstance(other, SecretValue)


class TestPermissions:
    def test_the_managed_key_serves_whoever_may_use_the_secret(self, secrets: Secrets) -> None:
        one = secrets.user("one", allowing("*"))
        secrets.call("CreateSecret", one, Name="app", SecretString="one")
        assert secrets.value(by=one) == "one"

    def test_a_key_of_the_accounts_own_needs_its_own_permission(self, secrets: Secrets) -> None:
        key_id = new_key(secrets)
        one, writer = secrets.user("one", allowing("*")), secrets.user("writer", allowing("*"), allow_kms("*DataKey"))
        secrets.create(KmsKeyId=key_id)
        assert secrets.refused("GetSecretValue", one, SecretId="app").startswith(DENIED)
        for by in (one, writer):
            refusal = secrets.refused("PutSecretValue", by, SecretId="app", SecretString="x")
            assert refusal.startswith(DENIED)
            refusal = secrets.refused("CreateSecret", by, Name="b", SecretString="x", KmsKeyId=key_id)
            assert refusal.startswith(DENIED)

    def test_it_may_be_limited_to_secrets_manager_and_to_one_secret(self, secrets: Secrets) -> None:
        key_id = new_key(secrets)
        made = secrets.create(KmsKeyId=key_id)
        secrets.create("other", KmsKeyId=key_id)
        condition = {
            "kms:ViaService": "secretsmanager.us-east-1.amazonaws.com",
            "kms:EncryptionContext:SecretARN": made["ARN"],
        }
        reader = secrets.user("reader", allowing("*"), allow_kms("Decrypt", Condition={"StringEquals": condition}))
        assert secrets.value(by=reader) == "one"
        assert secrets.refused("GetSecretValue", reader, SecretId="other").startswith(DENIED)

    def test_a_role_that_a_service_acts_in_needs_it_too(self, secrets: Secrets) -> None:
        made = secrets.create(KmsKeyId=new_key(secrets))
        trust = document({"Effect": "Allow", "Principal": {"Service": "rds.amazonaws.com"}, "Action": "sts:AssumeRole"})
        role = secrets.iam("CreateRole", RoleName="proxy", AssumeRolePolicyDocument=trust)["Role"]

        def may(*statements: dict[str, Any]) -> bool:
            policy = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
            secrets.iam("PutRolePolicy", RoleName="proxy", PolicyName="own", PolicyDocument=policy)
            with secrets.store.read() as view:
                return interfaces.may_decrypt(view, secrets.scope, role["Arn"], made["ARN"])

        assert not may(allowing("GetSecretValue"))
        assert may(allow_kms("Decrypt"))
        made = secrets.create("default")
        assert may(allowing("GetSecretValue"))
