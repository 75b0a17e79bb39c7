"""The files that a PostgreSQL node reads, as pure functions of its spec.

Settings that belong to Mainstay come last in postgresql.conf, so that no user parameter can override them.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from mainstay.engines.node_files import NodeFiles
from mainstay.engines.postgresql import iam_logins
from mainstay.engines.postgresql.quoting import setting
from mainstay.model.assignment import Assignment, Upstream
from mainstay.model.node import NodeRole, NodeSpec

ADMIN_ROLE = "rdsadmin"
CERTIFICATE_FILE = "server.crt"
KEY_FILE = "server.key"
CA_FILE = "ca.crt"
FETCH_SCRIPT = "fetch-log"
FETCH_PATIENCE_S = 600
PASSING_FILE = "passing.conf"
"""Settings of a moment, which end with it: see standby_files.py. Empty again whenever the configuration is written."""


WAL_SENDERS_MIN = 40
"""Fifteen replicas and a standby, each perhaps being copied with two connections, and room for the users' own."""

WAL_KEPT_MB = 512
"""What a follower may miss before it must be copied anew. They have no slots: a dead one can never fill the disk."""

REPLICATION_SLOTS_MIN = 14
"""The archive's one, backups that are being taken, and room for the users' own."""

AT_LEAST_AS_SOURCE = (
    "max_connections", "max_worker_processes", "max_wal_senders", "max_prepared_transactions",
    "max_locks_per_transaction",
)  # fmt: skip
"""A follower that takes queries stops if one of these is lower than its source's (manual 26.4.3)."""


def render(
    spec: NodeSpec,
    assignment: Assignment,
    files: NodeFiles,
    operators: tuple[str, ...],
    floors: Mapping[str, int],
) -> dict[str, str]:
    """File name -> content. `operators` are the system users that may act as rdsadmin over the node's own socket.

    `floors` are what a follower's source has of `AT_LEAST_AS_SOURCE`.
    """
    restoring = {} if spec.restore is None else {FETCH_SCRIPT: _fetch_script(files)}
    return restoring | {
        "postgresql.conf": _postgresql_conf(spec, assignment, files, floors),
        PASSING_FILE: "",
        "pg_hba.conf": _pg_hba(spec),
        **iam_logins.lists(files),
        "pg_ident.conf": "".join(f"mainstay {user} {ADMIN_ROLE}\n" for user in operators),
        CERTIFICATE_FILE: spec.certificate.certificate_pem,
        KEY_FILE: spec.certificate.private_key_pem,
        CA_FILE: spec.certificate.ca_pem,
    }


def connection_string(upstream: Upstream, node_id: str) -> str:
    """How a follower reaches its upstream: over the Unix socket, as rdsadmin, with no secret to keep."""
    return f"host={upstream.host} port={upstream.port} user={ADMIN_ROLE} application_name={node_id}"


def _replication(spec: NodeSpec, assignment: Assignment, floors: Mapping[str, int]) -> dict[str, str]:
    wanted = spec.parameters
    own = {
        "wal_level": wanted.get("wal_level", "replica"),
        "max_replication_slots": str(max(int(wanted.get("max_replication_slots", 0)), REPLICATION_SLOTS_MIN)),
        "max_wal_senders": str(max(int(wanted.get("max_wal_senders", 0)), WAL_SENDERS_MIN)),
        "synchronous_standby_names": "",
        "hot_standby": "off" if assignment.role is NodeRole.STANDBY else "on",
        "wal_receiver_status_interval": "1s",
        "wal_receiver_timeout": "10s",
        "wal_retrieve_retry_interval": "300ms",
        "recovery_target_timeline": "latest",
    }
    if spec.peer is not None or spec.followed:
        own["wal_keep_size"] = str(max(int(wanted.get("wal_keep_size", 0)), WAL_KEPT_MB))
    if assignment.upstream is not None:
        own["primary_conninfo"] = connection_string(assignment.upstream, spec.node_id)
    for name, floor in floors.items():
        own[name] = str(max(int(own.get(name, wanted.get(name, 0))), floor))
    if assignment.synchronous_standby:
        own["synchronous_standby_names"] = f'FIRST 1 ("{assignment.synchronous_standby}")'
        # After a crash of one server process PostgreSQL would show, on its own, commits that the standby never got.
        own["restart_after_crash"] = "off"
        if wanted.get("synchronous_commit", "on") in ("local", "remote_write"):
            own["synchronous_commit"] = "on"
    return own


