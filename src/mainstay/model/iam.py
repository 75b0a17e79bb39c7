"""Users, groups, roles, policies and access keys, named as IAM names them. Times are epoch seconds.

All are kept in the global scope of their account. Names are unique without regard to case, as in IAM: `index()` offers
the lower-case name for that. Temporary credentials are no records: the session token carries them, sealed.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from mainstay.model.records import Record


class Entity(Record, frozen=True, kw_only=True, omit_defaults=True):
    """What users, groups and roles have in common: a name, a path and policies.

    `inline_policies` maps policy name -> document; `attached_policies` are ARNs in the order they were attached.
    """

    NOUN: ClassVar[str]
    """The name of the kind in ARNs and messages: user, group or role."""

    name: str
    id: str
    path: str = "/"
    created_at: float
    inline_policies: dict[str, str] = {}
    attached_policies: tuple[str, ...] = ()

    def key(self) -> str:
        return self.name

    def index(self) -> dict[str, str]:
        return {"name": self.name.lower()}

    @property
    def arn(self) -> str:
        """The entity's ARN, path included."""
        return self.scope.arn("iam", f"{self.NOUN}{self.path}{self.name}")


class User(Entity, frozen=True, kw_only=True, omit_defaults=True):
    """A person or program with long-term access keys. `permissions_boundary` is a policy ARN or empty."""

    KIND = "iam-user"
    NOUN = "user"

    groups: tuple[str, ...] = ()
    permissions_boundary: str = ""
    tags: dict[str, str] = {}


class Group(Entity, frozen=True, kw_only=True, omit_defaults=True):
    """Users that share policies; each user lists its groups."""

    KIND = "iam-group"
    NOUN = "group"


class Role(Entity, frozen=True, kw_only=True, omit_defaults=True):
    """An identity that others assume, as far as its trust policy allows."""

    KIND = "iam-role"
    NOUN = "role"

    assume_role_policy: str
    description: str | None = None
    max_session_duration_s: int = 3600
    permissions_boundary: str = ""
    tags: dict[str, str] = {}
    service: str = ""
    """The service a service-linked role belongs to; only that service changes it."""
    last_used_at: float | None = None
    last_used_region: str = ""


class AccessKey(Record, frozen=True, kw_only=True, omit_defaults=True):
    """A long-term key of a user, or of the account's root when `user_name` is empty."""

    KIND = "iam-access-key"

    access_key_id: str
    user_name: str = ""
    status: str = "Active"
    created_at: float
    sealed_secret: str
    last_used_at: float | None = None
    last_used_service: str = ""
    last_used_region: str = ""

    def key(self) -> str:
        return self.access_key_id

    def index(self) -> dict[str, str]:
        return {"user": self.user_name}

    @property
    def seal_context(self) -> str:
        """What the sealed secret is bound to."""
        return f"{self.KIND}/{self.scope}/{self.access_key_id}"


class PolicyVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a managed policy."""

    version_id: str
    document: str
    created_at: float


class ManagedPolicy(Record, frozen=True, kw_only=True, omit_defaults=True):
    """A policy with an ARN of its own. `versions` are in order of creation; one of them is the default."""

    KIND = "iam-policy"

    name: str
    id: str
    path: str = "/"
    description: str | None = None
    created_at: float
    updated_at: float
    default_version_id: str
    next_version: int
    versions: tuple[PolicyVersion, ...]
    tags: dict[str, str] = {}
    owner: str = ""
    """"aws" for the policies that AWS provides, else empty: the account's own."""

    def key(self) -> str:
        return self.arn

    def index(self) -> dict[str, str]:
        return {"name": self.name.lower()}

    @property
    def arn(self) -> str:
        """The policy's ARN, path included."""
        return f"arn:aws:iam::{self.owner or self.scope.account_id}:policy{self.path}{self.name}"

    @property
    def document(self) -> str:
        """The text of the default version."""
        return self.version(self.default_version_id).document

    def version(self, version_id: str) -> PolicyVersion:
        """A version that exists; raises `KeyError` if there is none."""
        for version in self.versions:
            if version.version_id == version_id:
                return version
        raise KeyError(version_id)


class AccountAlias(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The account's other name; an account has at most one."""

    KIND = "iam-account-alias"

    alias: str

    def key(self) -> str:
        return self.alias


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """Temporary credentials: what a session token seals. Valid while `expires_at` is ahead and its identity exists.

    `kind` is "root", "user" or "role"; `entity_id` is the unique id of the user or role, so that a session does not
    pass to another entity of the same name.
    """

    access_key_id: str
    secret_access_key: str
    kind: str
    account_id: str
    entity_name: str
    entity_id: str
    issued_at: float
    expires_at: float
    session_name: str = ""
    policy: str = ""
    policy_arns: tuple[str, ...] = ()
    tags: dict[str, str] = {}
    transitive_tag_keys: tuple[str, ...] = ()
    source_identity: str = ""
