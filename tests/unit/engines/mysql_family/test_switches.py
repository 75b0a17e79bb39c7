"""Parameters that are several switches in one text, as both engines tell of them."""

from __future__ import annotations

import pytest

from mainstay.decide.parameters import check_value
from mainstay.engines.mariadb.catalogue import Row as MariadbRow
from mainstay.engines.mariadb.catalogue import define as define_of_mariadb
from mainstay.engines.mysql.asking import Row as MysqlRow
from mainstay.engines.mysql.catalogue import define as define_of_mysql
from mainstay.model.engine import ParameterDefinition
from mainstay.model.errors import ApiError

OF_MARIADB = define_of_mariadb(
    MariadbRow(
        name="optimizer_switch", kind="FLAGSET", scope="GLOBAL", read_only="NO", default="mrr=on", smallest=None,
        largest=None, choices="mrr,firstmatch,default", comment="", argument="REQUIRED",
    )
)  # fmt: skip
OF_MYSQL = define_of_mysql(
    MysqlRow(name="optimizer_switch", kind="string", static=False, default="mrr=on,firstmatch=on")
)
BOTH = pytest.mark.parametrize("switches", [OF_MARIADB, OF_MYSQL], ids=["mariadb", "mysql"])


@BOTH
@pytest.mark.parametrize("value", ["", "default", "mrr=on,firstmatch=default", "MRR=OFF"])
def test_switches_are_taken_as_the_engine_takes_them(switches: ParameterDefinition, value: str) -> None:
    check_value(switches, value)


@BOTH
@pytest.mark.parametrize(
    "value", ["nonsense", "mrr", "mrr=maybe", "mrr=on,mrr=off", "nonsense=on", "mrr=on;firstmatch=on"]
)
def test_switches_with_which_the_engine_would_not_start_are_refused(switches: ParameterDefinition, value: str) -> None:
    with pytest.raises(ApiError, match="Invalid parameter value"):
        check_value(switches, value)
