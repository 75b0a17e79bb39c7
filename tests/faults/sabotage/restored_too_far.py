"""A restore ends a second after the moment that was asked for."""

from typing import Any

import msgspec

from mainstay.engines.postgresql.backups import PostgresqlBackups

rightly = PostgresqlBackups.recovery_options


def recovery_options(self: PostgresqlBackups, restore: Any, files: Any) -> tuple[str, ...]:
    """Of another target."""
    target = restore.target
    if target.at is not None:
        restore = msgspec.structs.replace(restore, target=msgspec.structs.replace(target, at=target.at + 1.0))
    return rightly(self, restore, files)


PostgresqlBackups.recovery_options = recovery_options
