"""A string that must not be shown: logs, tracebacks and `repr` see stars."""

from __future__ import annotations

import msgspec


class Secret(msgspec.Struct, frozen=True):
    """Holds a secret value; only `reveal()` gives it back."""

    value: str

    def reveal(self) -> str:
        """The value itself. Call it only where the value is used, never where it is reported."""
        return self.value

    def __repr__(self) -> str:
        return "Secret(****)"

    __str__ = __repr__
