"""KMS keys as records, for tests of what they protect."""

from __future__ import annotations

from typing import Any

import msgspec

from harness.records import db_instance
from mainstay.host.randomness import SeededRandomness
from mainstay.host.vault import Vault
from mainstay.model.db_instance import DBInstance
from mainstay.model.kms import KeyState, KmsKey
from mainstay.model.records import Scope
from mainstay.services.kms.making import default_policy, insert_key, new_key
from mainstay.store import SqliteStore
from mainstay.workflows.encryption import instance_context, new_wrapped_key


def add_key(store: SqliteStore, vault: Vault, scope: Scope, seed: int, policy: str = "") -> KmsKey:
    """A new customer managed key, enabled."""
    policy = policy or default_policy(scope.account_id)
    key = new_key(vault, SeededRandomness(seed), scope, policy, 0.0)
    with store.transaction() as tx:
        insert_key(tx, key)
    return key


def set_state(store: SqliteStore, key: KmsKey, state: KeyState) -> None:
    """As EnableKey, DisableKey and ScheduleKeyDeletion leave it."""
    with store.transaction() as tx:
        present = tx.get(KmsKey, key.scope, key.key_id)
        assert present is not None
        tx.put(msgspec.structs.replace(present, state=state))


def encrypted_instance(vault: Vault, key: KmsKey, identifier: str = "one", **fields: Any) -> DBInstance:
    """An encrypted instance as its record is, not recorded."""
    resource_id = fields.get("dbi_resource_id", f"db-{identifier.upper()}")
    encryption: dict[str, Any] = {
        "scope": key.scope, "storage_encrypted": True, "kms_key_id": key.arn, "volume_driver": "image",
        "wrapped_volume_key": new_wrapped_key(vault, SeededRandomness(2), key, instance_context(resource_id)),
    }  # fmt: skip
    return db_instance(identifier, **encryption | fields)
