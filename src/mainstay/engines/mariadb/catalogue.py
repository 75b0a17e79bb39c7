"""The parameters of a MariaDB build, asked of the engine itself and kept in a file beside the builds.

A scratch server is started once per build, on a private Unix socket only, and information_schema.SYSTEM_VARIABLES is
read from it. AWS's rules are laid over it: what RDS forbids, and its own defaults.
"""

from __future__ import annotations

from typing import Any

import msgspec

from mainstay.engines.builds import Builds
from mainstay.engines.kept_catalogue import KeptCatalogue, kept_rows
from mainstay.engines.mariadb.bootstrap import SHARE, bootstrap_command, bootstrap_script, server
from mainstay.engines.mysql_family.layout import arguments, place_options
from mainstay.engines.mysql_family.scratch import Scratch, ask
from mainstay.engines.mysql_family.switches import TRACKED, allowed_values, tracked_variables
from mainstay.model.engine import DYNAMIC, SOURCE_SYSTEM, STATIC, EngineBuild, ParameterDefinition

QUERY = (
    "SELECT VARIABLE_NAME, VARIABLE_TYPE, VARIABLE_SCOPE, READ_ONLY, DEFAULT_VALUE, NUMERIC_MIN_VALUE,"
    " NUMERIC_MAX_VALUE, ENUM_VALUE_LIST, VARIABLE_COMMENT, COMMAND_LINE_ARGUMENT"
    " FROM information_schema.SYSTEM_VARIABLES ORDER BY VARIABLE_NAME"
)
NUMBERS = {"INT", "INT UNSIGNED", "BIGINT", "BIGINT UNSIGNED"}

# What reaches outside the instance, or what Mainstay itself decides: RDS does not let users modify these either.
# With binlog_space_limit, which is max_binlog_total_size, the engine removes binary logs that are not stored yet.
FORBIDDEN = frozenset(
    """allow_suspicious_udfs aria_block_size aria_force_start_after_recovery_failures aria_log_dir_path
    back_log basedir bind_address binlog_expire_logs_seconds binlog_space_limit character_sets_dir core_file datadir
    expire_logs_days extra_port ft_stopword_file general_log_file ignore_builtin_innodb ignore_db_dirs
    init_file init_slave innodb_buffer_pool_filename innodb_data_file_path innodb_data_home_dir
    innodb_doublewrite innodb_force_recovery innodb_log_group_home_dir innodb_page_size innodb_read_only
    innodb_temp_data_file_path innodb_tmpdir innodb_undo_directory keep_files_on_create large_pages
    lc_messages_dir log_error log_slave_updates log_slow_query_file log_tc_size master_verify_checksum
    max_binlog_total_size old_mode
    pid_file plugin_dir plugin_maturity port proxy_protocol_networks read_only redirect_url relay_log
    relay_log_info_file relay_log_purge relay_log_recovery relay_log_space_limit report_host report_password
    report_port report_user secure_auth secure_file_priv secure_timestamp server_id skip_grant_tables
    skip_name_resolve skip_networking slave_load_tmpdir slave_domain_parallel_threads slave_parallel_max_queued
    slave_parallel_mode slave_parallel_threads slave_parallel_workers slave_connections_needed_for_purge
    slave_run_triggers_for_rbr slave_skip_errors slave_transaction_retry_errors slow_query_log_file socket
    sync_master_info sync_relay_log sync_relay_log_info system_versioning_insert_history
    thread_pool_dedicated_listener tls_version tmpdir""".split()
)
FORBIDDEN_PREFIXES = (
    "debug", "encrypt_", "feedback_", "gtid_", "innodb_debug", "innodb_encrypt", "replicate_", "rpl_semi_sync_", "ssl_",
    "version", "wsrep_",
)  # fmt: skip

# RDS has three quarters for every class. The engine takes some 420 MiB beside the pool with twenty sessions that write
# rows of 3 MiB: on 1 GiB the kernel ended it once the pool was full. As RDS's MySQL 8.4 has it: half of the memory up
# to 4 GiB, then all but what 4 GiB leave, until that is three quarters.
BUFFER_POOL = (
    "GREATEST({DBInstanceClassMemory/2},LEAST({DBInstanceClassMemory*3/4},{DBInstanceClassMemory-2080374784}))"
)

# RDS user guide, "MariaDB on Amazon RDS parameters": defaults that follow the class, and those that RDS has changed.
DEFAULTS = {
    "binlog_cache_size": "32768",
    "binlog_format": "MIXED",
    "innodb_buffer_pool_size": BUFFER_POOL,
    "innodb_flush_method": "O_DIRECT",
    "local_infile": "1",
    "log_output": "TABLE",
    "max_binlog_size": "134217728",
    "max_connections": "{DBInstanceClassMemory/12582880}",
    "require_secure_transport": "0",
    # With the engine's own 0 a power cut loses acknowledged commits: InnoDB takes back what the binary log lacks.
    "sync_binlog": "1",
}
# Narrower than the engine's own idea of what is valid: with anything else it would not start, or not in safety.
ALLOWED = {
    "event_scheduler": "OFF,ON",
    # RDS begins at 5242880, with which InnoDB does not start.
    "innodb_buffer_pool_size": "6291456-9223372036854775807",
    # The others are plugins, which a build does not have (packages.py): the engine would not start.
    "innodb_compression_algorithm": "none,zlib",
    "innodb_fast_shutdown": "0,1",
    "innodb_flush_method": "O_DIRECT,O_DSYNC,fsync",
    "lower_case_table_names": "0,1",
    "max_connections": "10-100000",
    # RDS begins at 8192, with which nobody can log in. With 1 MiB users can, but mariadb-backup cannot copy anything.
    "max_session_mem_used": "16777216-18446744073709551615",
    "thread_handling": "one-thread-per-connection,pool-of-threads",
    "time_zone": ",".join(f"{sign}{hour:02}:{minute:02}" for sign in "-+" for hour in range(13) for minute in (0, 30)),
}

