"""The parameters of a MySQL build: what the engine says of its variables, with AWS's rules laid over it: what RDS
forbids, and its own defaults. How the engine is asked is in asking.py.
"""

from __future__ import annotations

from mainstay.engines.builds import Builds
from mainstay.engines.kept_catalogue import KeptCatalogue, kept_rows
from mainstay.engines.mysql.asking import HELP_LINE, METADATA, VARIABLES, Row, ask_engine
from mainstay.engines.mysql_family.switches import TRACKED, allowed_values, switches_of, tracked_variables
from mainstay.model.engine import (
    DYNAMIC,
    SOURCE_ENGINE_DEFAULT,
    SOURCE_SYSTEM,
    STATIC,
    EngineBuild,
    ParameterDefinition,
)

# What reaches outside the instance, or what Mainstay itself decides: RDS does not let users modify these either.
# With binlog_error_action the engine may go on without its log, which the standby follows; with transaction_read_only a
# follower cannot apply anything; server_id_bits makes the ids of nodes invalid.
FORBIDDEN = frozenset(
    """authentication_policy auto_generate_certs back_log basedir bind_address binlog_encryption binlog_error_action
    binlog_expire_logs_auto_purge binlog_expire_logs_seconds binlog_row_value_options build_id character_sets_dir
    check_proxy_users connection_memory_limit core_file create_admin_listener_thread datadir
    default_table_encryption disabled_storage_engines
    enforce_gtid_consistency expire_logs_days ft_stopword_file general_log_file init_file
    init_replica init_slave innodb_buffer_pool_filename innodb_buffer_pool_in_core_file innodb_data_file_path
    innodb_data_home_dir innodb_dedicated_server innodb_directories innodb_doublewrite innodb_doublewrite_dir
    innodb_fast_shutdown innodb_force_load_corrupted innodb_force_recovery innodb_log_group_home_dir
    innodb_page_size innodb_read_only innodb_redo_log_archive_dirs innodb_redo_log_encrypt
    innodb_temp_data_file_path innodb_temp_tablespaces_dir innodb_tmpdir innodb_undo_directory
    innodb_undo_log_encrypt innodb_undo_tablespaces keep_files_on_create large_pages lc_messages_dir
    log_bin log_bin_basename log_bin_index log_replica_updates log_slave_updates lower_case_table_names
    mandatory_roles master_verify_checksum offline_mode partial_revokes persisted_globals_load pid_file plugin_dir
    port read_only replication_optimize_for_static_plugin_config require_row_format secure_file_priv server_id
    server_id_bits server_uuid set_operations_buffer_size skip_grant_tables skip_name_resolve skip_networking
    skip_replica_start skip_slave_start slow_query_log_file socket source_verify_checksum super_read_only
    sync_master_info sync_relay_log sync_relay_log_info sync_source_info table_encryption_privilege_check
    thread_handling tmpdir transaction_read_only upgrade""".split()
)
FORBIDDEN_PREFIXES = (
    "admin_", "caching_sha2_", "clone_", "debug", "group_replication", "gtid_", "immediate_server_version", "keyring",
    "log_error", "mysqlx", "named_pipe", "ndb", "original_", "persist_", "relay_log", "replica_", "report_", "rpl_",
    "sha256_password", "shared_memory", "slave_", "ssl_", "system_time", "telemetry", "tls_", "version",
)  # fmt: skip

# RDS user guide, "Configuring buffer pool size … in MySQL 8.4": half of the memory up to 4 GiB, three quarters beyond.
# The engine takes some 250 MiB beside the pool and tens for a session that writes large rows: with three quarters of
# 1 GiB the kernel ended it as soon as the pool was full. It rounds up to whole chunks of 128 MiB, so half is cut to
# such. What is subtracted is what 4 GiB leave: beyond that three quarters leave more.
BUFFER_POOL = (
    "GREATEST({DBInstanceClassMemory/268435456*134217728},"
    "LEAST({DBInstanceClassMemory*3/4},{DBInstanceClassMemory-2080374784}))"
)

