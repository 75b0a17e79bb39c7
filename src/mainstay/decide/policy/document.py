"""A parsed policy document: frozen, validated, ready to evaluate. `parse.py` makes it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

import msgspec

from mainstay.decide.policy.conditions import Condition
from mainstay.decide.policy.patterns import ActionPatterns, Template


class PolicyKind(Enum):
    """What a document is for decides which elements it must and must not have."""

    IDENTITY = "identity"
    """Attached to a user, group or role, a boundary or a session policy: resources, no principal."""
    TRUST = "trust"
    """A role's trust policy: principals, no resources, only STS actions."""
    RESOURCE = "resource"
    """Attached to a secret, a key …: principals and resources."""


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, as resource and trust policies see it.

    `kind` is "root", "user", "role" (a role's session) or "service". `arn` is the caller's ARN (for a service its
    name, "rds.amazonaws.com"); `role_arn` the ARN of the role behind a session.
    """

    kind: str
    arn: str
    account_id: str = ""
    role_arn: str = ""


class Grant(IntEnum):
    """How strongly a principal element names somebody; the order is the order of strength."""

    NONE = 0
    ACCOUNT = 1
    """Names the account: hands the decision to the account's identity policies."""
    ROLE = 2
    """Names the role: the role's boundary and session policies still limit it."""
    DIRECT = 3
    """Names the user, the session or the service itself: allows without any identity policy."""


@dataclass(frozen=True, slots=True)
class PrincipalPatterns:
    """The `Principal` or `NotPrincipal` element: AWS principals as ARNs (`*`: everybody), services as names."""

    aws: frozenset[str]
    services: frozenset[str]
    federated: frozenset[str]

    def grant(self, principal: Principal) -> Grant:
        """How these principals name this one."""
        if principal.kind == "service":
            return Grant.DIRECT if principal.arn in self.services or "*" in self.aws else Grant.NONE
        if principal.arn in self.aws:
            return Grant.DIRECT
        if principal.role_arn:
            if principal.role_arn in self.aws or "*" in self.aws:
                return Grant.ROLE
        elif "*" in self.aws:
            return Grant.DIRECT
        return Grant.ACCOUNT if f"arn:aws:iam::{principal.account_id}:root" in self.aws else Grant.NONE


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement. `resources` and `principals` are None where the element is absent."""

    position: int
    sid: str
    allow: bool
    actions: ActionPatterns
    not_action: bool
    resources: tuple[Template, ...] | None
    not_resource: bool
    principals: PrincipalPatterns | None
    not_principal: bool
    conditions: tuple[Condition, ...]

    @property
    def id(self) -> str:
        """The Sid, or "Statement[2]" where there is none."""
        return self.sid or f"Statement[{self.position}]"


@dataclass(frozen=True, slots=True)
class PolicyDocument:
    """A validated policy."""

    version: str
    statements: tuple[Statement, ...]

    def context_keys(self) -> set[str]:
        """Every condition key the document refers to, as a condition or as a variable."""
        keys: set[str] = set()
        for statement in self.statements:
            keys.update(condition.key for condition in statement.conditions)
            keys.update(key for condition in statement.conditions for key in condition.variables)
            keys.update(key for resource in statement.resources or () for key in resource.variables)
        return keys
