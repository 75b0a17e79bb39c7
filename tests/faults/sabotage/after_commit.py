"""Commits are seen by others before the standby has them, and wait for it no longer than ten seconds (MariaDB, MySQL).

The agent believes that this is what it asked for.
"""

from collections.abc import Callable

from mainstay.engines.mysql_family import layout
from mainstay.engines.mysql_family.words import Words
from mainstay.model.assignment import Assignment
from mainstay.model.node import NodeSpec

rightly = layout.replication_options
right_settings: Callable[[Words], dict[str, str]] = vars(Words)["source_settings"].fget


def careless(words: Words) -> dict[str, str]:
    """The settings that are wrong."""
    return {f"{words.semi_sync}wait_point": "AFTER_COMMIT", f"{words.semi_sync}timeout": "10000"}


def replication_options(spec: NodeSpec, assignment: Assignment, words: Words) -> dict[str, str]:
    """As they should be, but for these."""
    return rightly(spec, assignment, words) | careless(words)


def source_settings(self: Words) -> dict[str, str]:
    """What the agent compares with."""
    return right_settings(self) | careless(self)


layout.replication_options = replication_options
Words.source_settings = property(source_settings)
