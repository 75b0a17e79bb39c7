"""Which volume a new instance gets, and the words of a refusal."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from harness.rds_calls import Rds
from mainstay.host.randomness import SeededRandomness
from mainstay.host.vault import Vault
from mainstay.model.db_instance import DBInstance
from mainstay.model.errors import ApiError
from mainstay.model.records import Scope
from mainstay.model.volume import VolumeDriverReport
from mainstay.services.kms.making import default_policy, new_key
from mainstay.services.rds.volume_choice import with_volume
from mainstay.workflows.fleet import Fleet
from mainstay.workflows.volumes import volume_key_of, volume_of

VAULT = Vault(b"k" * 32, SeededRandomness(1))
KEY = new_key(VAULT, SeededRandomness(3), Scope("123456789012", "us-east-1"), default_policy("123456789012"), 0.0)
GOOD = (
    VolumeDriverReport(driver="directory", encrypted=False, sized=False, usable=True),
    VolumeDriverReport(driver="image", encrypted=False, sized=True, usable=True),
    VolumeDriverReport(driver="image", encrypted=True, sized=True, usable=True),
    VolumeDriverReport(driver="gocryptfs", encrypted=True, sized=False, usable=True),
)


def without(*drivers: str) -> tuple[VolumeDriverReport, ...]:
    return tuple(
        msgspec.structs.replace(one, usable=False, reason=f"no {one.driver} here") if one.driver in drivers else one
        for one in GOOD
    )


def choose(
    instance: DBInstance, drivers: tuple[VolumeDriverReport, ...] | None, *, encrypted: bool, volumes: str = "directory"
) -> DBInstance:
    collaborators = {Fleet: SimpleNamespace(volume_drivers=lambda: drivers), Vault: VAULT}
    call = SimpleNamespace(
        settings=SimpleNamespace(volumes=volumes), use=collaborators.__getitem__, randomness=SeededRandomness(2)
    )
    return with_volume(cast(Any, call), instance, KEY if encrypted else None)


@pytest.fixture
def instance(rds: Rds) -> DBInstance:
    return rds.instance("one")


def test_by_default_it_is_a_plain_directory_whatever_the_host_can(instance: DBInstance) -> None:
    assert choose(instance, None, encrypted=False) == instance
    assert volume_of(instance) is None


def test_with_the_setting_the_size_is_a_limit_or_the_instance_is_refused(instance: DBInstance) -> None:
    chosen = choose(instance, GOOD, encrypted=False, volumes="image")
    spec = volume_of(chosen)
    assert spec is not None and (spec.driver, spec.encrypted, spec.data_key) == ("image", False, "")
    assert spec.size_bytes == chosen.allocated_storage_gib << 30
    with pytest.raises(ApiError, match=r"no image here.*mainstay doctor") as refused:
        choose(instance, without("image"), encrypted=False, volumes="image")
    assert refused.value.shape == "InvalidParameterCombination"


def test_an_encrypted_one_gets_an_encrypting_volume_and_a_key_of_its_own(rds: Rds, instance: DBInstance) -> None:
    chosen = choose(instance, GOOD, encrypted=True)
    assert (chosen.volume_driver, chosen.storage_encrypted, chosen.kms_key_id) == ("image", True, KEY.arn)
    rds.insert(KEY)
    key = volume_key_of(rds.store.view(), VAULT, chosen)
    assert key is not None and len(bytes.fromhex(key)) == 32 and key not in repr(chosen)
    spec = volume_of(chosen)
    assert spec is not None and spec.encrypted and spec.data_key == ""
    assert choose(instance, without("image"), encrypted=True).volume_driver == "gocryptfs"


def test_without_an_encrypting_driver_it_is_refused_in_words(instance: DBInstance) -> None:
    with pytest.raises(ApiError, match="no image here; gocryptfs: no gocryptfs here") as refused:
        choose(instance, without("image", "gocryptfs"), encrypted=True)
    assert refused.value.shape == "InvalidParameterCombination"
    with pytest.raises(ApiError, match="not reported") as unknown:
        choose(instance, None, encrypted=True)
    assert unknown.value.status == 503
