"""Keys of AWS KMS, their aliases and their grants. Key material is only ever here sealed by the vault."""

from __future__ import annotations

from enum import Enum
from typing import ClassVar

import msgspec

from mainstay.model.records import Record, Revision, Scope

KEY_SPEC = "SYMMETRIC_DEFAULT"
KEY_USAGE = "ENCRYPT_DECRYPT"
ORIGIN = "AWS_KMS"
AUTOMATIC = "AUTOMATIC"
ON_DEMAND = "ON_DEMAND"
CUSTOMER = "CUSTOMER"
AWS = "AWS"


class KeyState(Enum):
    """AWS's words. The other states belong to imported, replicated and custom store keys, which are not there."""

    ENABLED = "Enabled"
    DISABLED = "Disabled"
    PENDING_DELETION = "PendingDeletion"


class KeyMaterial(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One generation of a key's 256 bits, sealed. Old ones stay, to decrypt what they encrypted.

    `material_id` is what users see (64 hexadecimal digits), `version` what ciphertexts name. `rotation_type` says how
    it came about, empty for the first one. `created_at` is epoch seconds.
    """

    version: int
    material_id: str
    sealed: str
    created_at: float
    rotation_type: str = ""

    def __repr__(self) -> str:
        return f"KeyMaterial(version={self.version})"


class KmsKey(Record, frozen=True, kw_only=True, omit_defaults=True):
    """A symmetric key. Times are epoch seconds.

    `materials` are oldest first; the last one encrypts. `deletion_at` and `pending_window_days` are set while the key
    is pending deletion. `next_rotation_at` is set while rotation is enabled. `key_manager` AWS is a key that a service
    made for the account.
    """

    KIND: ClassVar[str] = "kms-key"

    key_id: str
    created_at: float
    policy: str
    materials: tuple[KeyMaterial, ...]
    state: KeyState = KeyState.ENABLED
    description: str = ""
    key_manager: str = CUSTOMER
    tags: dict[str, str] = {}
    deletion_at: float | None = None
    pending_window_days: int | None = None
    rotation_enabled: bool = False
    rotation_period_days: int | None = None
    next_rotation_at: float | None = None

    def key(self) -> str:
        return self.key_id

    def index(self) -> dict[str, str]:
        return {"key-id": self.key_id}

    @property
    def arn(self) -> str:
        """`arn:aws:kms:<region>:<account>:key/<key id>`."""
        return key_arn(self.scope, self.key_id)

    @property
    def subject(self) -> str:
        """What jobs about this key work on."""
        return f"key:{self.arn}"

    @property
    def current(self) -> KeyMaterial:
        """The material that encrypts."""
        return self.materials[-1]

    def material(self, version: int) -> KeyMaterial | None:
        """The material of this version, None if the key never had it."""
        return next((one for one in self.materials if one.version == version), None)


class KmsAlias(Record, frozen=True, kw_only=True, omit_defaults=True):
    """A name for a key ("alias/app"). Times are epoch seconds."""

    KIND: ClassVar[str] = "kms-alias"

    name: str
    target_key_id: str
    created_at: float
    updated_at: float

    def key(self) -> str:
        return self.name

    def index(self) -> dict[str, str]:
        return {"target": self.target_key_id}

    @property
    def arn(self) -> str:
        """`arn:aws:kms:<region>:<account>:alias/<name>`."""
        return self.scope.arn("kms", self.name)


class GrantConstraints(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which encryption contexts the grant's cryptographic operations may have; None asks for none."""

    subset: dict[str, str] | None = None
    equals: dict[str, str] | None = None


class KmsGrant(Record, frozen=True, kw_only=True, omit_defaults=True):
    """Lets a principal do some operations with a key. `token` retires it and is no secret, as on AWS."""

    KIND: ClassVar[str] = "kms-grant"

    grant_id: str
    token: str
    key_id: str
    grantee_principal: str
    retiring_principal: str = ""
    operations: tuple[str, ...]
    constraints: GrantConstraints = GrantConstraints()
    name: str = ""
    issuing_account: str
    created_at: float

    def key(self) -> str:
        return self.grant_id

    def index(self) -> dict[str, str]:
        # A key can have thousands of grants; a request asks for those of its caller alone.
        found = {"key-id": self.key_id, "token": self.token, "grantee": f"{self.key_id} {self.grantee_principal}"}
        return found | ({"retiring": self.retiring_principal} if self.retiring_principal else {})


class KeyStateRevision(Revision, frozen=True, kw_only=True):
    """How often a key of this scope has become usable or unusable; see `services/kms/changes.py`."""

    KIND: ClassVar[str] = "kms-key-state-revision"


def key_arn(scope: Scope, key_id: str) -> str:
    """The ARN of a key of this id, there or not."""
    return scope.arn("kms", f"key/{key_id}")
