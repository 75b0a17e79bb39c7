"""Which kind of volume a new instance gets, or why it gets none: what the host can do is asked of its agent."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mainstay.host.vault import Vault
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_snapshot import DBSnapshot
from mainstay.model.errors import ApiError, invalid_combination
from mainstay.model.kms import KmsKey
from mainstay.model.volume import VolumeDriverReport
from mainstay.services.operations import Call
from mainstay.workflows.encryption import instance_context, new_wrapped_key
from mainstay.workflows.fleet import Fleet

DIRECTORY = "directory"
DOCTOR = "`mainstay doctor` on the host says what is missing."


def with_volume(call: Call, instance: DBInstance, key: KmsKey | None) -> DBInstance:
    """The instance with a volume as the setting `volumes` demands, or one that is encrypted under the key.

    Raises `ApiError` InvalidParameterCombination, in words, if its host has none of that kind.
    """
    if key is None and call.settings.volumes == DIRECTORY:
        return instance
    drivers = call.use(Fleet).volume_drivers()  # type: ignore[type-abstract]  # the Protocol is the collaborator's key
    if drivers is None:
        raise ApiError(
            "ServiceUnavailable", "The host has not reported its volume drivers yet. Try again in a moment.", status=503
        )
    if key is None:
        return msgspec.structs.replace(instance, volume_driver=_sized(drivers))
    return msgspec.structs.replace(
        instance,
        volume_driver=_encrypting(drivers),
        storage_encrypted=True,
        kms_key_id=key.arn,
        wrapped_volume_key=new_wrapped_key(
            call.use(Vault), call.randomness, key, instance_context(instance.dbi_resource_id)
        ),
    )


def with_key_of_clone(instance: DBInstance, row: DBSnapshot | None) -> DBInstance:
    """An encrypted instance that may begin as the clone that a snapshot is has the key of that."""
    if row is None or row.backup is None or not row.backup.crash_consistent or not row.wrapped_volume_key:
        return instance
    if row.facts.kms_key_id != instance.kms_key_id:
        return instance
    return msgspec.structs.replace(
        instance, wrapped_volume_key=row.wrapped_volume_key, volume_key_owner=row.volume_key_owner
    )


def can_encrypt(call: Call) -> bool:
    """Whether the host, as far as it has reported, has a kind of volume that encrypts."""
    fleet: Fleet | None = call.collaborators.get(Fleet)
    return any(one.usable and one.encrypted for one in (fleet.volume_drivers() if fleet else None) or ())


def _encrypting(drivers: Sequence[VolumeDriverReport]) -> str:
    """The first usable one, in the order in which the host prefers them."""
    for one in drivers:
        if one.usable and one.encrypted:
            return one.driver
    raise invalid_combination(
        f"StorageEncrypted: this host cannot encrypt volumes ({_reasons(drivers, encrypted=True)}). {DOCTOR}"
    )


def _sized(drivers: Sequence[VolumeDriverReport]) -> str:
    for one in drivers:
        if one.usable and one.sized and not one.encrypted:
            return one.driver
    raise invalid_combination(
        "AllocatedStorage cannot be kept as a limit on this host, as the setting volumes=image wants"
        f" ({_reasons(drivers, encrypted=False)}). {DOCTOR}"
    )


def _reasons(drivers: Sequence[VolumeDriverReport], *, encrypted: bool) -> str:
    return "; ".join(f"{one.driver}: {one.reason}" for one in drivers if one.encrypted == encrypted and not one.usable)
