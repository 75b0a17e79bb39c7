"""Option groups: the optional features of an engine that an instance runs with."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from mainstay.model.engine import ParameterDefinition
from mainstay.model.records import Record

DEFAULT_PREFIX = "default:"


class EngineOption(msgspec.Struct, frozen=True, kw_only=True):
    """An option that an engine offers. Its settings are described as parameters are."""

    name: str
    description: str
    settings: tuple[ParameterDefinition, ...]


class OptionGroup(Record, frozen=True, kw_only=True, omit_defaults=True):
    """A named set of options for one major version of one engine. The name is lower case.

    `options`: name of an option -> those of its settings that are not left at their defaults.
    """

    KIND: ClassVar[str] = "option-group"

    option_group_name: str
    engine_name: str
    major_engine_version: str
    description: str
    source_option_group: str = ""
    copied_at: float | None = None
    options: dict[str, dict[str, str]] = {}
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
