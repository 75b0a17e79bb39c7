"""The `mysql.rds_*` procedures of MySQL."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from mainstay.engines.mysql_family.procedures import APPLY, BODIES, TABLES, create

PRESENT = "SELECT ROUTINE_NAME, ROUTINE_COMMENT FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = 'mysql'"
"""Name and comment of those that are there."""


def procedures(present: Mapping[str, str]) -> list[str]:
    """SQL for a session of our own, in order, each on its own: what is there as it is to be is not made again.

    Each has its body's digest as its comment, because there is no CREATE OR REPLACE PROCEDURE.
    """
    made = []
    for signature, body in BODIES.items():
        name = signature.partition("(")[0]
        digest = hashlib.sha256(f"{signature}{body}".encode()).hexdigest()[:32]
        if present.get(name) != digest:
            made += [f"DROP PROCEDURE IF EXISTS mysql.{name}", create("CREATE", signature, body, digest)]
    return [*TABLES, *made, APPLY]