# RDS user guide, "Parameters for MySQL": defaults that follow the class, and those that RDS has changed.
DEFAULTS = {
    "innodb_buffer_pool_size": BUFFER_POOL,
    "innodb_flush_method": "O_DIRECT",
    "local_infile": "1",
    "log_output": "TABLE",
    "max_connections": "{DBInstanceClassMemory/12582880}",
    "performance_schema": "0",
    "require_secure_transport": "0",
}
# Narrower than the engine's own idea of what is valid: with anything else it would not start, or not in safety.
ALLOWED = {
    "event_scheduler": "OFF,ON",
    "default_storage_engine": "InnoDB",
    "default_tmp_storage_engine": "InnoDB,MEMORY",
    "innodb_buffer_pool_size": "5242880-9223372036854775807",
    "innodb_change_buffering": "none,inserts,deletes,changes,purges,all",
    "innodb_checksum_algorithm": "crc32,strict_crc32",
    "innodb_default_row_format": "redundant,compact,dynamic",
    "innodb_flush_method": "O_DIRECT,O_DIRECT_NO_FSYNC,O_DSYNC,fsync",
    "innodb_stats_method": "nulls_equal,nulls_unequal,nulls_ignored",
    "long_query_time": "0-31536000",
    "max_allowed_packet": "2097152-1073741824",  # with less there is no CLONE: no copy, no backup
    "max_connections": "10-100000",
    "myisam_stats_method": "nulls_unequal,nulls_equal,nulls_ignored",
    "thread_stack": "262144-18446744073709550592",  # with 131072, its own least, it cannot run a procedure of ours
    "time_zone": ",".join(f"{sign}{hour:02}:{minute:02}" for sign in "-+" for hour in range(13) for minute in (0, 30)),
}

NO_OPTIONS = frozenset(
    """character_set_client character_set_connection character_set_database character_set_results
    collation_connection collation_database default_collation_for_utf8mb4 foreign_key_checks gtid_next identity
    init_connect insert_id last_insert_id optimizer_trace profiling pseudo_thread_id rand_seed1 rand_seed2
    resultset_metadata sql_auto_is_null sql_big_selects sql_buffer_result sql_log_bin sql_log_off sql_notes
    sql_quote_show_create sql_safe_updates sql_select_limit sql_warnings timestamp unique_checks
    use_secondary_engine""".split()
)
"""Variables of sessions that can be tracked, though no option has their name."""


class Catalogue(KeptCatalogue):
    """The catalogue of every build of this engine."""

    def _define(self, builds: Builds, build: EngineBuild) -> list[ParameterDefinition]:
        rows = kept_rows(builds, build, list[Row], ask_engine, asked=(VARIABLES, METADATA, HELP_LINE.pattern))
        tracked = tracked_variables({row.name for row in rows} | NO_OPTIONS)
        return [define(row, tracked) for row in rows]


def define(row: Row, tracked: str = "") -> ParameterDefinition:
    """The variable as a DB parameter, by RDS's rules. `tracked` is what the one that lists variables may list."""
    name = row.name
    is_list = name == TRACKED or bool(switches_of(row.default))
    forbidden = name in FORBIDDEN or name.startswith(FORBIDDEN_PREFIXES)
    return ParameterDefinition(
        name=name,
        data_type="list" if is_list else {"enum": "string", "set": "list"}.get(row.kind, row.kind),
        apply_type=STATIC if row.static else DYNAMIC,
        default=DEFAULTS.get(name, row.default),
        allowed_values=tracked if name == TRACKED else _allowed(row),
        description=row.comment,
        is_modifiable=not forbidden,
        source=SOURCE_SYSTEM if name in DEFAULTS else SOURCE_ENGINE_DEFAULT,
    )


def _allowed(row: Row) -> str:
    if row.name in ALLOWED:
        return ALLOWED[row.name]
    if row.kind == "boolean":
        return "0,1"
    if row.kind in ("integer", "float"):
        return f"{row.smallest}-{row.largest}" if row.largest not in ("", "0") else ""
    if switches := switches_of(row.default):
        return allowed_values(switches)
    return row.choices
