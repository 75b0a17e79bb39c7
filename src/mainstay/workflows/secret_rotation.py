"""Starting the rotation of any secret, whichever workflow does it."""

from __future__ import annotations

from uuid import UUID

from mainstay.host.randomness import Randomness
from mainstay.model.node import NodeTarget
from mainstay.model.secrets_manager import StoredSecret
from mainstay.services.secretsmanager.encryption import is_usable
from mainstay.services.secretsmanager.lookup import owner_of
from mainstay.store import Reader, Transaction
from mainstay.workflows.rotate_database_secret import ROTATE_DATABASE, start_database_rotation
from mainstay.workflows.rotate_master_user_password import RotationMeans, is_rotating, start_master_rotation

VERSION_ID_BYTES = 16

__all__ = ["RotationMeans", "is_ready", "is_under_way", "new_version_id", "start_rotation"]


def new_version_id(randomness: Randomness) -> str:
    """The id of a version that nobody named: a random UUID."""
    return str(UUID(bytes=randomness.token_bytes(VERSION_ID_BYTES), version=4))


def is_under_way(reader: Reader, secret: StoredSecret) -> bool:
    """Whether a rotation of the secret has begun and not ended."""
    owner = owner_of(reader, secret)
    if owner is not None:
        return is_rotating(reader, owner)
    return any(job.program == ROTATE_DATABASE.name for job in reader.jobs(secret.subject))


def is_ready(reader: Reader, secret: StoredSecret) -> bool:
    """Whether a rotation may begin now: none is under way, the secret's key can encrypt the new value, and the instance
    of a managed secret runs undisturbed.
    """
    if is_under_way(reader, secret) or not is_usable(reader, secret):
        return False
    owner = owner_of(reader, secret)
    return owner is None or (
        owner.change == "" and owner.target is NodeTarget.RUNNING and owner.instance_create_time is not None
    )


def start_rotation(tx: Transaction, means: RotationMeans, secret: StoredSecret, version_id: str) -> None:
    """Begins the rotation to a new version of this id. Raises `Duplicate` if one is under way."""
    owner = owner_of(tx, secret)
    if owner is not None:
        start_master_rotation(tx, means, secret, owner, version_id)
    else:
        start_database_rotation(tx, secret, version_id, means.now)
