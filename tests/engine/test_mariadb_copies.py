"""Where a copy of a MariaDB follower goes on, as the engine itself reads it at its start."""

from __future__ import annotations

from typing import Any

import pytest

from harness.dialects import MARIADB, EngineUnderTest, newest_of
from mainstay.engines.builds import Builds
from mainstay.engines.mariadb.binlog import position_of_copy
from mainstay.engines.mariadb.bootstrap import SHARE, bootstrap_command, bootstrap_script, server
from mainstay.engines.mariadb.physical_copy import POSITIONS, position_statements
from mainstay.engines.mysql_family.layout import arguments, place_options
from mainstay.engines.mysql_family.scratch import Scratch, ask
from mainstay.settings import load_settings

# Domain -> what the source said, (server, number) of what its table has, and where the copy goes on.
CASES = {
    0: ("0-1-7", [], "0-1-7"),
    1: ("1-1-7", [(2, 4), (2, 5)], "1-1-7"),
    2: ("2-1-7", [(1, 4), (1, 5)], "2-1-7"),
    3: ("3-1-7", [(1, 6), (1, 7), (1, 8), (1, 10)], "3-1-10"),
}


@pytest.mark.parametrize("engine", newest_of(MARIADB), ids=lambda one: one.version)
def test_a_copy_has_the_transactions_that_its_source_had_not_counted_yet(engine: EngineUnderTest) -> None:
    """Domain 3 is a follower whose appliers had committed more than it said: applied again, it comes twice."""
    settings = load_settings({})
    build = Builds(settings).resolve("mariadb", engine.version)
    told = ",".join(said for said, _rows, _expected in CASES.values())
    rows = [(domain, number, one, number) for domain, case in CASES.items() for one, number in case[1]]
    recorded = ",".join(f"{domain}-{one}-{number}" for domain, _sub, one, number in rows)
    expected = ",".join(expected for _said, _rows, expected in CASES.values())
    script = [f"INSERT INTO {POSITIONS} VALUES {', '.join(map(str, rows))}", *position_statements(told)]
    scratch = Scratch(
        make=bootstrap_command(build),
        script=bootstrap_script(build) + "".join(f"{line};\n" for line in script).encode(),
        serve=[
            server(build), "--no-defaults", *arguments(place_options(build, *SHARE)), "--skip-networking",
            "--skip-grant-tables", "--innodb-buffer-pool-size=16M", "--innodb-log-file-size=16M",
        ],
    )  # fmt: skip
    assert ask(build, settings.engine_user, scratch, _position) == expected
    assert position_of_copy(told, recorded) == expected


def _position(cursor: Any) -> str:
    cursor.execute("SELECT @@GLOBAL.gtid_slave_pos")
    return str(cursor.fetchone()[0])
