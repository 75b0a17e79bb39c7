"""Why an engine did not come up: what users read of what it wrote."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from mainstay.agent.last_words import LastWords, without_directories
from mainstay.engines.base import EngineDriver
from mainstay.engines.mariadb.driver import MariadbDriver
from mainstay.engines.mysql.driver import MysqlDriver
from mainstay.engines.node_files import NodeFiles
from mainstay.engines.postgresql.driver import PostgresqlDriver

MARIADB = """2026-12-01  4:18:14 0 [Warning] Could not increase number of max_open_files to more than 20000
2026-12-01  4:18:14 0 [ERROR] /var/lib/engines/mariadb-11.8.9/usr/sbin/mariadbd: Error while setting value 'x' to 'y'
2026-12-01  4:18:14 0 [ERROR] mariadbd: Unknown system variable 'nonsense'
2026-12-01  4:18:14 0 [ERROR] Aborting
"""
MYSQL = """2026-12-01T04:18:24.723198Z 0 [System] [MY-010116] [Server] /engines/usr/sbin/mysqld (mysqld 9.7.4) starting
2026-12-01T04:18:24.723214Z 0 [ERROR] [MY-010146] [Server] The variable a either has duplicate values or invalid ones.
2026-12-01T04:18:24.723215Z 0 [ERROR] [MY-000077] [Server] /engines/usr/sbin/mysqld: Error while setting value 'x'.
2026-12-01T04:18:24.723242Z 0 [ERROR] [MY-010119] [Server] Aborting
"""
POSTGRES = """2026-12-01 04:18:14 UTC::@:[12]:LOG:  starting PostgreSQL 17.12
2026-12-01 04:18:14 UTC::@:[12]:LOG:  invalid value for parameter "wal_level": "nonsense"
2026-12-01 04:18:14 UTC::@:[12]:FATAL:  configuration file "/nodes/n/conf/postgresql.conf" contains errors
2026-12-01 04:18:15 UTC::@:[12]:FATAL:  could not access file "nonsense": No such file or directory
"""


@pytest.mark.parametrize(
    ("driver", "text", "said"),
    [
        (MariadbDriver(), MARIADB, ["Error while setting value 'x' to 'y'", "Unknown system variable 'nonsense'"]),
        (
            MysqlDriver(),
            MYSQL,
            ["The variable a either has duplicate values or invalid ones.", "Error while setting value 'x'."],
        ),
        (
            PostgresqlDriver(),
            POSTGRES,
            ['invalid value for parameter "wal_level": "nonsense"',
             'could not access file "nonsense": No such file or directory'],
        ),
    ],
)  # fmt: skip
def test_each_engines_own_sentences(driver: EngineDriver, text: str, said: list[str]) -> None:
    assert driver.last_words(text) == said


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("cannot open '/var/tmp/x/nodes/node-1/volume/data/ibdata1' for writing", "cannot open 'ibdata1' for writing"),
        ("/usr/sbin/mysqld: no", "mysqld: no"),
        ("a/b of 1/2, and /tmp", "a/b of 1/2, and /tmp"),
    ],
)
def test_nothing_is_told_of_the_host(text: str, left: str) -> None:
    assert without_directories(text) == left


def _node(tmp_path: Path) -> tuple[NodeFiles, LastWords]:
    files = NodeFiles(root=tmp_path, sockets=tmp_path)
    (files.logs / "error").mkdir(parents=True)
    driver = SimpleNamespace(last_words=lambda text: text.splitlines())
    return files, LastWords(files, cast(EngineDriver, driver))


def test_only_what_was_written_since_the_start_counts_from_both_places_and_once_each(tmp_path: Path) -> None:
    files, words = _node(tmp_path)
    log = files.logs / "error" / "mysql-error.log"
    assert words.after("it ended") == "it ended"
    log.write_text("of an earlier start\n")
    words.begin()
    files.output.write_text("the first.\n")
    with log.open("a") as file:
        file.write("the second\nthe first\n")
    assert words.after("it ended") == "it ended: the first; the second"


def test_what_is_told_has_a_length(tmp_path: Path) -> None:
    files, words = _node(tmp_path)
    files.output.write_text("\n".join(f"{number}" * 400 for number in range(9)))
    assert len(words.after("it ended")) == len("it ended: ") + 500
