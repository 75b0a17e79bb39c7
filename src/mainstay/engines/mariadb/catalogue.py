"""The parameters of a MariaDB build, asked of the engine itself and kept in a file beside the builds.

A scratch server is started once per build, on a private Unix socket only, and information_schema.SYSTEM_VARIABLES is
read from it. AWS's rules are laid over it: what RDS forbids, and its own defaults.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import pymysql

from mainstay.engines.builds import Builds
from mainstay.engines.kept_catalogue import kept_rows
from mainstay.engines.mariadb.bootstrap import bootstrap_command, bootstrap_script, place_options, server
from mainstay.engines.mysql_family.sessions import message_of
from mainstay.host.processes import SAFE_ENVIRONMENT, User, engine_user
from mainstay.model.engine import DYNAMIC, SOURCE_SYSTEM, STATIC, EngineBuild, ParameterDefinition
from mainstay.model.errors import Permanent, Transient

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
QUERY = (
    "SELECT VARIABLE_NAME, VARIABLE_TYPE, VARIABLE_SCOPE, READ_ONLY, DEFAULT_VALUE, NUMERIC_MIN_VALUE,"
    " NUMERIC_MAX_VALUE, ENUM_VALUE_LIST, VARIABLE_COMMENT, COMMAND_LINE_ARGUMENT"
    " FROM information_schema.SYSTEM_VARIABLES ORDER BY VARIABLE_NAME"
)
NUMBERS = {"INT", "INT UNSIGNED", "BIGINT", "BIGINT UNSIGNED"}

# What reaches outside the instance, or what Mainstay itself decides: RDS does not let users modify these either.
FORBIDDEN = frozenset(
    """allow_suspicious_udfs aria_block_size aria_force_start_after_recovery_failures aria_log_dir_path
    back_log basedir bind_address binlog_expire_logs_seconds character_sets_dir core_file datadir
    expire_logs_days extra_port ft_stopword_file general_log_file ignore_builtin_innodb ignore_db_dirs
    init_file init_slave innodb_buffer_pool_filename innodb_data_file_path innodb_data_home_dir
    innodb_doublewrite innodb_force_recovery innodb_log_group_home_dir innodb_page_size innodb_read_only
    innodb_temp_data_file_path innodb_tmpdir innodb_undo_directory keep_files_on_create large_pages
    lc_messages_dir log_error log_slave_updates log_slow_query_file log_tc_size master_verify_checksum old_mode
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

