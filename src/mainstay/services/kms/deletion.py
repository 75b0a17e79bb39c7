"""The end of a key."""

from __future__ import annotations

from mainstay.model.kms import KmsGrant, KmsKey
from mainstay.services.kms.changes import record_change
from mainstay.services.kms.lookup import aliases_of
from mainstay.store import Transaction


def delete_key_now(tx: Transaction, key: KmsKey) -> None:
    """Nothing is left of the key: aliases, grants, jobs, material. What it encrypted opens never again."""
    for alias in aliases_of(tx, key):
        tx.delete(alias)
    for grant in tx.find(KmsGrant, key.scope, "key-id", key.key_id):
        tx.delete(grant)
    for job in tx.jobs(key.subject):
        tx.finish_job(job)
    tx.delete(key)
    record_change(tx, key.scope)
