"""The parameters of a PostgreSQL build, asked of the engine itself and kept in a file beside the builds.

A scratch cluster is made and started once per build, on a private Unix socket only, and `pg_settings` is read from it
with the bundled libraries preloaded. AWS's rules are laid over it: what RDS forbids, its own defaults, its `rds.*`.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
import zoneinfo
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from mainstay.engines.builds import Builds
from mainstay.engines.kept_catalogue import KeptCatalogue, kept_rows
from mainstay.host.processes import SAFE_ENVIRONMENT, engine_user
from mainstay.model.engine import DYNAMIC, SOURCE_SYSTEM, STATIC, EngineBuild, ParameterDefinition
from mainstay.model.errors import Permanent, Transient

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
PRELOADABLE = ("pg_stat_statements", "auto_explain", "pgaudit")
QUERY = (
    "SELECT name, vartype, context, unit, min_val, max_val, enumvals, boot_val, short_desc, category"
    " FROM pg_settings"
    " ORDER BY name"
)
DATA_TYPES = {"bool": "boolean", "integer": "integer", "real": "float", "enum": "string", "string": "string"}
FORCE_SSL_DEFAULT_SINCE = 15

# What reaches outside the instance, or what Mainstay itself decides: RDS does not let users modify these either.
FORBIDDEN = frozenset(
    """allow_in_place_tablespaces allow_system_table_mods archive_cleanup_command archive_command archive_library
    archive_mode bonjour bonjour_name cluster_name config_file data_directory data_sync_retry dynamic_library_path
    event_source extension_control_path external_pid_file fsync full_page_writes hba_file hot_standby ident_file
    jit_provider krb_server_keyfile listen_addresses local_preload_libraries log_destination log_directory
    log_file_mode log_filename logging_collector oauth_validator_libraries port primary_conninfo primary_slot_name
    promote_trigger_file recovery_end_command recovery_init_sync_method recovery_target recovery_target_action
    recovery_target_inclusive recovery_target_lsn recovery_target_name recovery_target_time recovery_target_timeline
    recovery_target_xid restart_after_crash restore_command session_preload_libraries ssl ssl_ca_file ssl_cert_file
    ssl_crl_dir ssl_crl_file ssl_dh_params_file ssl_key_file ssl_passphrase_command
    ssl_passphrase_command_supports_reload stats_temp_directory synchronous_standby_names syslog_facility syslog_ident
    unix_socket_directories unix_socket_group unix_socket_permissions wal_level wal_sync_method zero_damaged_pages
    ignore_checksum_failure ignore_invalid_pages remove_temp_files_after_crash restrict_nonsystem_relation_kind
    dynamic_shared_memory_type extension_destdir krb_caseins_users log_rotation_age log_rotation_size
    log_truncate_on_rotation output_plugin_libraries recovery_min_apply_delay recovery_prefetch shared_memory_type
    superuser_reserved_connections
    summarize_wal sync_replication_slots synchronized_standby_slots temp_tablespaces""".split()
)

# For debugging the engine itself; some of these settings harm data.
FORBIDDEN_CATEGORY = "Developer Options"

# Narrower than the engine's own idea of what is valid: with anything else it would not start, or not in safety.
ALLOWED = {
    "createrole_self_grant": "set,inherit",
    "datestyle": "ISO,SQL,Postgres,German,DMY,MDY,YMD",
    "default_table_access_method": "heap",
    "max_stack_depth": "100-6144",
    "timezone_abbreviations": "Default,Australia,India",
} | dict.fromkeys(("lc_messages", "lc_monetary", "lc_numeric", "lc_time"), "C,C.UTF-8,POSIX")
LISTS = frozenset({"createrole_self_grant", "datestyle", "shared_preload_libraries"})
NOT_TIME_ZONES = frozenset({"Factory", "localtime", "posixrules"})

# RDS user guide, "Working with parameters on your RDS for PostgreSQL DB instance": defaults that follow the class.
DEFAULTS = {
    "max_connections": "LEAST({DBInstanceClassMemory/9531392},5000)",
    "shared_buffers": "{DBInstanceClassMemory/32768}",
    "effective_cache_size": "{DBInstanceClassMemory/16384}",
    "maintenance_work_mem": "GREATEST({DBInstanceClassMemory*1024/63963136},65536)",
    "autovacuum_max_workers": "GREATEST({DBInstanceClassMemory/64371566592},3)",
    "shared_preload_libraries": "pg_stat_statements",
    "password_encryption": "scram-sha-256",
    "log_line_prefix": "%t:%r:%u@%d:[%p]:",
    "log_timezone": "UTC",
    "timezone": "UTC",
}


class Row(msgspec.Struct, frozen=True):
    """One row of pg_settings, as QUERY reads it."""

    name: str
    vartype: str
    context: str
    unit: str | None
    min_val: str | None
    max_val: str | None
    enumvals: list[str] | None
    boot_val: str | None
    short_desc: str
    category: str


class Catalogue(KeptCatalogue):
    """The catalogue of every build of this engine."""

    def _define(self, builds: Builds, build: EngineBuild) -> list[ParameterDefinition]:
        rows, libraries = kept_rows(builds, build, list[Row], ask_engine), preloadable(build)
        return [*(define(row, libraries) for row in rows), *own_parameters(int(build.major))]


def ask_engine(build: EngineBuild, user_name: str) -> list[Row]:
    """Runs a scratch cluster of the build for a moment. Raises `Permanent` with its words if it does not start."""
    user = engine_user(user_name)
    scratch = Path(tempfile.mkdtemp(prefix="mainstay-catalogue-"))
    credentials: dict[str, Any] = {}
    if user.user_id is not None:
        credentials = {"user": user.user_id, "group": user.group_id, "extra_groups": []}
    user.give(scratch)
    env = {**SAFE_ENVIRONMENT, "TZ": "UTC", **build.environment}
    data, output = scratch / "data", scratch / "output"
    try:
        initdb = [str(build.bin_directory / "initdb"), "-D", str(data), "-U", "catalogue", "--auth=trust", "--no-sync"]
        done = subprocess.run(
            [*initdb, "--encoding=UTF8", "--locale=C.UTF-8"],
            env=env, cwd=scratch, capture_output=True, text=True, check=False, timeout=START_TIMEOUT_S, **credentials,
        )  # fmt: skip
        if done.returncode != 0:
            raise Permanent(f"initdb of {build.name} failed: {done.stderr.strip()[-500:]}")
        with output.open("wb") as log:
            server = subprocess.Popen(
                [str(build.bin_directory / "postgres"), "-D", str(data), "-c", "listen_addresses=",
                 "-c", f"unix_socket_directories={scratch}", "-c", "fsync=off", "-c", "max_connections=10",
                 "-c", f"shared_preload_libraries={','.join(preloadable(build))}"],
                env=env, cwd=scratch, stdout=log, stderr=log, **credentials,
            )  # fmt: skip
        try:
            return _read_settings(server, scratch, output)
        finally:
            _stop(server)
    except subprocess.TimeoutExpired as error:
        raise Transient(f"initdb of {build.name} took longer than {START_TIMEOUT_S:.0f} s") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def preloadable(build: EngineBuild) -> tuple[str, ...]:
    """What may stand in shared_preload_libraries: the vetted libraries that the build has."""
    return tuple(name for name in PRELOADABLE if (build.library_directory / f"{name}.so").exists())


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.send_signal(signal.SIGINT)
    try:
        server.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _read_settings(server: subprocess.Popen[bytes], scratch: Path, output: Path) -> list[Row]:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            with psycopg.connect(
                host=str(scratch), user="catalogue", dbname="postgres", connect_timeout=5
            ) as connection:
                return [Row(*row) for row in connection.execute(QUERY)]
        except psycopg.OperationalError as error:
            if server.poll() is not None or time.monotonic() > deadline:
                said = output.read_text(errors="replace").strip()[-500:]
                raise Permanent(f"the engine did not start: {said}") from error
            time.sleep(0.02)


def define(row: Row, libraries: tuple[str, ...] = PRELOADABLE) -> ParameterDefinition:
    """The row as a DB parameter, by RDS's rules; `libraries` are those that may be preloaded."""
    name = row.name.lower()  # RDS writes timezone where pg_settings has TimeZone
    forbidden = name in FORBIDDEN or row.category == FORBIDDEN_CATEGORY or row.context == "internal"
    return ParameterDefinition(
        name=name,
        data_type="list" if name in LISTS else DATA_TYPES[row.vartype],
        apply_type=STATIC if row.context in ("postmaster", "internal") else DYNAMIC,
        default=DEFAULTS.get(name, _literal(row, row.boot_val or "")),
        allowed_values=_allowed(name, row, libraries),
        description=row.short_desc,
        unit=row.unit or "",
        is_modifiable=not forbidden,
        source=SOURCE_SYSTEM if name in DEFAULTS else "engine-default",
    )


