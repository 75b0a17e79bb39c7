"""Bringing a restored MariaDB to its target, which is the family's way: nothing in a copy has to be set right."""

from __future__ import annotations

from mainstay.engines.mariadb.binlog import MARIADB_LOG
from mainstay.engines.mariadb.words import MARIADB_WORDS
from mainstay.engines.mysql_family.replay import FamilyReplay


class MariadbReplay(FamilyReplay):
    """`Recovery` for MariaDB."""

    words = MARIADB_WORDS
    log_format = MARIADB_LOG
