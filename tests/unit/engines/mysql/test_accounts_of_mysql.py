"""The role of the master user, and that nothing is done twice that would for a moment give too much."""

from __future__ import annotations

from mainstay.engines.mysql.accounts import REVOKED, role_statements
from mainstay.engines.mysql.procedures import procedures
from mainstay.engines.mysql_family.procedures import BODIES


def test_privileges_that_a_version_does_not_know_are_left_out() -> None:
    newer = role_statements(frozenset({"SET_ANY_DEFINER", "ROLE_ADMIN"}), frozenset())
    older = role_statements(frozenset({"SET_USER_ID", "ROLE_ADMIN"}), frozenset())
    assert "SET_ANY_DEFINER" in newer[1] and "SET_USER_ID" not in newer[1]
    assert "SET_USER_ID" in older[1] and "SET_ANY_DEFINER" not in older[1]
    assert newer[-1].startswith(REVOKED)


def test_a_role_that_is_restricted_is_not_granted_anew() -> None:
    assert (
        role_statements(frozenset(), frozenset({f"{REVOKED}, CREATE ON `mysql`.* FROM `rds_superuser_role`@`%`"})) == []
    )
    assert role_statements(frozenset(), frozenset({"GRANT SELECT ON *.* TO `rds_superuser_role`@`%`"}))


def test_procedures_are_made_once_and_again_when_they_change() -> None:
    made = procedures({})
    creations = [one for one in made if one.startswith("CREATE DEFINER")]
    assert len(creations) == len(BODIES)
    comments = {one.split("mysql.")[1].split("(")[0]: one.split("COMMENT '")[1].split("'")[0] for one in creations}
    assert not [one for one in procedures(comments) if one.startswith(("CREATE DEFINER", "DROP"))]
    changed = procedures(comments | {"rds_kill": "older"})
    assert [one.split("(")[0] for one in changed if one.startswith("DROP")] == [
        "DROP PROCEDURE IF EXISTS mysql.rds_kill"
    ]
