"""DB parameter groups: the values a user gave to an engine family's parameters."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from mainstay.model.records import Record

DEFAULT_PREFIX = "default."
IMMEDIATE = "immediate"
PENDING_REBOOT = "pending-reboot"


class UserParameter(msgspec.Struct, frozen=True):
    """A value as the user wrote it (a literal or a formula) and the apply method it was given with."""

    value: str
    apply_method: str


class DBParameterGroup(Record, frozen=True, kw_only=True, omit_defaults=True):
    """User values over the defaults of `db_parameter_group_family`. The name is lower case.

    A parameter that is not in `parameters` has the family's default, also after the default changed with a newer
    build of the engine.
    """

    KIND: ClassVar[str] = "db-parameter-group"

    db_parameter_group_name: str
    db_parameter_group_family: str
    description: str
    parameters: dict[str, UserParameter] = {}
    tags: dict[str, str] = {}

    def key(self) -> str:
        return self.db_parameter_group_name

    def index(self) -> dict[str, str]:
        return {"family": self.db_parameter_group_family}

    @property
    def arn(self) -> str:
        """`arn:aws:rds:<region>:<account>:pg:<name>`."""
        return self.scope.arn("rds", f"pg:{self.db_parameter_group_name}")

    @property
    def is_default(self) -> bool:
        """Whether it is a family's default group. Users cannot choose such a name: it has a period."""
        return self.db_parameter_group_name.startswith(DEFAULT_PREFIX)

    def value_of(self, name: str) -> str | None:
        """The user's value, or None where the default holds."""
        parameter = self.parameters.get(name)
        return None if parameter is None else parameter.value
