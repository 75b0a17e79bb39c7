"""What is acknowledged is on neither node's disk (MariaDB, MySQL); the agent believes that this is as it should be."""

from collections.abc import Callable

from mainstay.engines.mysql_family import layout
from mainstay.engines.mysql_family.words import Words
from mainstay.model.assignment import Assignment
from mainstay.model.node import NodeSpec

rightly = layout.replication_options
right_settings: Callable[[Words], dict[str, str]] = vars(Words)["source_settings"].fget
CARELESS = {"sync_binlog": "0", "innodb_flush_log_at_trx_commit": "0"}


def replication_options(spec: NodeSpec, assignment: Assignment, words: Words) -> dict[str, str]:
    """As they should be, but for these."""
    return rightly(spec, assignment, words) | CARELESS


def source_settings(self: Words) -> dict[str, str]:
    """What the agent compares with."""
    return right_settings(self) | CARELESS


layout.replication_options = replication_options
Words.source_settings = property(source_settings)
