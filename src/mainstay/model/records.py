"""What every stored record is: a frozen document with a kind, a scope and a key.

A *scope* is the namespace of one account in one region; services without regions (IAM) use `GLOBAL_REGION`.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

GLOBAL_REGION = "aws-global"


class Scope(msgspec.Struct, frozen=True, order=True):
    """One account in one region: the namespace in which AWS identifiers are unique."""

    account_id: str
    region: str

    def __str__(self) -> str:
        return f"{self.account_id}/{self.region}"

    def arn(self, service: str, resource: str) -> str:
        """`arn:aws:<service>:<region>:<account>:<resource>` (AWS General Reference, "Amazon Resource Names")."""
        region = "" if self.region == GLOBAL_REGION else self.region
        return f"arn:aws:{service}:{region}:{self.account_id}:{resource}"


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all stored records.

    Subclasses set `KIND` (stable: it is the name on disk), return their identity from `key()` and, where they are
    looked up by something else than the key, the extra values from `index()` (name -> value; one value per name).
    """

    KIND: ClassVar[str]

    scope: Scope

    def key(self) -> str:
        """The identifier, unique within the scope and kind."""
        raise NotImplementedError

    def index(self) -> dict[str, str]:
        """Secondary lookups: `Transaction.find(kind, scope, name, value)` finds this record by these."""
        return {}


class Revision(Record, frozen=True, kw_only=True):
    """How often something of a scope has changed; there is one a scope and kind (`services/revisions.py`)."""

    number: int

    def key(self) -> str:
        return "current"