# RDS user guide, "MariaDB on Amazon RDS parameters": defaults that follow the class, and those that RDS has changed.
DEFAULTS = {
    "binlog_cache_size": "32768",
    "binlog_format": "MIXED",
    "innodb_buffer_pool_size": "{DBInstanceClassMemory*3/4}",
    "innodb_flush_method": "O_DIRECT",
    "local_infile": "1",
    "log_output": "TABLE",
    "max_binlog_size": "134217728",
    "max_connections": "{DBInstanceClassMemory/12582880}",
    "require_secure_transport": "0",
}
# Narrower than the engine's own idea of what is valid: with anything else it would not start, or not in safety.
ALLOWED = {
    "event_scheduler": "OFF,ON",
    "innodb_buffer_pool_size": "5242880-9223372036854775807",
    "innodb_fast_shutdown": "0,1",
    "innodb_flush_method": "O_DIRECT,O_DSYNC,fsync",
    "lower_case_table_names": "0,1",
    "max_connections": "10-100000",
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
    "collation_server": "SELECT GROUP_CONCAT(COLLATION_NAME ORDER BY 1) FROM information_schema.COLLATIONS",
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


class Catalogue:
    """Parameter definitions by build, read once."""

    def __init__(self, builds: Builds) -> None:
        self._builds = builds
        self._known: dict[tuple[str, str], dict[str, ParameterDefinition]] = {}

    def definitions(self, build: EngineBuild) -> dict[str, ParameterDefinition]:
        """Every parameter by name. The first call for a build takes seconds; later ones nothing."""
        key = (build.name, str(build.prefix))
        if key not in self._known:
            found = {row.name: define(row) for row in self._rows(build) if configurable(row)}
            self._known[key] = dict(sorted(found.items()))
        return self._known[key]

    def _rows(self, build: EngineBuild) -> list[Row]:
        return kept_rows(self._builds, build, list[Row], ask_engine)


def ask_engine(build: EngineBuild, user_name: str) -> list[Row]:
    """Runs a scratch server of the build for a moment. Raises `Permanent` with its words if it does not start."""
    user = engine_user(user_name)
    scratch = Path(tempfile.mkdtemp(prefix="mainstay-catalogue-"))
    data, output, socket_path = scratch / "data", scratch / "output", scratch / "socket"
    try:
        data.mkdir(mode=0o700)
        for path in (scratch, data):
            user.give(path)
        done = subprocess.run(
            bootstrap_command(build, data), input=bootstrap_script(build), capture_output=True, check=False,
            timeout=START_TIMEOUT_S, **_as_user(user, build, scratch),
        )  # fmt: skip
        if done.returncode != 0:
            raise Permanent(f"{build.name} did not bootstrap: {done.stderr.decode(errors='replace').strip()[-500:]}")
        options = [f"--{name.replace('_', '-')}={value}" for name, value in place_options(build).items()]
        with output.open("wb") as log:
            running = subprocess.Popen(
                [server(build), "--no-defaults", f"--datadir={data}", *options, "--skip-networking",
                 "--skip-grant-tables", f"--socket={socket_path}", "--innodb-buffer-pool-size=16M",
                 "--innodb-log-file-size=16M"],
                stdout=log, stderr=log, **_as_user(user, build, scratch),
            )  # fmt: skip
        try:
            return _read_variables(running, socket_path, output)
        finally:
            _stop(running)
    except subprocess.TimeoutExpired as error:
        raise Transient(f"the bootstrap of {build.name} took longer than {START_TIMEOUT_S:.0f} s") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _as_user(user: User, build: EngineBuild, directory: Path) -> dict[str, Any]:
    credentials: dict[str, Any] = {"env": {**SAFE_ENVIRONMENT, "TZ": "UTC", **build.environment}, "cwd": directory}
    if user.user_id is not None:
        credentials |= {"user": user.user_id, "group": user.group_id, "extra_groups": []}
    return credentials


def _stop(running: subprocess.Popen[bytes]) -> None:
    running.terminate()
    try:
        running.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        running.kill()
        running.wait()


def _read_variables(running: subprocess.Popen[bytes], socket_path: Path, output: Path) -> list[Row]:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            with pymysql.connect(unix_socket=str(socket_path), user="root", ssl_disabled=True) as connection:
                with connection.cursor() as cursor:
                    return _rows_of(cursor)
        except pymysql.err.MySQLError as error:
            if running.poll() is not None or time.monotonic() > deadline:
                said = output.read_text(errors="replace").strip()[-500:]
                raise Permanent(f"the engine did not start: {message_of(error)}: {said}") from error
            time.sleep(0.02)


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


def define(row: Row) -> ParameterDefinition:
    """The variable as a DB parameter, by RDS's rules."""
    name = row.name
    forbidden = name in FORBIDDEN or name.startswith(FORBIDDEN_PREFIXES)
    return ParameterDefinition(
        name=name,
        data_type=_data_type(row),
        apply_type=STATIC if row.read_only == "YES" else DYNAMIC,
        default=DEFAULTS.get(name, _literal(row)),
        allowed_values=_allowed(row),
        description=row.comment,
        is_modifiable=not forbidden,
        source=SOURCE_SYSTEM if name in DEFAULTS else "engine-default",
    )


def _data_type(row: Row) -> str:
    if row.kind in NUMBERS:
        return "integer"
    return {"BOOLEAN": "boolean", "DOUBLE": "float", "SET": "list"}.get(row.kind, "string")


def _literal(row: Row) -> str:
    value = row.default or ""
    return {"ON": "1", "OFF": "0"}.get(value, value) if row.kind == "BOOLEAN" else value


def _allowed(row: Row) -> str:
    if row.name in ALLOWED:
        return ALLOWED[row.name]
    if row.kind == "BOOLEAN":
        return "0,1"
    if row.kind in ("ENUM", "SET") or row.name in CHOICES:
        return row.choices or ""
    if row.kind in NUMBERS or row.kind == "DOUBLE":
        return f"{row.smallest}-{row.largest}" if row.smallest is not None and row.largest is not None else ""
    return ""
