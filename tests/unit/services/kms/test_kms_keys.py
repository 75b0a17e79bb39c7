"""Keys, aliases, tags, lists: states, limits and AWS's words."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from harness.accounts import document
from harness.kms_account import Kms
from mainstay.model.errors import Permanent
from mainstay.model.kms import KeyStateRevision, KmsAlias, KmsKey
from mainstay.services.kms import limits
from mainstay.services.revisions import current_revision

DAY_S = 24 * 3600.0
ABSENT = "12345678-1234-4321-8888-123456789012"


def test_a_new_key_is_symmetric_enabled_and_the_accounts(kms_account: Kms) -> None:
    shown = kms_account.call("CreateKey", Description="mine", Tags=[{"TagKey": "a", "TagValue": "b"}])["KeyMetadata"]
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", shown["KeyId"])
    assert shown == {
        "AWSAccountId": "123456789012", "KeyId": shown["KeyId"], "Arn": kms_account.arn(shown["KeyId"]),
        "CreationDate": kms_account.clock.wall(), "Enabled": True, "Description": "mine",
        "KeyUsage": "ENCRYPT_DECRYPT", "KeyState": "Enabled", "Origin": "AWS_KMS", "KeyManager": "CUSTOMER",
        "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT", "KeySpec": "SYMMETRIC_DEFAULT",
        "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"], "MultiRegion": False,
        "CurrentKeyMaterialId": shown["CurrentKeyMaterialId"],
    }  # fmt: skip
    assert kms_account.call("ListResourceTags", KeyId=shown["KeyId"])["Tags"] == [{"TagKey": "a", "TagValue": "b"}]


@pytest.mark.parametrize(
    ("request_members", "code"),
    [
        ({"KeySpec": "RSA_2048", "KeyUsage": "SIGN_VERIFY"}, "UnsupportedOperationException"),
        ({"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"}, "UnsupportedOperationException"),
        ({"CustomerMasterKeySpec": "RSA_2048"}, "UnsupportedOperationException"),
        ({"KeyUsage": "SIGN_VERIFY"}, "ValidationException"),
        ({"KeySpec": "SYMMETRIC_DEFAULT", "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT"}, "ValidationException"),
        ({"Origin": "EXTERNAL"}, "UnsupportedOperationException"),
        ({"MultiRegion": True}, "UnsupportedOperationException"),
        ({"Policy": "{"}, "MalformedPolicyDocumentException"),
    ],
)
def test_other_kinds_of_keys_are_refused(kms_account: Kms, request_members: dict[str, Any], code: str) -> None:
    assert kms_account.refused("CreateKey", **request_members).startswith(code)
    assert kms_account.records(KmsKey) == []


def test_material_is_sealed_at_rest_and_opens_for_no_other_key(kms_account: Kms) -> None:
    one, other = kms_account.create(), kms_account.create()
    blob = kms_account.encrypt(one)
    stolen = kms_account.key(other)
    moved = msgspec.structs.replace(stolen, materials=kms_account.key(one).materials)
    with kms_account.store.transaction() as tx:
        tx.put(moved)
    with pytest.raises(Permanent, match="cannot be opened"):
        kms_account.encrypt(other)
    assert kms_account.decrypt(blob) == b"clear"
    assert "sealed" not in repr(kms_account.key(one))


def test_a_key_is_named_in_four_ways_where_aws_takes_them(kms_account: Kms) -> None:
    key_id = kms_account.create()
    kms_account.call("CreateAlias", AliasName="alias/app", TargetKeyId=key_id)
    alias_arn = kms_account.scope.arn("kms", "alias/app")
    for named in (key_id, kms_account.arn(key_id), "alias/app", alias_arn):
        assert kms_account.call("DescribeKey", KeyId=named)["KeyMetadata"]["KeyId"] == key_id
        assert kms_account.decrypt(kms_account.encrypt(named), KeyId=named) == b"clear"
    for named in (key_id, kms_account.arn(key_id)):
        assert kms_account.call("GetKeyRotationStatus", KeyId=named)["KeyRotationEnabled"] is False
    assert kms_account.refused("DisableKey", KeyId="alias/app") == "NotFoundException: Invalid keyId 'alias/app'"
    assert kms_account.refused("GetKeyPolicy", KeyId=alias_arn).startswith("InvalidArnException")


@pytest.mark.parametrize(
    ("named", "refusal"),
    [
        (ABSENT, f"NotFoundException: Key 'arn:aws:kms:us-east-1:123456789012:key/{ABSENT}' does not exist"),
        ("alias/no", "NotFoundException: Alias arn:aws:kms:us-east-1:123456789012:alias/no is not found."),
        ("nonsense", "NotFoundException: Invalid keyId 'nonsense'"),
        (f"arn:aws:kms:eu-west-1:123456789012:key/{ABSENT}", "NotFoundException: Invalid arn eu-west-1"),
        (f"arn:aws:kms:us-east-1:999999999999:key/{ABSENT}", "NotFoundException: Key"),
        ("arn:aws:iam::123456789012:role/x", "InvalidArnException: Invalid arn"),
    ],
)
def test_what_names_no_key(kms_account: Kms, named: str, refusal: str) -> None:
    assert kms_account.refused("DescribeKey", KeyId=named).startswith(refusal)


class TestStates:
    USES: tuple[tuple[str, dict[str, Any]], ...] = (
        ("Encrypt", {"Plaintext": b"x"}),
        ("GenerateDataKey", {"KeySpec": "AES_256"}),
        ("GenerateDataKeyWithoutPlaintext", {"NumberOfBytes": 1}),
        ("EnableKeyRotation", {}),
        ("DisableKeyRotation", {}),
        ("RotateKeyOnDemand", {}),
        ("CreateGrant", {"GranteePrincipal": "arn:aws:iam::123456789012:root", "Operations": ["Encrypt"]}),
    )

    @pytest.mark.parametrize(("operation", "members"), USES, ids=[name for name, _ in USES])
    def test_a_disabled_key_is_used_for_nothing(
        self, kms_account: Kms, operation: str, members: dict[str, Any]
    ) -> None:
        key_id = kms_account.create()
        blob = kms_account.encrypt(key_id)
        kms_account.call("DisableKey", KeyId=key_id)
        message = f"DisabledException: {kms_account.arn(key_id)} is disabled."
        assert kms_account.refused(operation, KeyId=key_id, **members) == message
        assert kms_account.refused("Decrypt", CiphertextBlob=blob) == message
        assert kms_account.call("DescribeKey", KeyId=key_id)["KeyMetadata"]["Enabled"] is False
        kms_account.call("EnableKey", KeyId=key_id)
        kms_account.call(operation, KeyId=key_id, **members)
        assert kms_account.decrypt(blob) == b"clear"

    PENDING: tuple[tuple[str, dict[str, Any]], ...] = (
        *USES, ("DisableKey", {}), ("EnableKey", {}), ("ScheduleKeyDeletion", {}),
        ("UpdateKeyDescription", {"Description": ""}), ("TagResource", {"Tags": []}),
        ("UntagResource", {"TagKeys": []}),
    )  # fmt: skip

    @pytest.mark.parametrize(("operation", "members"), PENDING, ids=[name for name, _ in PENDING])
    def test_a_key_pending_deletion_is_used_for_nothing_and_changed_by_nothing(
        self, kms_account: Kms, operation: str, members: dict[str, Any]
    ) -> None:
        key_id = kms_account.create()
        kms_account.call("ScheduleKeyDeletion", KeyId=key_id, PendingWindowInDays=7)
        message = f"KMSInvalidStateException: {kms_account.arn(key_id)} is pending deletion."
        assert kms_account.refused(operation, KeyId=key_id, **members) == message

    def test_reading_works_in_every_state(self, kms_account: Kms) -> None:
        key_id = kms_account.create()
        for change in ("DisableKey", "ScheduleKeyDeletion"):
            kms_account.call(change, KeyId=key_id)
            for operation in (
                "DescribeKey", "GetKeyPolicy", "ListKeyPolicies", "ListResourceTags", "ListGrants",
                "GetKeyRotationStatus", "ListKeyRotations",
            ):  # fmt: skip
                kms_account.call(operation, KeyId=key_id)

    def test_those_who_depend_on_a_key_are_told_when_it_changes_and_only_then(self, kms_account: Kms) -> None:
        key_id = kms_account.create()
        revisions = []
        for operation in ("EnableKey", "DisableKey", "DisableKey", "EnableKey", "ScheduleKeyDeletion"):
            kms_account.call(operation, KeyId=key_id)
            with kms_account.store.read() as view:
                revisions.append(current_revision(view, KeyStateRevision, kms_account.scope))
        kms_account.call("CancelKeyDeletion", KeyId=key_id)
        assert revisions == [0, 1, 1, 2, 3]
        assert kms_account.listener.heard == [kms_account.arn(key_id)] * 4


class TestDeletion:
    async def test_the_key_and_all_that_hangs_on_it_go_when_the_window_ends_and_not_before(
        self, kms_account: Kms
    ) -> None:
        key_id = kms_account.create()
        kms_account.call("CreateAlias", AliasName="alias/app", TargetKeyId=key_id)
        blob = kms_account.encrypt(key_id)
        answer = kms_account.call("ScheduleKeyDeletion", KeyId=key_id, PendingWindowInDays=7)
        assert answer == {
            "KeyId": kms_account.arn(key_id), "DeletionDate": kms_account.clock.wall() + 7 * DAY_S,
            "KeyState": "PendingDeletion", "PendingWindowInDays": 7,
        }  # fmt: skip
        await kms_account.wait(6.9)
        assert kms_account.state(key_id) == "PendingDeletion"
        await kms_account.wait(0.2)
        assert kms_account.refused("DescribeKey", KeyId=key_id).startswith("NotFoundException")
        assert kms_account.records(KmsKey) == kms_account.records(KmsAlias) == kms_account.jobs() == []
        assert kms_account.refused("Decrypt", CiphertextBlob=blob).startswith("AccessDenied: The ciphertext refers to")

    async def test_a_cancelled_deletion_leaves_the_key_disabled_for_good(self, kms_account: Kms) -> None:
        key_id = kms_account.create()
        kms_account.call("ScheduleKeyDeletion", KeyId=key_id)
        assert kms_account.call("CancelKeyDeletion", KeyId=key_id) == {"KeyId": kms_account.arn(key_id)}
        assert "is not pending deletion" in kms_account.refused("CancelKeyDeletion", KeyId=key_id)
        await kms_account.wait(40)
        assert kms_account.state(key_id) == "Disabled"
        assert "DeletionDate" not in kms_account.call("DescribeKey", KeyId=key_id)["KeyMetadata"]

    @pytest.mark.parametrize(("days", "taken"), [(6, False), (7, True), (30, True), (31, False)])
    def test_the_window(self, kms_account: Kms, days: int, taken: bool) -> None:
        key_id = kms_account.create()
        if taken:
            kms_account.call("ScheduleKeyDeletion", KeyId=key_id, PendingWindowInDays=days)
        else:
            refusal = kms_account.refused("ScheduleKeyDeletion", KeyId=key_id, PendingWindowInDays=days)
            assert refusal.startswith("ValidationException")


class TestAliases:
    def test_an_alias_moves_from_key_to_key_and_goes(self, kms_account: Kms) -> None:
        first, second = kms_account.create(), kms_account.create()
        kms_account.call("CreateAlias", AliasName="alias/a", TargetKeyId=first)
        old = kms_account.encrypt("alias/a")
        kms_account.clock.advance(60)
        kms_account.call("UpdateAlias", AliasName="alias/a", TargetKeyId=kms_account.arn(second))
        (shown,) = kms_account.call("ListAliases")["Aliases"]
        assert shown == {
            "AliasName": "alias/a", "AliasArn": "arn:aws:kms:us-east-1:123456789012:alias/a", "TargetKeyId": second,
            "CreationDate": kms_account.clock.wall() - 60, "LastUpdatedDate": kms_account.clock.wall(),
        }  # fmt: skip
        assert kms_account.decrypt(old) == b"clear", "a ciphertext names its key, not the alias"
        assert kms_account.refused("Decrypt", CiphertextBlob=old, KeyId="alias/a").startswith("IncorrectKeyException")
        assert kms_account.call("ListAliases", KeyId=first)["Aliases"] == []
        kms_account.call("DeleteAlias", AliasName="alias/a")
        assert kms_account.refused("DeleteAlias", AliasName="alias/a").startswith("NotFoundException: Alias arn")

    @pytest.mark.parametrize(
        ("name", "code"),
        [
            ("app", "ValidationException"), ("alias/", "InvalidAliasNameException"),
            ("alias/aws/mine", "NotAuthorizedException"), ("alias/a:b", "ValidationException"),
            ("alias/a b", "ValidationException"), ("alias/" + "x" * 251, "ValidationException"),
        ],
    )  # fmt: skip
    def test_names_that_aws_does_not_take(self, kms_account: Kms, name: str, code: str) -> None:
        assert kms_account.refused("CreateAlias", AliasName=name, TargetKeyId=kms_account.create()).startswith(code)

    def test_a_name_is_taken_once(self, kms_account: Kms) -> None:
        key_id = kms_account.create()
        kms_account.call("CreateAlias", AliasName="alias/a", TargetKeyId=key_id)
        refusal = kms_account.refused("CreateAlias", AliasName="alias/a", TargetKeyId=kms_account.create())
        assert refusal.startswith("AlreadyExistsException")

    def test_no_alias_for_a_key_pending_deletion(self, kms_account: Kms) -> None:
        key_id = kms_account.create()
        kms_account.call("ScheduleKeyDeletion", KeyId=key_id)
        refusal = kms_account.refused("CreateAlias", AliasName="alias/a", TargetKeyId=key_id)
        assert refusal.startswith("KMSInvalidStateException")

    def test_a_key_has_so_many_aliases_at_most(self, kms_account: Kms) -> None:
        key_id = kms_account.create()
        for number in range(limits.ALIASES_PER_KEY):
            kms_account.call("CreateAlias", AliasName=f"alias/{number}", TargetKeyId=key_id)
        refusal = kms_account.refused("CreateAlias", AliasName="alias/more", TargetKeyId=key_id)
        assert refusal.startswith("LimitExceededException")


def test_lists_come_in_pages_and_go_on_after_what_was_deleted(kms_account: Kms) -> None:
    key_id = kms_account.create()
    for number in range(5):
        kms_account.call("CreateAlias", AliasName=f"alias/{number}", TargetKeyId=key_id)
    first = kms_account.call("ListAliases", Limit=2)
    assert first["Truncated"] and len(first["Aliases"]) == 2
    kms_account.call("DeleteAlias", AliasName="alias/1")
    rest = kms_account.call("ListAliases", Limit=3, Marker=first["NextMarker"])
    assert [one["AliasName"] for one in rest["Aliases"]] == ["alias/2", "alias/3", "alias/4"]
    assert rest["Truncated"] is False and "NextMarker" not in rest
    for marker in ("x", "!!", "MTI=", "é"):
        assert kms_account.refused("ListKeys", Marker=marker).startswith("InvalidMarkerException")
    assert kms_account.refused("ListAliases", Limit=101).startswith("ValidationException")
    assert kms_account.call("ListKeys") == {
        "Keys": [{"KeyId": key_id, "KeyArn": kms_account.arn(key_id)}], "Truncated": False,
    }  # fmt: skip


def test_tags_are_written_over_removed_and_limited(kms_account: Kms) -> None:
    key_id = kms_account.create(Tags=[{"TagKey": "a", "TagValue": "1"}])
    kms_account.call(
        "TagResource", KeyId=key_id, Tags=[{"TagKey": "a", "TagValue": "2"}, {"TagKey": "b", "TagValue": ""}]
    )
    kms_account.call("UntagResource", KeyId=key_id, TagKeys=["b", "absent"])
    assert kms_account.call("ListResourceTags", KeyId=key_id)["Tags"] == [{"TagKey": "a", "TagValue": "2"}]
    for tag in ({"TagKey": "aws:x", "TagValue": ""}, {"TagKey": "a;", "TagValue": ""}):
        assert kms_account.refused("TagResource", KeyId=key_id, Tags=[tag]).startswith("TagException")
    many = [{"TagKey": str(number), "TagValue": ""} for number in range(limits.TAGS_PER_KEY)]
    assert kms_account.refused("TagResource", KeyId=key_id, Tags=many).startswith("LimitExceededException")


def test_the_description_is_replaced(kms_account: Kms) -> None:
    key_id = kms_account.create(Description="one")
    kms_account.call("UpdateKeyDescription", KeyId=key_id, Description="two")
    assert kms_account.call("DescribeKey", KeyId=key_id)["KeyMetadata"]["Description"] == "two"


class TestAwsManagedKeys:
    def test_describing_its_alias_makes_the_key_once(self, kms_account: Kms) -> None:
        shown = kms_account.call("DescribeKey", KeyId="alias/aws/rds")["KeyMetadata"]
        assert shown["KeyManager"] == "AWS"
        assert kms_account.call("DescribeKey", KeyId="alias/aws/rds")["KeyMetadata"] == shown
        assert [one["AliasName"] for one in kms_account.call("ListAliases")["Aliases"]] == ["alias/aws/rds"]
        status = kms_account.call("GetKeyRotationStatus", KeyId=shown["KeyId"])
        assert (status["KeyRotationEnabled"], status["RotationPeriodInDays"]) == (True, 365)

    def test_nobody_changes_deletes_or_uses_it_directly_not_even_the_root(self, kms_account: Kms) -> None:
        key_id = kms_account.call("DescribeKey", KeyId="alias/aws/rds")["KeyMetadata"]["KeyId"]
        for operation, members in (
            ("DisableKey", {}), ("ScheduleKeyDeletion", {}), ("PutKeyPolicy", {"Policy": document()}),
            ("DisableKeyRotation", {}), ("Encrypt", {"Plaintext": b"x"}), ("TagResource", {"Tags": []}),
        ):  # fmt: skip
            assert kms_account.refused(operation, KeyId=key_id, **members).startswith("AccessDenied"), operation
        assert kms_account.refused("DeleteAlias", AliasName="alias/aws/rds").startswith("NotAuthorizedException")
        assert kms_account.state(key_id) == "Enabled"


def test_quotas_of_keys_and_grants(kms_account: Kms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "KEYS_PER_REGION", 2)
    monkeypatch.setattr(limits, "GRANTS_PER_KEY", 2)
    key_id = kms_account.create()
    kms_account.create()
    assert kms_account.refused("CreateKey").startswith("LimitExceededException")
    grant: dict[str, Any] = {
        "KeyId": key_id,
        "GranteePrincipal": "arn:aws:iam::123456789012:root",
        "Operations": ["Encrypt"],
    }
    for _ in range(2):
        kms_account.call("CreateGrant", **grant)
    assert kms_account.refused("CreateGrant", **grant).startswith("LimitExceededException")