def _literal(row: Row, value: str) -> str:
    return {"on": "1", "off": "0"}.get(value, value) if row.vartype == "bool" else value


def _allowed(name: str, row: Row, libraries: tuple[str, ...]) -> str:
    if name == "shared_preload_libraries":
        return ",".join(libraries)
    if name in ALLOWED:
        return ALLOWED[name]
    if name in ("timezone", "log_timezone"):
        return ",".join(sorted(zoneinfo.available_timezones() - NOT_TIME_ZONES))
    if row.vartype == "bool":
        return "0,1"
    if row.vartype == "enum":
        return ",".join(row.enumvals or ())
    if row.vartype in ("integer", "real") and row.min_val is not None and row.max_val is not None:
        return f"{row.min_val}-{row.max_val}"
    return ""


def own_parameters(major: int) -> tuple[ParameterDefinition, ...]:
    """The `rds.*` parameters that Mainstay implements itself."""

    def switch(name: str, default: str, apply_type: str, description: str) -> ParameterDefinition:
        return ParameterDefinition(
            name=name, data_type="boolean", apply_type=apply_type, default=default, allowed_values="0,1",
            description=description, source=SOURCE_SYSTEM,
        )  # fmt: skip

    return (
        switch("rds.force_ssl", str(int(major >= FORCE_SSL_DEFAULT_SINCE)), DYNAMIC, "Refuse connections without TLS."),
        switch("rds.logical_replication", "0", STATIC, "Set wal_level to logical."),
        ParameterDefinition(
            name="rds.accepted_password_auth_method",
            data_type="string",
            apply_type=DYNAMIC,
            default="md5+scram",
            allowed_values="md5+scram,scram",
            source=SOURCE_SYSTEM,
            description="Which forms of stored passwords may log in.",
        ),
        ParameterDefinition(
            name="rds.log_retention_period",
            data_type="integer",
            apply_type=DYNAMIC,
            default="4320",
            allowed_values="1440-10080",
            unit="min",
            source=SOURCE_SYSTEM,
            description="How long log files are kept, in minutes.",
        ),
    )
