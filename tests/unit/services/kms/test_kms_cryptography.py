"""Encrypting, decrypting, data keys and rotation."""

from __future__ import annotations

from typing import Any

import pytest

from harness.kms_account import Kms
from mainstay.protocol.kms import decode_blob
from mainstay.services.kms import limits
from mainstay.services.kms.use import KeyNotUsable, new_data_key, open_data_key, usable_key

CONTEXT = {"app": "shop", "Stage": "prod"}


@pytest.mark.parametrize("size", [1, 4096])
def test_what_is_encrypted_is_decrypted_again(kms_account: Kms, size: int) -> None:
    key_id = kms_account.create()
    blob = kms_account.encrypt(key_id, b"x" * size, EncryptionContext=CONTEXT)
    assert len(blob) <= 6144 and b"xxxx" not in blob
    answer = kms_account.call("Decrypt", CiphertextBlob=blob, EncryptionContext=dict(reversed(CONTEXT.items())))
    assert answer == {
        "KeyId": kms_account.arn(key_id), "Plaintext": b"x" * size, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        "KeyMaterialId": kms_account.key(key_id).current.material_id,
    }  # fmt: skip
    assert kms_account.encrypt(key_id) != kms_account.encrypt(key_id), "the nonce is new each time"


@pytest.mark.parametrize("plaintext", [b"", b"x" * 4097])
def test_plaintexts_of_other_sizes_are_refused_without_showing_them(kms_account: Kms, plaintext: bytes) -> None:
    refusal = kms_account.refused("Encrypt", KeyId=kms_account.create(), Plaintext=plaintext)
    assert refusal.startswith("ValidationException") and "xxx" not in refusal


@pytest.mark.parametrize("context", [{}, {"app": "shop"}, {"app": "shop", "stage": "prod"}, {**CONTEXT, "more": "1"}])
def test_another_context_opens_nothing(kms_account: Kms, context: dict[str, str]) -> None:
    blob = kms_account.encrypt(kms_account.create(), EncryptionContext=CONTEXT)
    refusal = kms_account.refused("Decrypt", CiphertextBlob=blob, EncryptionContext=context)
    assert refusal.startswith("InvalidCiphertextException")


def test_every_altered_byte_is_noticed(kms_account: Kms) -> None:
    key_id = kms_account.create()
    blob = kms_account.encrypt(key_id)
    for position in range(len(blob)):
        altered = blob[:position] + bytes([blob[position] ^ 1]) + blob[position + 1 :]
        refusal = kms_account.refused("Decrypt", CiphertextBlob=altered)
        names_another_key = 1 <= position < 17
        assert refusal.startswith("AccessDenied" if names_another_key else "InvalidCiphertextException"), position
    assert kms_account.refused("Decrypt", CiphertextBlob=b"garbage").startswith("InvalidCiphertextException")


def test_a_blob_does_not_open_as_one_of_another_key(kms_account: Kms) -> None:
    one, other = kms_account.create(), kms_account.create()
    blob = kms_account.encrypt(one)
    renamed = kms_account.encrypt(other)[:17] + blob[17:]
    assert kms_account.refused("Decrypt", CiphertextBlob=renamed).startswith("InvalidCiphertextException")
    assert kms_account.refused("Decrypt", CiphertextBlob=blob, KeyId=other) == (
        "IncorrectKeyException: The key ID in the request does not identify a CMK that can perform this operation."
    )


def test_algorithms_of_other_keys_are_refused(kms_account: Kms) -> None:
    key_id = kms_account.create()
    refusal = kms_account.refused("Encrypt", KeyId=key_id, Plaintext=b"x", EncryptionAlgorithm="RSAES_OAEP_SHA_1")
    assert refusal.startswith("InvalidKeyUsageException")


def test_a_context_has_a_limit(kms_account: Kms) -> None:
    key_id = kms_account.create()
    kms_account.encrypt(key_id, EncryptionContext={"k": "x" * (limits.CONTEXT_CHARACTERS - 1)})
    for context in ({"k": "x" * limits.CONTEXT_CHARACTERS}, {"k": "\ud800"}):
        refusal = kms_account.refused("Encrypt", KeyId=key_id, Plaintext=b"x", EncryptionContext=context)
        assert refusal.startswith("ValidationException")


