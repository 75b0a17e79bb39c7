"""What the API asks about MariaDB."""

from __future__ import annotations

import pytest

from mainstay.engines.mariadb.packages import MARIADB
from mainstay.engines.mariadb.rules import MariadbRules
from mainstay.model.errors import ApiError

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
