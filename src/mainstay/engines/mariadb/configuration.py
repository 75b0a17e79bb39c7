"""The files that a MariaDB node reads, as pure functions of its spec.

Settings that belong to Mainstay come last in my.cnf, so that no user parameter can override them.
"""

from __future__ import annotations

import zlib
from pathlib import Path

from mainstay.engines.mariadb.bootstrap import place_options, startup_script
from mainstay.engines.mariadb.catalogue import OPTION_NAMES
from mainstay.engines.mysql_family.option_file import render as render_options
from mainstay.engines.node_files import NodeFiles
from mainstay.model.assignment import Assignment
from mainstay.model.engine import EngineBuild
from mainstay.model.node import NodeRole, NodeSpec

OPTION_FILE = "my.cnf"
STARTUP_FILE = "startup.sql"
FOLLOWER_STARTUP_FILE = "startup-follower.sql"
FOLLOW_STATEMENTS_FILE = "follow.sql"
CERTIFICATE_FILE = "server.crt"
KEY_FILE = "server.key"
CA_FILE = "ca.crt"
SOCKET = "mysqld.sock"
ERROR_LOG = "mysql-error.log"
SLOW_LOG = "mysql-slowquery.log"
GENERAL_LOG = "mysql-general.log"
LOG_DIRECTORIES = ("error", "slowquery", "general")
BINLOG = "mysql-bin-changelog"

OURS = frozenset(
    """binlog_expire_logs_seconds expire_logs_days gtid_binlog_state gtid_slave_pos read_only general_log_file
    gtid_strict_mode init_file log_error log_slave_updates secure_file_priv server_id slow_query_log_file""".split()
)
"""Variables that `own_options` sets, or `startup_script`: a change of the parameters leaves them alone."""


SEMI_SYNC_TIMEOUT_MS = 4_294_967_295
"""Seven weeks: commits that wait for a standby are let go by the pair, which records it before, never by a clock."""

APPLIER_THREADS = 8
"""A failover lasts until the standby has applied what it had received: one thread would be minutes behind."""


def render(
    spec: NodeSpec,
    assignment: Assignment,
    files: NodeFiles,
    build: EngineBuild,
    operators: tuple[str, ...],
    follow: str,
) -> dict[str, str]:
    """File name -> content. `operators` are the system users that may act as administrators over the node's socket.

    `follow` is what makes a follower follow its source, "" for a node that follows nobody.
    """
    own = own_options(spec, files, build) | replication_options(spec, assignment)
    following = {} if not follow else {
        FOLLOWER_STARTUP_FILE: startup_script(operators) + follow,
        FOLLOW_STATEMENTS_FILE: follow,
    }  # fmt: skip
    return following | {
        OPTION_FILE: render_options("mariadbd", user_options(spec), own),
        STARTUP_FILE: startup_script(operators),
        CERTIFICATE_FILE: spec.certificate.certificate_pem,
        KEY_FILE: spec.certificate.private_key_pem,
        CA_FILE: spec.certificate.ca_pem,
    }


def user_options(spec: NodeSpec) -> dict[str, str]:
    """What the DB parameter group says, under the names that options have."""
    return {OPTION_NAMES.get(name, name): value for name, value in sorted(spec.parameters.items())}


def own_options(spec: NodeSpec, files: NodeFiles, build: EngineBuild) -> dict[str, str]:
    """What no DB parameter group decides."""
    conf = files.configuration
    return {
        **place_options(build),
        "datadir": str(files.data),
        "bind_address": spec.listen_address,
        "port": str(spec.port),
        "socket": str(files.sockets / SOCKET),
        "pid_file": str(files.data / "mysqld.pid"),
        "tmpdir": str(temporary(files)),
        "secure_file_priv": str(exchange(files)),
        "init_file": str(conf / STARTUP_FILE),
        "skip_name_resolve": "1",
        "ssl_ca": str(conf / CA_FILE),
        "ssl_cert": str(conf / CERTIFICATE_FILE),
        "ssl_key": str(conf / KEY_FILE),
        "require_secure_transport": "1" if spec.require_tls else "0",
        "log_error": str(files.logs / "error" / ERROR_LOG),
        "slow_query_log_file": str(files.logs / "slowquery" / SLOW_LOG),
        "general_log_file": str(files.logs / "general" / GENERAL_LOG),
        "log_bin": str(files.data / BINLOG),
        "log_bin_index": str(files.data / f"{BINLOG}.index"),
        "server_id": str(server_id(spec.node_id)),
        "gtid_strict_mode": "1",
        "log_slave_updates": "1",
        "relay_log": str(files.data / "relaylog"),
        "relay_log_index": str(files.data / "relaylog.index"),
        "symbolic_links": "0",
        "loose_wsrep_on": "0",
    }


def replication_options(spec: NodeSpec, assignment: Assignment) -> dict[str, str]:
    """What depends on the node's role now. Whether it is read-only is told by its data, at its start (driver.py)."""
    standby = assignment.role is NodeRole.STANDBY
    own = {
        "rpl_semi_sync_master_wait_point": "AFTER_SYNC",
        "rpl_semi_sync_master_wait_no_slave": "1",
        "rpl_semi_sync_master_timeout": str(SEMI_SYNC_TIMEOUT_MS),
        "rpl_semi_sync_master_enabled": "1" if assignment.synchronous_standby else "0",
        # A read replica must not acknowledge in the standby's place.
        "rpl_semi_sync_slave_enabled": "1" if standby else "0",
        "skip_slave_start": "1",
        "relay_log_recovery": "1",
        "slave_parallel_threads": str(APPLIER_THREADS),
        "slave_parallel_mode": "optimistic",
        "slave_parallel_max_queued": str(1 << 20),
        "slave_net_timeout": "10",
        "loose_slave_connections_needed_for_purge": "0",
    }
    if standby:
        # What it acknowledges is on the disk in the relay log; what it applies need not be, one by one, as well.
        own |= {"sync_relay_log": "1", "sync_binlog": "0", "innodb_flush_log_at_trx_commit": "2"}
    elif spec.peer is not None:
        own |= {"sync_binlog": "1", "innodb_flush_log_at_trx_commit": "1"}
    return own


def server_id(node_id: str) -> int:
    """A number for the node, 1 to 2^32-1, as replication wants one. The same one for ever, and hardly another's."""
    return zlib.crc32(node_id.encode()) or 1


def temporary(files: NodeFiles) -> Path:
    """Where the engine has its temporary files: on the volume, so that they count, and are encrypted with it."""
    return files.volume / "tmp"


def exchange(files: NodeFiles) -> Path:
    """The only directory that LOAD DATA INFILE and SELECT INTO OUTFILE could reach. Nothing is ever in it."""
    return files.volume / "exchange"
