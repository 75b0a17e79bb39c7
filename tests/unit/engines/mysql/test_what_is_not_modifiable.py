"""Parameters of MySQL that would take away what the service promises cannot be modified."""

from __future__ import annotations

import pytest

from mainstay.decide.parameters import check_value
from mainstay.engines.mysql.asking import Row
from mainstay.engines.mysql.catalogue import define
from mainstay.model.errors import ApiError


@pytest.mark.parametrize(
    "name", ["binlog_error_action", "server_id_bits", "transaction_read_only", "super_read_only",
             "binlog_expire_logs_seconds", "binlog_expire_logs_auto_purge", "expire_logs_days"]
)  # fmt: skip
def test_what_followers_need_is_not_a_users_to_change(name: str) -> None:
    row = Row(name=name, kind="string", static=False, default="", smallest="", largest="", choices="", comment="")
    assert not define(row).is_modifiable


def test_packets_are_large_enough_for_copies() -> None:
    row = Row(
        name="max_allowed_packet", kind="integer", static=False, default="", smallest="1024", largest="1073741824"
    )
    with pytest.raises(ApiError, match="2097152"):
        check_value(define(row), "1048576")
    check_value(define(row), "2097152")
