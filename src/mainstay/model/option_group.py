"""Option groups: the optional features of an engine that an instance runs with."""

from __future__ import annotations

from typing import ClassVar

from mainstay.model.records import Record

DEFAULT_PREFIX = "default:"


class OptionGroup(Record, frozen=True, kw_only=True, omit_defaults=True):
    """A named set of options for one major version of one engine. The name is lower case.

    No engine of this service offers options, so the set is always empty; the group exists because clients create
    and name one with every instance.
    """

    KIND: ClassVar[str] = "option-group"

    option_group_name: str
    engine_name: str
    major_engine_version: str
    description: str
    source_option_group: str = ""
    copied_at: float | None = None
    tags: dict[str, str] = {}

    def key(self) -> str:
        return self.option_group_name

    def index(self) -> dict[str, str]:
        return {"engine-name": self.engine_name}

    @property
    def arn(self) -> str:
        """`arn:aws:rds:<region>:<account>:og:<name>`."""
        return self.scope.arn("rds", f"og:{self.option_group_name}")

    @property
    def is_default(self) -> bool:
        """Whether it is a major version's default group. Users cannot choose such a name: it has a colon."""
        return self.option_group_name.startswith(DEFAULT_PREFIX)
