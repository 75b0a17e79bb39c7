"""The volume of an instance's nodes: its spec, and its data key, which is only ever opened on its way to an agent.

A data key belongs to one instance and all of its nodes; its record holds it wrapped by the instance's KMS key.
"""

from __future__ import annotations

from mainstay.host.vault import Vault
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_snapshot import DBSnapshot
from mainstay.model.errors import Permanent
from mainstay.model.volume import VolumeSpec
from mainstay.services.kms.use import KeyNotUsable
from mainstay.store import Reader
from mainstay.workflows.encryption import instance_context, open_wrapped_key

GIB = 1 << 30


def volume_of(instance: DBInstance) -> VolumeSpec | None:
    """What the instance's nodes keep their data on, without a key; None for plain directories."""
    if not instance.volume_driver:
        return None
    return VolumeSpec(
        driver=instance.volume_driver,
        size_bytes=instance.allocated_storage_gib * GIB,
        encrypted=instance.storage_encrypted,
    )


def volume_key_of(reader: Reader, vault: Vault, instance: DBInstance) -> str | None:
    """The instance's data key (hexadecimal); None if it may not be used now.

    That is while its KMS key is not enabled, and after it was not until StartDBInstance has been called. This module is
    the one place that opens it.
    """
    if instance.key_lost_at is not None:
        return None
    context = instance_context(instance.volume_key_owner or instance.dbi_resource_id)
    try:
        return open_wrapped_key(reader, vault, instance.wrapped_volume_key, context)
    except KeyNotUsable:
        return None


def key_of_clone(reader: Reader, vault: Vault, row: DBSnapshot) -> str:
    """The data key (hexadecimal) of the volume that a snapshot is a clone of. `Permanent` unless it may be used."""
    context = instance_context(row.volume_key_owner)
    try:
        return open_wrapped_key(reader, vault, row.wrapped_volume_key, context)
    except KeyNotUsable as error:
        raise Permanent(error.message) from error
