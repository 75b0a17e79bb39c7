"""Where a node of this family has its files, and the options that say so: the same for MariaDB and MySQL."""

from __future__ import annotations

import zlib
from pathlib import Path

from mainstay.engines.mysql_family.local_sessions import SOCKET
from mainstay.engines.mysql_family.trees import RELAY_LOG
from mainstay.engines.mysql_family.words import SEMI_SYNC_TIMEOUT_MS, Words
from mainstay.engines.node_files import NodeFiles
from mainstay.model.assignment import Assignment
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import Permanent
from mainstay.model.node import NodeRole, NodeSpec

OPTION_FILE = "my.cnf"
STARTUP_FILE = "startup.sql"
FOLLOWER_STARTUP_FILE = "startup-follower.sql"
FOLLOW_STATEMENTS_FILE = "follow.sql"
UPSTREAM_FILE = "upstream"
"""Of a standby only: the directory of its primary's socket."""

SOURCE_FILE = "source"
"""Of every follower: the directory of its source's socket."""

EVENTS_FILE = "events.json"
CERTIFICATE_FILE = "server.crt"
KEY_FILE = "server.key"
CA_FILE = "ca.crt"
ERROR_LOG = "mysql-error.log"
SLOW_LOG = "mysql-slowquery.log"
GENERAL_LOG = "mysql-general.log"
LOG_DIRECTORIES = ("error", "slowquery", "general")
BINLOG = "mysql-bin-changelog"

APPLIER_THREADS = 8
"""A failover lasts until the standby has applied what it had received: one thread would be minutes behind."""


def messages_directory(build: EngineBuild, *names: str) -> Path:
    """Where the build has its messages, character sets and SQL files: below the first of the names that is there."""
    for name in names:
        found = build.share_directory / name
        if (found / "charsets").is_dir():
            return found
    raise Permanent(f"{build.name} has no message files", hint="Remove its directory and install it again.")


def place_options(build: EngineBuild, *names: str) -> dict[str, str]:
    """Where the engine finds its own files: the paths compiled into it are those of the host's packages."""
    share = messages_directory(build, *names)
    return {
        "basedir": str(build.prefix / "usr"),
        "lc_messages_dir": str(share),
        "character_sets_dir": str(share / "charsets"),
        "plugin_dir": str(build.library_directory),
    }


def arguments(options: dict[str, str]) -> list[str]:
    """The options as they stand on a command line."""
    return [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]


def common_options(spec: NodeSpec, files: NodeFiles) -> dict[str, str]:
    """What no DB parameter group decides, and both engines call by the same name."""
    conf = files.configuration
    return {
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
        "relay_log": str(files.data / RELAY_LOG),
        "relay_log_index": str(files.data / f"{RELAY_LOG}.index"),
    }


def replication_options(spec: NodeSpec, assignment: Assignment, words: Words) -> dict[str, str]:
    """What depends on the node's role now. Whether it is read-only is told by its data, at its start (driver.py)."""
    source, follower = words.semi_sync, words.follower
    standby = assignment.role is NodeRole.STANDBY
    own = {
        f"{source}wait_point": "AFTER_SYNC",
        f"{source}wait_no_{follower}": "1",
        f"{source}timeout": str(SEMI_SYNC_TIMEOUT_MS),
        f"{source}enabled": "1" if assignment.synchronous_standby else "0",
        # A read replica must not acknowledge in the standby's place.
        f"rpl_semi_sync_{follower}_enabled": "1" if standby else "0",
        f"skip_{follower}_start": "1",
        "relay_log_recovery": "1",
        f"{follower}_net_timeout": "10",
    }
    if not assignment.writable:
        own["event_scheduler"] = "OFF"  # events run where the writes are
        if spec.parameters.get("binlog_format", "").upper() == "STATEMENT":
            own["binlog_format"] = "MIXED"  # else, told READ COMMITTED as well, it could not log what it applies
    if standby:
        own |= {"sync_binlog": "0", "innodb_flush_log_at_trx_commit": "2"}
        if assignment.acknowledges:
            # What it acknowledges is on the disk in the relay log; what it applies need not be, one by one, as well.
            # Forcing each transaction it receives as few as some hundred a second: while nobody waits for it, a busy
            # primary would be ahead of it for ever.
            own["sync_relay_log"] = "1"
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