def test_re_encrypting_changes_key_and_context_and_shows_no_plaintext(kms_account: Kms) -> None:
    one, other = kms_account.create(), kms_account.create()
    blob = kms_account.encrypt(one, EncryptionContext=CONTEXT)
    answer = kms_account.call(
        "ReEncrypt", CiphertextBlob=blob, SourceEncryptionContext=CONTEXT, DestinationKeyId=other,
        DestinationEncryptionContext={"new": "1"},
    )  # fmt: skip
    assert (answer["SourceKeyId"], answer["KeyId"]) == (kms_account.arn(one), kms_account.arn(other))
    assert "Plaintext" not in answer
    assert kms_account.decrypt(answer["CiphertextBlob"], EncryptionContext={"new": "1"}, KeyId=other) == b"clear"
    refusal = kms_account.refused("ReEncrypt", CiphertextBlob=blob, DestinationKeyId=other)
    assert refusal.startswith("InvalidCiphertextException")
    kms_account.call("DisableKey", KeyId=other)
    refusal = kms_account.refused(
        "ReEncrypt", CiphertextBlob=blob, SourceEncryptionContext=CONTEXT, DestinationKeyId=other
    )
    assert refusal.startswith("DisabledException")


@pytest.mark.parametrize(
    ("members", "size"), [({"KeySpec": "AES_256"}, 32), ({"KeySpec": "AES_128"}, 16), ({"NumberOfBytes": 1024}, 1024)]
)
def test_data_keys(kms_account: Kms, members: dict[str, Any], size: int) -> None:
    key_id = kms_account.create()
    answer = kms_account.call("GenerateDataKey", KeyId=key_id, EncryptionContext=CONTEXT, **members)
    assert len(answer["Plaintext"]) == size
    assert kms_account.decrypt(answer["CiphertextBlob"], EncryptionContext=CONTEXT) == answer["Plaintext"]
    hidden = kms_account.call("GenerateDataKeyWithoutPlaintext", KeyId=key_id, **members)
    assert "Plaintext" not in hidden and len(kms_account.decrypt(hidden["CiphertextBlob"])) == size


@pytest.mark.parametrize("members", [{}, {"KeySpec": "AES_256", "NumberOfBytes": 32}, {"NumberOfBytes": 1025}])
def test_data_keys_of_no_size(kms_account: Kms, members: dict[str, Any]) -> None:
    refusal = kms_account.refused("GenerateDataKey", KeyId=kms_account.create(), **members)
    assert refusal.startswith("ValidationException")


def test_random_bytes(kms_account: Kms) -> None:
    one, other = (kms_account.call("GenerateRandom", NumberOfBytes=1024)["Plaintext"] for _ in range(2))
    assert len(one) == 1024 and one != other
    assert kms_account.refused("GenerateRandom").startswith("ValidationException")


def test_a_dry_run_asks_everything_and_does_nothing(kms_account: Kms) -> None:
    key_id = kms_account.create()
    nobody = kms_account.user("nobody")
    assert kms_account.refused("Encrypt", KeyId=key_id, Plaintext=b"x", DryRun=True).startswith("DryRunOperation")
    assert kms_account.refused("Encrypt", nobody, KeyId=key_id, Plaintext=b"x", DryRun=True).startswith("AccessDenied")


class TestRotation:
    def test_new_material_encrypts_and_the_old_still_decrypts(self, kms_account: Kms) -> None:
        key_id = kms_account.create()
        old = kms_account.encrypt(key_id)
        first = kms_account.key(key_id).current.material_id
        kms_account.clock.advance(60)
        assert kms_account.call("RotateKeyOnDemand", KeyId=key_id) == {"KeyId": kms_account.arn(key_id)}
        new = kms_account.encrypt(key_id)
        assert [decode_blob(blob).material_version for blob in (old, new)] == [1, 2]
        assert kms_account.decrypt(old) == kms_account.decrypt(new) == b"clear"
        every = kms_account.call("ListKeyRotations", KeyId=key_id, IncludeKeyMaterial="ALL_KEY_MATERIAL")["Rotations"]
        assert [(one["KeyMaterialState"], one.get("RotationType")) for one in every] == [
            ("NON_CURRENT", None),
            ("CURRENT", "ON_DEMAND"),
        ]
        assert every[0]["KeyMaterialId"] == first
        (shown,) = kms_account.call("ListKeyRotations", KeyId=key_id)["Rotations"]
        assert shown["RotationDate"] == kms_account.clock.wall()

    def test_so_many_rotations_on_demand_at_most(self, kms_account: Kms) -> None:
        key_id = kms_account.create()
        for _ in range(limits.ON_DEMAND_ROTATIONS_PER_KEY):
            kms_account.call("RotateKeyOnDemand", KeyId=key_id)
        assert kms_account.refused("RotateKeyOnDemand", KeyId=key_id).startswith("LimitExceededException")

    async def test_automatic_rotation_happens_when_its_day_comes_and_again(self, kms_account: Kms) -> None:
        key_id = kms_account.create()
        kms_account.call("EnableKeyRotation", KeyId=key_id, RotationPeriodInDays=90)
        began = kms_account.clock.wall()
        status = kms_account.call("GetKeyRotationStatus", KeyId=key_id)
        assert status == {
            "KeyRotationEnabled": True, "KeyId": kms_account.arn(key_id), "RotationPeriodInDays": 90,
            "NextRotationDate": began + 90 * limits.DAY_S,
        }  # fmt: skip
        old = kms_account.encrypt(key_id)
        await kms_account.wait(89)
        assert len(kms_account.key(key_id).materials) == 1
        await kms_account.wait(2)
        assert [one.rotation_type for one in kms_account.key(key_id).materials] == ["", "AUTOMATIC"]
        assert kms_account.call("GetKeyRotationStatus", KeyId=key_id)["NextRotationDate"] == began + 180 * limits.DAY_S
        await kms_account.wait(90)
        assert len(kms_account.key(key_id).materials) == 3
        assert kms_account.decrypt(old) == b"clear"

    async def test_a_disabled_key_is_rotated_when_it_is_enabled_again(self, kms_account: Kms) -> None:
        key_id = kms_account.create()
        kms_account.call("EnableKeyRotation", KeyId=key_id, RotationPeriodInDays=90)
        kms_account.call("DisableKey", KeyId=key_id)
        await kms_account.wait(400)
        assert len(kms_account.key(key_id).materials) == 1
        assert kms_account.call("GetKeyRotationStatus", KeyId=key_id)["KeyRotationEnabled"] is True
        kms_account.call("EnableKey", KeyId=key_id)
        await kms_account.wait(0)
        assert len(kms_account.key(key_id).materials) == 2, "once, however many periods have passed"

    async def test_rotation_that_was_disabled_does_not_come(self, kms_account: Kms) -> None:
        key_id = kms_account.create()
        kms_account.call("EnableKeyRotation", KeyId=key_id)
        kms_account.call("DisableKeyRotation", KeyId=key_id)
        await kms_account.wait(400)
        assert len(kms_account.key(key_id).materials) == 1 and kms_account.jobs() == []

    @pytest.mark.parametrize("days", [89, 2561])
    def test_periods_that_aws_does_not_take(self, kms_account: Kms, days: int) -> None:
        refusal = kms_account.refused("EnableKeyRotation", KeyId=kms_account.create(), RotationPeriodInDays=days)
        assert refusal.startswith("ValidationException")