# The name of the option where it is not that of the variable, which then says that there is none.
OPTION_NAMES = {
    "autocommit": "autocommit",
    "character_set_server": "character_set_server",
    "collation_server": "collation_server",
    "default_storage_engine": "default_storage_engine",
    "slave_parallel_mode": "slave_parallel_mode",
    "time_zone": "default_time_zone",
    "transaction_isolation": "transaction_isolation",
    "tx_isolation": "transaction_isolation",
}
CHOICES = {
    "character_set_server": "SELECT GROUP_CONCAT(CHARACTER_SET_NAME ORDER BY 1) FROM information_schema.CHARACTER_SETS",
    # COLLATIONS has "uca1400_ai_ci", for all character sets at once, with which the engine does not start.
    "collation_server": "SELECT GROUP_CONCAT(FULL_COLLATION_NAME ORDER BY 1)"
    " FROM information_schema.COLLATION_CHARACTER_SET_APPLICABILITY",
    "default_storage_engine": "SELECT 'InnoDB,MyISAM,Aria'",
}


class Row(msgspec.Struct, frozen=True):
    """One row of SYSTEM_VARIABLES, as QUERY reads it."""

    name: str
    kind: str
    scope: str
    read_only: str
    default: str | None
    smallest: str | None
    largest: str | None
    choices: str | None
    comment: str
    argument: str | None


class Catalogue(KeptCatalogue):
    """The catalogue of every build of this engine."""

    def _define(self, builds: Builds, build: EngineBuild) -> list[ParameterDefinition]:
        rows = kept_rows(builds, build, list[Row], ask_engine, asked=(QUERY, *CHOICES.values()))
        tracked = tracked_variables(row.name for row in rows)
        return [define(row, tracked) for row in rows if configurable(row)]


def ask_engine(build: EngineBuild, user_name: str) -> list[Row]:
    """Runs a scratch server of the build for a moment. Raises what `ask` raises."""
    sizes = ["--innodb-buffer-pool-size=16M", "--innodb-log-file-size=16M"]
    places = arguments(place_options(build, *SHARE))
    scratch = Scratch(
        make=bootstrap_command(build),
        script=bootstrap_script(build),
        serve=[server(build), "--no-defaults", *places, "--skip-networking", "--skip-grant-tables", *sizes],
    )
    return ask(build, user_name, scratch, _rows_of)


def _rows_of(cursor: Any) -> list[Row]:
    cursor.execute("SET group_concat_max_len = 1000000")
    choices = {}
    for name, query in CHOICES.items():
        cursor.execute(query)
        choices[name] = str(cursor.fetchone()[0])
    cursor.execute(QUERY)
    rows = [_row(row) for row in cursor.fetchall()]
    return [msgspec.structs.replace(row, choices=choices.get(row.name, row.choices)) for row in rows]


def _row(columns: tuple[Any, ...]) -> Row:
    texts = [None if value is None else str(value) for value in columns]
    name, *rest = texts
    return Row(str(name).lower(), *rest)  # type: ignore[arg-type]  # the columns of QUERY


def configurable(row: Row) -> bool:
    """Whether the variable may stand in an option file at all."""
    return (row.argument is not None or row.name in OPTION_NAMES) and row.scope != "SESSION ONLY"


def define(row: Row, tracked: str = "") -> ParameterDefinition:
    """The variable as a DB parameter, by RDS's rules. `tracked` is what the one that lists variables may list."""
    name = row.name
    forbidden = name in FORBIDDEN or name.startswith(FORBIDDEN_PREFIXES)
    return ParameterDefinition(
        name=name,
        data_type="list" if name == TRACKED else _data_type(row),
        apply_type=STATIC if row.read_only == "YES" else DYNAMIC,
        default=DEFAULTS.get(name, _literal(row)),
        allowed_values=tracked if name == TRACKED else _allowed(row),
        description=row.comment,
        is_modifiable=not forbidden,
        source=SOURCE_SYSTEM if name in DEFAULTS else "engine-default",
    )


def _data_type(row: Row) -> str:
    if row.kind in NUMBERS:
        return "integer"
    return {"BOOLEAN": "boolean", "DOUBLE": "float", "SET": "list", "FLAGSET": "list"}.get(row.kind, "string")


def _literal(row: Row) -> str:
    value = row.default or ""
    return {"ON": "1", "OFF": "0"}.get(value, value) if row.kind == "BOOLEAN" else value


def _allowed(row: Row) -> str:
    if row.name in ALLOWED:
        return ALLOWED[row.name]
    if row.kind == "BOOLEAN":
        return "0,1"
    if row.kind == "FLAGSET":
        return allowed_values((row.choices or "").split(","))
    if row.kind in ("ENUM", "SET") or row.name in CHOICES:
        return row.choices or ""
    if row.kind in NUMBERS or row.kind == "DOUBLE":
        return f"{row.smallest}-{row.largest}" if row.smallest is not None and row.largest is not None else ""
    return ""
