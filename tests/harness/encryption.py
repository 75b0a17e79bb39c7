"""KMS keys as records, for tests of what they protect."""

from __future__ import annotations

from typing import Any

import msgspec

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
    resource_id = f"db-{identifier.upper()}"
    values: dict[str, Any] = {
        "scope": key.scope, "db_instance_identifier": identifier, "dbi_resource_id": resource_id,
        "engine": "postgres", "engine_version": "17.5", "db_instance_class": "db.t3.micro",
        "allocated_storage_gib": 20, "storage_type": "gp3", "master_username": "app", "master_password_verifier": "x",
        "port": 5432, "vpc_id": "vpc-1", "subnet_id": "subnet-a", "vpc_security_group_ids": (),
        "db_subnet_group_name": "default", "availability_zone": "us-east-1a",
        "preferred_backup_window": "03:00-03:30", "preferred_maintenance_window": "sun:05:00-sun:05:30",
        "license_model": "postgresql-license", "db_parameter_group_name": "g", "parameter_group_in_force": "g",
        "option_group_name": "o", "ca_certificate_identifier": "ca", "requested_at": 0.0, "change": "",
        "node_id": f"node-{identifier}", "storage_encrypted": True, "kms_key_id": key.arn, "volume_driver": "image",
        "wrapped_volume_key": new_wrapped_key(vault, SeededRandomness(2), key, instance_context(resource_id)),
    }  # fmt: skip
    return DBInstance(**values | fields)
