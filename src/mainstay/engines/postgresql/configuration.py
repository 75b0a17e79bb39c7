"""The files that a PostgreSQL node reads, as pure functions of its spec.

Settings that belong to Mainstay come last in postgresql.conf, so that no user parameter can override them.
"""

from __future__ import annotations

import pwd

from mainstay.engines.base import NodeFiles
from mainstay.engines.postgresql.quoting import setting
from mainstay.model.node import NodeSpec

ADMIN_ROLE = "rdsadmin"
CERTIFICATE_FILE = "server.crt"
KEY_FILE = "server.key"
CA_FILE = "ca.crt"


def render(spec: NodeSpec, files: NodeFiles, operators: tuple[str, ...]) -> dict[str, str]:
    """File name -> content. `operators` are the system users that may act as rdsadmin over the node's own socket."""
    return {
        "postgresql.conf": _postgresql_conf(spec, files),
        "pg_hba.conf": _pg_hba(spec),
        "pg_ident.conf": "".join(f"mainstay {user} {ADMIN_ROLE}\n" for user in operators),
        CERTIFICATE_FILE: spec.certificate.certificate_pem,
        KEY_FILE: spec.certificate.private_key_pem,
        CA_FILE: spec.certificate.ca_pem,
    }


def _postgresql_conf(spec: NodeSpec, files: NodeFiles) -> str:
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
        "wal_level": spec.parameters.get("wal_level", "replica"),
    }
    lines = ["# Written by Mainstay from the DB parameter group; changes made here are lost.\n"]
    lines += [f"{name} = {setting(value)}\n" for name, value in sorted(spec.parameters.items()) if name not in own]
    lines += [f"{name} = {setting(value)}\n" for name, value in own.items()]
    return "".join(lines)


def _pg_hba(spec: NodeSpec) -> str:
    """Client authentication (manual 21.1). No `trust` anywhere: other users of this machine can reach the address."""
    rows = [
        f"local   all          {ADMIN_ROLE}               peer map=mainstay",
        "local   all          all                         reject",
        f"host    all          {ADMIN_ROLE}  all           reject",
        "hostssl all          all          all            md5",
    ]
    if not spec.require_tls:
        rows.append("hostnossl all        all          all            md5")
    return "# Written by Mainstay.\n" + "\n".join(rows) + "\n"


def operators(user_ids: tuple[int, ...]) -> tuple[str, ...]:
    """Names of the system users with these ids, each once; ids without a name are left out."""
    names: dict[str, None] = {}
    for user_id in user_ids:
        try:
            names[pwd.getpwuid(user_id).pw_name] = None
        except KeyError:
            continue
    return tuple(names)
