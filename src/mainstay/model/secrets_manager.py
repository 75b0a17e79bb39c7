"""Secrets of AWS Secrets Manager. Values are sealed and live in records of their own, one per version."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from mainstay.model.records import Record

CURRENT = "AWSCURRENT"
PREVIOUS = "AWSPREVIOUS"
PENDING = "AWSPENDING"


class SecretVersion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One version and the staging labels attached to it; without labels it is deprecated. Times are epoch seconds.

    `accessed_on` is the beginning of the UTC day in which the value was last read.
    """

    version_id: str
    created_at: float
    stages: tuple[str, ...] = ()
    accessed_on: float | None = None


class RotationRules(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """When a secret is rotated: after so many days, or by a `rate()` or `cron()` expression. `duration` is "3h"."""

    automatically_after_days: int | None = None
    duration: str = ""
    schedule_expression: str = ""


class StoredSecret(Record, frozen=True, kw_only=True, omit_defaults=True):
    """A secret without its values. Times are epoch seconds.

    `arn_suffix` are the six random characters that end the ARN. `deleted_at` is when its deletion was asked for,
    `purge_at` when it will be carried out. `rotation_enabled` is None until rotation was first asked for.
    `owning_service` ("rds") manages the secret for `owner` ("db:<DbiResourceId>"); users cannot change its values.
    `rotation_failure` says why the last rotation has not succeeded.
    """

    KIND: ClassVar[str] = "secret"

    name: str
    arn_suffix: str
    description: str | None = None
    kms_key_id: str = ""
    created_at: float
    changed_at: float
    accessed_on: float | None = None
    deleted_at: float | None = None
    purge_at: float | None = None
    tags: dict[str, str] = {}
    resource_policy: str = ""
    versions: tuple[SecretVersion, ...] = ()
    rotation_enabled: bool | None = None
    rotation_rules: RotationRules = RotationRules()
    rotation_failure: str = ""
    rotated_at: float | None = None
    next_rotation_at: float | None = None
    owning_service: str = ""
    owner: str = ""

    def key(self) -> str:
        return self.name

    def index(self) -> dict[str, str]:
        return {"owner": self.owner} if self.owner else {}

    @property
    def resource(self) -> str:
        """What tells this secret from earlier and later ones of its name."""
        return f"{self.name}-{self.arn_suffix}"

    @property
    def arn(self) -> str:
        """`arn:aws:secretsmanager:<region>:<account>:secret:<name>-<six characters>`."""
        return self.scope.arn("secretsmanager", f"secret:{self.resource}")

    @property
    def subject(self) -> str:
        """What jobs about this secret work on."""
        return f"secret:{self.arn}"


class SecretValue(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The sealed value of one version. A `binary` one is base64 text inside the seal.

    `data_key` is the blob (base64) of the data key that seals it; empty if that is the vault's own key, as it was
    before there was a KMS.
    """

    KIND: ClassVar[str] = "secret-value"

    secret: str
    version_id: str
    sealed: str
    data_key: str = ""
    binary: bool = False

    def key(self) -> str:
        return f"{self.secret}:{self.version_id}"
