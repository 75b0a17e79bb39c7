"""The settings of a MySQL node that are Mainstay's own, as pure functions of its spec."""

from __future__ import annotations

from mainstay.engines.mysql.bootstrap import SHARE
from mainstay.engines.mysql.words import MYSQL_WORDS
from mainstay.engines.mysql_family import iam_logins, layout
from mainstay.engines.node_files import NodeFiles
from mainstay.model.assignment import Assignment
from mainstay.model.engine import EngineBuild
from mainstay.model.node import NodeSpec

OURS = frozenset(
    """binlog_expire_logs_seconds enforce_gtid_consistency general_log_file init_file log_error log_replica_updates
    offline_mode partial_revokes persisted_globals_load read_only secure_file_priv server_id slow_query_log_file
    super_read_only""".split()
)
"""Variables that `own_options` sets, or `startup_script`: a change of the parameters leaves them alone."""

PLUGIN_LOAD = (
    "auth_socket=auth_socket.so;rpl_semi_sync_source=semisync_source.so;rpl_semi_sync_replica=semisync_replica.so;"
    "clone=mysql_clone.so"
)


def own_options(spec: NodeSpec, assignment: Assignment, files: NodeFiles, build: EngineBuild) -> dict[str, str]:
    """What no DB parameter group decides."""
    return {
        **layout.place_options(build, *SHARE),
        **layout.common_options(spec, files),
        "plugin_load": f"{PLUGIN_LOAD};{iam_logins.LOAD}" if iam_logins.has_plugin(build) else PLUGIN_LOAD,
        "mysqlx": "0",
        # No copy of a running MySQL has rows of any table but InnoDB's: not a follower's, not a backup's.
        "disabled_storage_engines": "MyISAM,ARCHIVE",
        "partial_revokes": "1",
        "persisted_globals_load": "0",
        "auto_generate_certs": "0",
        "gtid_mode": "ON",
        "enforce_gtid_consistency": "ON",
        "log_replica_updates": "1",
        **replication_options(spec, assignment),
    }


def replication_options(spec: NodeSpec, assignment: Assignment) -> dict[str, str]:
    """What depends on the node's role now."""
    return layout.replication_options(spec, assignment, MYSQL_WORDS) | {
        "replica_parallel_workers": str(layout.APPLIER_THREADS),
        "replica_preserve_commit_order": "1",
        "rpl_semi_sync_source_wait_for_replica_count": "1",
    }
