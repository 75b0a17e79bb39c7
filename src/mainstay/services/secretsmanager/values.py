"""Sealing, opening and recording the values of secrets: the one place where a clear value meets the store."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import msgspec

from mainstay.decide.secret_versions import find_version, labelled, with_version
from mainstay.host.randomness import Randomness
from mainstay.host.vault import Vault
from mainstay.model.errors import ApiError
from mainstay.model.secrets_manager import CURRENT, PENDING, PREVIOUS, SecretValue, SecretVersion, StoredSecret
from mainstay.services.secretsmanager.checks import Value
from mainstay.services.secretsmanager.encryption import open_value, seal_value
from mainstay.services.secretsmanager.limits import ARN_SUFFIX_CHARACTERS, SECRETS_PER_REGION
from mainstay.store import Reader, Transaction

LETTERS_AND_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def new_suffix(randomness: Randomness) -> str:
    """The six random characters that end an ARN."""
    return randomness.text(ARN_SUFFIX_CHARACTERS, LETTERS_AND_DIGITS)


def insert_secret(tx: Transaction, secret: StoredSecret) -> None:
    """Records a new secret that has no versions yet. Raises `ApiError` LimitExceededException."""
    if tx.count(StoredSecret, secret.scope) >= SECRETS_PER_REGION:
        raise ApiError(
            "LimitExceededException", f"An account can have at most {SECRETS_PER_REGION} secrets in a region."
        )
    tx.insert(secret)


def put_version(
    tx: Transaction,
    vault: Vault,
    randomness: Randomness,
    secret: StoredSecret,
    version_id: str,
    value: Value,
    *,
    stages: Sequence[str],
    now: float,
) -> StoredSecret:
    """A new version with these labels, recorded. A version of this id with the same value changes nothing.

    Raises `ApiError` ResourceExistsException if there is one with another value, LimitExceededException,
    EncryptionFailure if the secret's key cannot be used.
    """
    if find_version(secret.versions, version_id) is not None:
        if read_value(tx, vault, secret, version_id) != value:
            raise ApiError(
                "ResourceExistsException",
                f"A resource with the ID you requested already exists: version {version_id} has another value, and a"
                " version cannot be changed. Use another ClientRequestToken.",
            )
        return secret
    versions = with_version(secret.versions, version_id, now, stages)
    kept = {one.version_id for one in versions}
    for one in secret.versions:
        if one.version_id not in kept:
            _forget(tx, secret, one)
    sealed, data_key = seal_value(tx, vault, randomness, secret, version_id, value.text, now)
    tx.insert(
        SecretValue(
            scope=secret.scope,
            secret=secret.resource,
            version_id=version_id,
            sealed=sealed,
            data_key=data_key,
            binary=value.binary,
        )
    )
    changed = msgspec.structs.replace(secret, versions=versions, changed_at=now)
    tx.put(changed)
    return changed


def read_value(reader: Reader, vault: Vault, secret: StoredSecret, version_id: str) -> Value:
    """The value of a version that exists. Raises `ApiError` DecryptionFailure if its key cannot be used."""
    record = reader.get(SecretValue, secret.scope, f"{secret.resource}:{version_id}")
    if record is None:
        raise ApiError(
            "InternalServiceError", f"The value of version {version_id} is missing from the store.", status=500
        )
    return Value(open_value(reader, vault, secret, record), record.binary)


def encrypt_again(tx: Transaction, vault: Vault, randomness: Randomness, secret: StoredSecret, now: float) -> None:
    """Puts the versions in use under the key that the secret names now; others stay under theirs, as on AWS.

    Raises `ApiError` DecryptionFailure, EncryptionFailure.
    """
    for version in secret.versions:
        record = tx.get(SecretValue, secret.scope, f"{secret.resource}:{version.version_id}")
        if record is not None and {CURRENT, PENDING, PREVIOUS} & set(version.stages):
            text = open_value(tx, vault, secret, record)
            sealed, data_key = seal_value(tx, vault, randomness, secret, version.version_id, text, now)
            tx.put(msgspec.structs.replace(record, sealed=sealed, data_key=data_key))


def binary_of(value: Value) -> bytes:
    """The bytes of a binary value."""
    return base64.b64decode(value.text)


def current_version(secret: StoredSecret) -> SecretVersion:
    """The version labelled AWSCURRENT. Raises `ApiError` ResourceNotFoundException."""
    version = labelled(secret.versions, CURRENT)
    if version is None:
        raise ApiError(
            "ResourceNotFoundException",
            f"Secrets Manager can't find the specified secret value for staging label: {CURRENT}",
        )
    return version


def delete_secret_now(tx: Transaction, secret: StoredSecret) -> None:
    """Nothing is left of the secret: its values, its jobs and itself."""
    for version in secret.versions:
        _forget(tx, secret, version)
    for job in tx.jobs(secret.subject):
        tx.finish_job(job)
    tx.delete(secret)


def _forget(tx: Transaction, secret: StoredSecret, version: SecretVersion) -> None:
    record = tx.get(SecretValue, secret.scope, f"{secret.resource}:{version.version_id}")
    if record is not None:
        tx.delete(record)