class TestUseByOtherServices:
    def usable(self, kms_account: Kms, named: str = "") -> Any:
        with kms_account.store.transaction() as tx:
            return usable_key(
                tx, kms_account.scope, named, default_alias="alias/aws/rds", vault=kms_account.vault,
                randomness=kms_account.randomness, now=kms_account.clock.wall(),
            )  # fmt: skip

    def opened(self, kms_account: Kms, blob: bytes, context: dict[str, str]) -> bytes:
        with kms_account.store.read() as view:
            return open_data_key(view, kms_account.vault, blob, context)

    def test_the_default_key_is_made_once_and_named_ones_are_found(self, kms_account: Kms) -> None:
        made = self.usable(kms_account)
        assert made.key_manager == "AWS" and self.usable(kms_account, "alias/aws/rds") == made
        key_id = kms_account.create()
        assert self.usable(kms_account, kms_account.arn(key_id)).key_id == key_id

    @pytest.mark.parametrize("change", ["DisableKey", "ScheduleKeyDeletion"])
    def test_a_key_that_is_not_enabled_gives_and_opens_no_data_key(self, kms_account: Kms, change: str) -> None:
        key_id = kms_account.create()
        plaintext, blob = new_data_key(
            kms_account.vault, kms_account.randomness, self.usable(kms_account, key_id), {"a": "b"}
        )
        assert len(plaintext) == 32 and self.opened(kms_account, blob, {"a": "b"}) == plaintext
        with pytest.raises(KeyNotUsable, match="does not open"):
            self.opened(kms_account, blob, {"a": "c"})
        kms_account.call(change, KeyId=key_id)
        for attempt in (lambda: self.usable(kms_account, key_id), lambda: self.opened(kms_account, blob, {"a": "b"})):
            with pytest.raises(KeyNotUsable, match=r"is disabled|pending deletion"):
                attempt()

    async def test_a_deleted_key_opens_nothing(self, kms_account: Kms) -> None:
        key_id = kms_account.create()
        _, blob = new_data_key(kms_account.vault, kms_account.randomness, self.usable(kms_account, key_id), {})
        kms_account.call("ScheduleKeyDeletion", KeyId=key_id, PendingWindowInDays=7)
        await kms_account.wait(8)
        with pytest.raises(KeyNotUsable, match="does not exist"):
            self.opened(kms_account, blob, {})

    @pytest.mark.parametrize("named", ["alias/no", "nonsense", "arn:aws:kms:eu-west-1:123456789012:alias/x"])
    def test_what_names_no_key_is_not_usable(self, kms_account: Kms, named: str) -> None:
        with pytest.raises(KeyNotUsable, match="does not exist"):
            self.usable(kms_account, named)

    def test_garbage_is_no_data_key(self, kms_account: Kms) -> None:
        with pytest.raises(KeyNotUsable, match="damaged"):
            self.opened(kms_account, b"garbage", {})