def _postgresql_conf(spec: NodeSpec, assignment: Assignment, files: NodeFiles, floors: Mapping[str, int]) -> str:
    conf = files.configuration
    own = {
        "listen_addresses": spec.listen_address,
        "port": str(spec.port),
        "unix_socket_directories": str(files.sockets),
        "unix_socket_permissions": "0700",
        "hba_file": str(conf / "pg_hba.conf"),
        "ident_file": str(conf / "pg_ident.conf"),
        "ssl": "on",
        "ssl_cert_file": str(conf / CERTIFICATE_FILE),
        "ssl_key_file": str(conf / KEY_FILE),
        "logging_collector": "on",
        "log_directory": str(files.logs / "error"),
        "log_filename": "postgresql.log.%Y-%m-%d-%H",
        "log_file_mode": "0640",
        "log_rotation_age": "60",
        "cluster_name": spec.db_instance_identifier,
        "fsync": "on",
        "full_page_writes": "on",
        "restart_after_crash": "on",
        **_replication(spec, assignment, floors),
    }
    lines = ["# Written by Mainstay from the DB parameter group; changes made here are lost.\n"]
    lines += [f"{name} = {setting(value)}\n" for name, value in sorted(spec.parameters.items()) if name not in own]
    lines += [f"{name} = {setting(value)}\n" for name, value in own.items()]
    lines.append(f"include_if_exists = {setting(str(conf / PASSING_FILE))}\n")
    return "".join(lines)


def _pg_hba(spec: NodeSpec) -> str:
    """Client authentication (manual 21.1). No `trust` anywhere: other users of this machine can reach the address."""
    password = password_method(spec)
    rows = [
        f"local   all          {ADMIN_ROLE}               peer map=mainstay",
        f"local   replication  {ADMIN_ROLE}               peer map=mainstay",
        f"local   all          all                         {password}",
        f"host    all          {ADMIN_ROLE}  all           reject",
    ]
    if spec.iam_login_port:
        rows += iam_logins.hba_rows(spec, password)
    rows.append(f"hostssl all          all          all            {password}")
    if not spec.require_tls:
        rows.append(f"hostnossl all        all          all            {password}")
    return "# Written by Mainstay.\n" + "\n".join(rows) + "\n"


def password_method(spec: NodeSpec) -> str:
    """What pg_hba.conf says of passwords: "md5" takes verifiers of both kinds (manual 21.5)."""
    return "scram-sha-256" if spec.refuses_old_passwords else "md5"


def _fetch_script(files: NodeFiles) -> str:
    """What restore_command runs (manual 25.3.5): the agent is asked for a file by another one, and answers likewise.

    Statuses above 125 end the recovery, 1 says that the archive has no such file. An agent that does not serve yet, or
    not any more, is waited for: it makes the directory of requests when it begins, perhaps after the engine has asked,
    and one that begins anew may know nothing of what was asked before.
    """
    return f"""#!/bin/sh
# Written by Mainstay. $1 is the wanted file of the archive, $2 where it is to be.
file={shlex.quote(str(files.restoring))}/"$1"
looks=0
while [ "$looks" -lt {FETCH_PATIENCE_S * 100} ]; do
  if [ -e "$file.ready" ]; then rm -f "$file.wanted"; mv -f "$file.ready" "$2" && exit 0; exit 255; fi
  if [ -e "$file.absent" ]; then rm -f "$file.wanted"; rm -f "$file.absent"; exit 1; fi
  if [ -e "$file.failed" ]; then rm -f "$file.wanted"; rm -f "$file.failed"; exit 255; fi
  [ -e "$file.wanted" ] || {{ true > "$file.wanted"; }} 2> /dev/null
  sleep 0.01
  looks=$((looks + 1))
done
exit 255
"""
