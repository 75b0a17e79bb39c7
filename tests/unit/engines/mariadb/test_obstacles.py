"""What an applier's error says of accounts."""

from __future__ import annotations

import pytest

from mainstay.engines.mariadb.obstacles import Complaint, complaint

OURS = frozenset({("rdsadmin", "localhost")})


def error(failed: str, query: str = "DROP USER a") -> str:
    return f"Error 'Operation {failed}' on query. Default database: ''. Query: '{query}'"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (error("DROP USER failed for 'rdsadmin'@'localhost'"), Complaint("DROP", OURS)),
        (error("CREATE USER failed for 'a'@'%','b'@'%'"), Complaint("CREATE", frozenset({("a", "%"), ("b", "%")}))),
        (
            "Error 'There is no such grant defined for user 'rdsadmin' on host 'localhost'' on query. Default ...",
            Complaint("REVOKE", OURS),
        ),
    ],
)
def test_accounts_for_which_a_statement_has_failed_are_told(text: str, told: Complaint) -> None:
    assert complaint(text) == told


@pytest.mark.parametrize(
    "text",
    [
        "Error 'Table 'mysql.t' doesn't exist' on query. Default database: ''. Query: 'SELECT 1'",
        "Error 'Duplicate entry' on query. Default database: ''. Query: '" + error("DROP USER failed for 'a'@'%'"),
        error("DROP ROLE failed for 'rdsadmin'"),
        error("DROP USER failed for 'rdsadmin'@'localhost','it's'@'%'"),
        error("DROP USER failed for " + ",".join(["'rdsadmin'@'localhost'"] * 12)[:256]),
    ],
)
def test_what_is_of_another_kind_or_not_whole_is_not_guessed(text: str) -> None:
    assert complaint(text) is None
