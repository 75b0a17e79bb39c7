"""RDS's rules laid over what the engine says of its variables."""

from __future__ import annotations

import msgspec
import pytest

from mainstay.decide.parameters import ANY_INSTANCE, check_value, evaluate
from mainstay.engines.mariadb.catalogue import DEFAULTS, FORBIDDEN, OPTION_NAMES, Row, configurable, define
from mainstay.engines.mysql_family.switches import tracked_variables
from mainstay.model.db_instance_class import CLASSES
from mainstay.model.errors import ApiError

BESIDE_THE_POOL_BYTES = 450 << 20


def row(name: str, kind: str = "VARCHAR", **more: str | None) -> Row:
    values: dict[str, str | None] = {
        "scope": "GLOBAL", "read_only": "NO", "default": "", "smallest": None, "largest": None, "choices": None,
        "comment": "", "argument": "REQUIRED",
    }  # fmt: skip
    return Row(name=name, kind=kind, **{**values, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["plugin_dir", "general_log_file", "secure_file_priv", "rpl_semi_sync_master_timeout", "gtid_strict_mode",
             "init_file", "skip_grant_tables", "ssl_key", "read_only", "sync_relay_log", "innodb_doublewrite",
             "max_binlog_total_size", "binlog_space_limit", "binlog_expire_logs_seconds", "expire_logs_days"]
)  # fmt: skip
def test_what_reaches_outside_or_is_ours_cannot_be_modified(name: str) -> None:
    definition = define(row(name))
    assert not definition.is_modifiable
    with pytest.raises(ApiError, match="cannot be modified"):
        check_value(definition, "1")


def test_types_and_allowed_values() -> None:
    number = define(row("net_read_timeout", "INT UNSIGNED", smallest="1", largest="31536000", default="30"))
    assert (number.data_type, number.allowed_values, number.apply_type) == ("integer", "1-31536000", "dynamic")
    switch = define(row("log_bin_compress", "BOOLEAN", default="OFF", read_only="YES"))
    assert (switch.data_type, switch.allowed_values, switch.default, switch.apply_type) == (
        "boolean",
        "0,1",
        "0",
        "static",
    )
    modes = define(row("sql_mode", "SET", choices="ANSI,STRICT_ALL_TABLES"))
    check_value(modes, "ansi,STRICT_ALL_TABLES")
    with pytest.raises(ApiError, match="Invalid parameter value"):
        check_value(modes, "ANSI,NOTHING")


def test_nobody_can_set_a_limit_of_memory_with_which_our_own_sessions_end() -> None:
    limit = define(row("max_session_mem_used", "BIGINT UNSIGNED", smallest="8192", largest="18446744073709551615"))
    check_value(limit, "16777216")
    with pytest.raises(ApiError, match="Invalid parameter value"):
        check_value(limit, "1048576")


@pytest.mark.parametrize(
    ("definition", "good", "bad"),
    [
        (row("innodb_buffer_pool_size", "BIGINT UNSIGNED", smallest="2097152", largest="9" * 18), "6291456", "5242880"),
        (row("innodb_compression_algorithm", "ENUM", choices="none,zlib,lz4,lzo,lzma,bzip2,snappy"), "zlib", "lz4"),
    ],
    ids=lambda one: one.name if isinstance(one, Row) else one,
)
def test_nobody_can_set_what_an_engine_does_not_start_with(definition: Row, good: str, bad: str) -> None:
    check_value(define(definition), good)
    with pytest.raises(ApiError, match="Invalid parameter value"):
        check_value(define(definition), bad)


def test_defaults_follow_the_class() -> None:
    memory = define(
        row("innodb_buffer_pool_size", "BIGINT UNSIGNED", smallest="2097152", largest="9223372036854775807")
    )
    assert memory.source == "system"
    assert evaluate(memory.default, ANY_INSTANCE) == str((16 << 30) * 3 // 4)
    assert int(evaluate(DEFAULTS["max_connections"], ANY_INSTANCE)) == (16 << 30) // 12582880


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_has_room_beside_the_buffer_pool(name: str) -> None:
    """What the engine takes beside it with twenty sessions that write rows of 3 MiB, and a little more."""
    db_class = CLASSES[name]
    memory = db_class.db_instance_class_memory_bytes
    variables = msgspec.structs.replace(ANY_INSTANCE, db_instance_class_memory_bytes=memory)
    pool = int(evaluate(DEFAULTS["innodb_buffer_pool_size"], variables))
    assert pool + BESIDE_THE_POOL_BYTES <= db_class.memory_bytes
    assert pool == (memory * 3 // 4 if db_class.memory_bytes >= 8 << 30 else memory // 2)


def test_only_what_may_stand_in_an_option_file_is_a_parameter() -> None:
    assert configurable(row("net_read_timeout"))
    assert not configurable(row("timestamp", argument=None))
    assert not configurable(row("pseudo_thread_id", scope="SESSION ONLY"))
    assert configurable(row("time_zone", argument=None)) and OPTION_NAMES["time_zone"] == "default_time_zone"


def test_nothing_is_both_forbidden_and_a_default_of_ours() -> None:
    assert not FORBIDDEN & set(DEFAULTS)


def test_what_a_session_tracks_must_be_there() -> None:
    rows = [row("autocommit"), row("session_track_system_variables")]
    tracked = tracked_variables(one.name for one in rows)
    definition = define(rows[1], tracked)
    for value in ("*", "", "autocommit", "AUTOCOMMIT, session_track_system_variables"):
        check_value(definition, value)
    for value in ("bogus", "autocommit,bogus", "autocommit,autocommit", "global.autocommit"):
        with pytest.raises(ApiError, match="Invalid parameter value"):
            check_value(definition, value)
