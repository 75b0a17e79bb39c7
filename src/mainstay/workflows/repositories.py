"""Backup repositories as records: made here, and opened here only, for the agent that needs the key.

What stands in stored node specs is a reference without any key. Nobody but this module looks at `sealed_data_key`.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from mainstay.host.randomness import HEX, Randomness
from mainstay.host.vault import Vault
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_snapshot import BackupRepository, InstanceFacts
from mainstay.model.errors import Permanent
from mainstay.model.node import NodeSpec, NodeTarget
from mainstay.model.records import Scope
from mainstay.model.repository_job import RepositoryRef
from mainstay.services.kms.use import KeyNotUsable
from mainstay.store import Reader, Store, Transaction
from mainstay.workflows.encryption import (
    is_usable,
    new_wrapped_key,
    open_wrapped_key,
    repository_context,
    require_key,
)

DATA_KEY_BYTES = 32
ID_CHARACTERS = 17
KEY_CONTEXT = "backup-repository:"


@dataclass(frozen=True)
class Makings:
    """What it takes to make a repository or a snapshot."""

    vault: Vault
    randomness: Randomness
    now: float


def new_repository(
    tx: Transaction, makings: Makings, scope: Scope, dbi_resource_id: str, engine: str, kms_key_id: str = ""
) -> BackupRepository:
    """An empty repository under a fresh data key, recorded; of an encrypted instance, under its KMS key.

    Raises `ApiError` KMSKeyNotAccessibleFault unless that is enabled.
    """
    repository_id = "repo-" + makings.randomness.text(ID_CHARACTERS, HEX)
    if kms_key_id:
        key = require_key(tx, kms_key_id)
        context = repository_context(dbi_resource_id, repository_id)
        sealed = new_wrapped_key(makings.vault, makings.randomness, key, context)
    else:
        data_key = makings.randomness.token_bytes(DATA_KEY_BYTES).hex()
        sealed = makings.vault.seal(data_key, KEY_CONTEXT + repository_id)
    repository = BackupRepository(
        scope=scope,
        repository_id=repository_id,
        prefix=f"{scope}/{dbi_resource_id}/{repository_id}",
        engine=engine,
        sealed_data_key=sealed,
        kms_key_id=kms_key_id,
        created_at=makings.now,
        dbi_resource_id=dbi_resource_id,
    )
    tx.insert(repository)
    return repository


def repository_of(tx: Transaction, makings: Makings, instance: DBInstance) -> tuple[DBInstance, BackupRepository]:
    """Where backups of the instance go: its repository, a new one if it has none; and the instance naming it."""
    present = tx.get(BackupRepository, instance.scope, instance.repository_id) if instance.repository_id else None
    if present is not None and not present.doomed:
        return instance, present
    made = new_repository(tx, makings, instance.scope, instance.dbi_resource_id, instance.engine, instance.kms_key_id)
    return msgspec.structs.replace(instance, repository_id=made.repository_id), made


def open_repository(reader: Reader, vault: Vault, repository: BackupRepository) -> RepositoryRef:
    """Place and key, for the agent. Raises `Permanent` if the key must not be opened: its KMS key is not enabled."""
    try:
        return RepositoryRef(prefix=repository.prefix, data_key=_data_key(reader, vault, repository))
    except KeyNotUsable as error:
        raise Permanent(error.message) from error


def without_key(repository: BackupRepository) -> RepositoryRef:
    """The place alone, for what needs no key: a repository is removed also after its key is lost."""
    return RepositoryRef(prefix=repository.prefix, data_key="00" * DATA_KEY_BYTES)


def may_be_opened(reader: Reader, repository: BackupRepository) -> bool:
    """Whether the KMS key of the repository, if it has one, is enabled."""
    return not repository.kms_key_id or is_usable(reader, repository.kms_key_id)


def _data_key(reader: Reader, vault: Vault, repository: BackupRepository) -> str:
    if repository.kms_key_id:
        context = repository_context(repository.dbi_resource_id, repository.repository_id)
        return open_wrapped_key(reader, vault, repository.sealed_data_key, context)
    return vault.unseal(repository.sealed_data_key, KEY_CONTEXT + repository.repository_id)


def require_repository(reader: Reader, scope: Scope, repository_id: str) -> BackupRepository:
    """The record. Raises `Permanent` when it is gone."""
    repository = reader.get(BackupRepository, scope, repository_id)
    if repository is None:
        raise Permanent(f"The backup repository {repository_id} does not exist any more.")
    return repository


def reference(repository: BackupRepository) -> RepositoryRef:
    """As it may stand in a stored node spec: the record's place where the key would be."""
    return RepositoryRef(prefix=repository.prefix, data_key=f"{repository.scope}/{repository.repository_id}")


