"""What the API asks about MariaDB and MySQL."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mainstay.engines.mariadb.packages import MARIADB
from mainstay.engines.mariadb.rules import MariadbRules
from mainstay.engines.mysql.packages import MYSQL
from mainstay.engines.mysql.rules import MysqlRules
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import ApiError
from mainstay.services.rds.unbuilt import refuse_lacking

RULES = MariadbRules(lambda _build: {})


def test_names_of_families_and_groups() -> None:
    assert RULES.family("10.11") == "mariadb10.11" == MARIADB.family("10.11")
    assert RULES.default_parameter_group("mariadb11.8") == "default.mariadb11.8"
    assert RULES.default_option_group("10.11") == "default:mariadb-10-11"
    assert (
        MARIADB.major_of("10.11.19") == "10.11"
        and MARIADB.major_of("11.8.9") == "11.8"
        and not MARIADB.major_of("12.1")
    )


def test_versions_and_groups_of_mysql() -> None:
    rules = MysqlRules(lambda _build: {})
    assert rules.family("9.7") == "mysql9.7" == MYSQL.family("9.7")
    assert rules.default_option_group("9.7") == "default:mysql-9-7"
    found = [MYSQL.major_of(version) for version in ("9.7.4", "8.4.6", "8.0.36", "5.7.44", "9.70.1")]
    assert found == ["9.7", "8.4", "8.0", "", ""]


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("mysqld  Ver 9.7.4-1 for debian-linux-gnu on x86_64 (Debian)", "9.7.4"),
        ("/usr/sbin/mysqld  Ver 8.0.36-0ubuntu0.22.04.1 for Linux on x86_64 ((Ubuntu))", "8.0.36"),
        ("/usr/sbin/mysqld  Ver 8.4.6 for Linux on x86_64 (MySQL Community Server - GPL)", "8.4.6"),
        ("mysqld  Ver 10.11.6-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)", ""),
    ],
)
def test_a_mysqld_that_is_mariadb_is_not_taken_for_mysql(said: str, version: str) -> None:
    found = re.search(MYSQL.version_pattern, said)
    assert (found[1] if found else "") == version


def test_no_database_is_made_unless_one_is_named() -> None:
    assert RULES.default_database() is None


@pytest.mark.parametrize(("value", "required"), [("1", True), ("ON", True), ("0", False), ("OFF", False)])
def test_require_secure_transport(value: str, required: bool) -> None:
    assert RULES.require_tls({"require_secure_transport": value}) is required
    assert RULES.require_tls({}) is False


def test_positions_of_the_binary_log_are_ordered() -> None:
    positions = ["1/1:4", "1/1:999", "1/2:4", "1/10:4", "2/1:4"]
    assert sorted(positions, key=RULES.log_position) == positions
    for wrong in ("", "1", "1:4", "1/1:", "1/-1:4", "0/16B3748", "1/1:4 "):
        with pytest.raises(ApiError, match="binary log position"):
            RULES.log_position(wrong)


def test_a_transaction_is_named_by_its_gtid() -> None:
    RULES.check_transaction("0-101-4711")
    for wrong in ("", "4711", "0-1", "0-1-2,1-1-2", "0-1-x"):
        with pytest.raises(ApiError, match="GTID"):
            RULES.check_transaction(wrong)


def test_a_build_without_the_plugin_lacks_iam_logins(tmp_path: Path) -> None:
    build = EngineBuild(
        engine="mariadb", version="11.8.9", major="11.8", family="mariadb11.8", prefix=tmp_path,
        bin_directory=tmp_path, library_directory=tmp_path, share_directory=tmp_path, origin="installed",
    )  # fmt: skip
    asked = {"EnableIAMDatabaseAuthentication": True}
    with pytest.raises(ApiError, match=r"IAM database authentication.*mainstay engines install mariadb 11\.8"):
        refuse_lacking(RULES, build, asked)
    refuse_lacking(RULES, build, {"EnableIAMDatabaseAuthentication": False})
    (tmp_path / "aws_authentication.so").touch()
    refuse_lacking(RULES, build, asked)
