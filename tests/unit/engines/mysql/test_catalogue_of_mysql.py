"""RDS's rules laid over what the engine says of its variables."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from mainstay.decide.parameters import ANY_INSTANCE, check_value, evaluate
from mainstay.engines.mysql.asking import Row, options_of
from mainstay.engines.mysql.catalogue import DEFAULTS, FORBIDDEN, FORBIDDEN_PREFIXES, NO_OPTIONS, define
from mainstay.engines.mysql.variables import variable_of
from mainstay.engines.mysql_family.switches import tracked_variables
from mainstay.model.db_instance_class import CLASSES
from mainstay.model.errors import ApiError

CHUNK_BYTES = 128 << 20
"""Of a buffer pool, which is a whole number of such."""

BESIDE_THE_POOL_BYTES = 600 << 20

HELP = f"""  --a-text     Something about --abort
------------------------------------------------- ---------------------
abort-something                                              FALSE
net-read-timeout                                             30
datadir                                                      (No default value)
init-connect                                                 {""}

To see what variables a running server has, say so.
"""


def row(name: str, kind: str = "string", **more: Any) -> Row:
    return Row(name=name, kind=kind, **{"static": False, "default": "", **more})


@pytest.mark.parametrize(
    "name", ["plugin_dir", "general_log_file", "secure_file_priv", "rpl_semi_sync_source_timeout", "gtid_mode",
             "init_file", "ssl_key", "read_only", "partial_revokes", "mandatory_roles", "lower_case_table_names"]
)  # fmt: skip
def test_what_reaches_outside_or_is_ours_cannot_be_modified(name: str) -> None:
    with pytest.raises(ApiError, match="cannot be modified"):
        check_value(define(row(name)), "1")


def test_types_and_allowed_values() -> None:
    number = define(row("net_read_timeout", "integer", smallest="1", largest="31536000", default="30"))
    assert (number.data_type, number.allowed_values, number.apply_type) == ("integer", "1-31536000", "dynamic")
    switch = define(row("innodb_numa_interleave", "boolean", default="0", static=True))
    assert (switch.data_type, switch.allowed_values, switch.apply_type) == ("boolean", "0,1", "static")
    modes = define(row("sql_mode", "set", choices="ANSI,STRICT_ALL_TABLES"))
    check_value(modes, "ansi,STRICT_ALL_TABLES")
    with pytest.raises(ApiError, match="Invalid parameter value"):
        check_value(modes, "ANSI,NOTHING")


def test_defaults_follow_the_class() -> None:
    memory = define(row("innodb_buffer_pool_size", "integer", smallest="5242880", largest="9223372036854775807"))
    assert memory.source == "system"
    assert evaluate(memory.default, ANY_INSTANCE) == str((16 << 30) * 3 // 4)


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_has_room_beside_the_buffer_pool(name: str) -> None:
    """What the engine takes on an idle instance (250 MiB), and a dozen sessions that write rows of 3 MiB."""
    db_class = CLASSES[name]
    variables = msgspec.structs.replace(
        ANY_INSTANCE, db_instance_class_memory_bytes=db_class.db_instance_class_memory_bytes
    )
    pool = int(evaluate(DEFAULTS["innodb_buffer_pool_size"], variables))
    rounded_up = -(-pool // CHUNK_BYTES) * CHUNK_BYTES
    assert rounded_up + BESIDE_THE_POOL_BYTES <= db_class.memory_bytes
    assert pool >= db_class.db_instance_class_memory_bytes * 2 // 5


def test_nothing_is_both_forbidden_and_a_default_of_ours() -> None:
    assert not FORBIDDEN & set(DEFAULTS)
    assert not [name for name in DEFAULTS if name.startswith(FORBIDDEN_PREFIXES)]


def test_only_what_may_stand_in_an_option_file_is_a_parameter() -> None:
    assert options_of(HELP) == {"abort_something", "net_read_timeout", "datadir", "init_connect"}
    assert options_of("nothing") == frozenset()


@pytest.mark.parametrize(
    ("value", "largest", "kind"),
    [
        ("33554432", "1073741824", "BIGINT"),
        ("10.000000", "0", "DOUBLE"),
        ("ON", "0", "BOOLEAN"),
        ("READ-COMMITTED", "0", "ENUM"),
        ("a,b", "0", "SET"),
        ("SET NAMES utf8", "0", "VARCHAR"),
        ("", "0", "VARCHAR"),
    ],
)
def test_the_kind_of_a_variable_is_what_its_value_looks_like(value: str, largest: str, kind: str) -> None:
    assert variable_of("x", value, "EXPLICIT", "0", largest).kind == kind
    assert variable_of("x", value, "EXPLICIT", "0", largest).origin == "CONFIG"


def test_nobody_can_set_a_stack_on_which_our_own_procedures_do_not_run() -> None:
    stack = define(row("thread_stack", "integer", static=True, smallest="131072", largest="18446744073709550592"))
    check_value(stack, "262144")
    with pytest.raises(ApiError, match="Invalid parameter value"):
        check_value(stack, "131072")


def test_what_a_session_tracks_must_be_there() -> None:
    listing = row("session_track_system_variables", default="time_zone,character_set_client")
    definition = define(listing, tracked_variables({"time_zone"} | NO_OPTIONS))
    for value in ("*", "", listing.default, "TIME_ZONE, timestamp"):
        check_value(definition, value)
    for value in ("bogus", "time_zone,bogus", "time_zone,time_zone"):
        with pytest.raises(ApiError, match="Invalid parameter value"):
            check_value(definition, value)