def refers_to(ref: RepositoryRef | None, repository: BackupRepository) -> bool:
    """Whether a stored reference means this repository."""
    return ref is not None and ref == reference(repository)


def with_opened_repositories(spec: NodeSpec, store: Store, vault: Vault) -> NodeSpec:
    """The stored spec as the agent needs it: references replaced by keys, "" for those that must not be opened now.

    A node that is to be removed ships the last of its log where there still is a place for it.
    """
    if spec.target is NodeTarget.ABSENT:
        spec = msgspec.structs.replace(spec, restore=None)
        if spec.archive is not None and _record(spec.archive, store) is None:
            spec = msgspec.structs.replace(spec, archive=None)
    if spec.archive is not None:
        spec = msgspec.structs.replace(spec, archive=_opened(spec.archive, store, vault))
    if spec.restore is not None:
        restore = msgspec.structs.replace(spec.restore, repository=_opened(spec.restore.repository, store, vault))
        spec = msgspec.structs.replace(spec, restore=restore)
    return spec


def _opened(ref: RepositoryRef, store: Store, vault: Vault) -> RepositoryRef:
    repository = _record(ref, store)
    if repository is None:
        raise Permanent(f"The backup repository {ref.prefix} does not exist any more.")
    with store.read() as view:
        try:
            return RepositoryRef(prefix=repository.prefix, data_key=_data_key(view, vault, repository))
        except KeyNotUsable:
            return RepositoryRef(prefix=repository.prefix, data_key="")


def _record(ref: RepositoryRef, store: Store) -> BackupRepository | None:
    """What a stored reference refers to."""
    account_id, region, repository_id = ref.data_key.split("/")
    with store.read() as view:
        return view.get(BackupRepository, Scope(account_id, region), repository_id)


def facts_of(instance: DBInstance) -> InstanceFacts:
    """What a backup taken now remembers of the instance."""
    return InstanceFacts(
        db_instance_identifier=instance.db_instance_identifier,
        dbi_resource_id=instance.dbi_resource_id,
        engine=instance.engine,
        engine_version=instance.engine_version,
        db_instance_class=instance.db_instance_class,
        allocated_storage_gib=instance.allocated_storage_gib,
        storage_type=instance.storage_type,
        iops=instance.iops,
        storage_throughput=instance.storage_throughput,
        port=instance.port,
        availability_zone=instance.availability_zone,
        vpc_id=instance.vpc_id,
        instance_create_time=instance.instance_create_time or instance.requested_at,
        master_username=instance.master_username,
        master_password_verifier=instance.master_password_verifier,
        license_model=instance.license_model,
        db_name=instance.db_name,
        option_group_name=instance.option_group_name,
        iam_database_authentication_enabled=instance.iam_database_authentication_enabled,
        backup_retention_period_days=instance.backup_retention_period_days,
        preferred_backup_window=instance.preferred_backup_window,
        copy_tags_to_snapshot=instance.copy_tags_to_snapshot,
        multi_az=instance.multi_az,
        storage_encrypted=instance.storage_encrypted,
        kms_key_id=instance.kms_key_id,
    )
