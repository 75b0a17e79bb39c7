"""The settings of a MariaDB node that are Mainstay's own, as pure functions of its spec."""

from __future__ import annotations

from mainstay.engines.mariadb.bootstrap import SHARE
from mainstay.engines.mariadb.words import MARIADB_WORDS
from mainstay.engines.mysql_family import iam_logins, layout
from mainstay.engines.node_files import NodeFiles
from mainstay.model.assignment import Assignment
from mainstay.model.engine import EngineBuild
from mainstay.model.node import NodeSpec

OURS = frozenset(
    """binlog_expire_logs_seconds expire_logs_days gtid_binlog_state gtid_slave_pos read_only general_log_file
    gtid_strict_mode init_file log_error log_slave_updates secure_file_priv server_id slow_query_log_file""".split()
)
"""Variables that `own_options` sets, or `startup_script`: a change of the parameters leaves them alone."""


def own_options(spec: NodeSpec, assignment: Assignment, files: NodeFiles, build: EngineBuild) -> dict[str, str]:
    """What no DB parameter group decides."""
    return {
        **layout.place_options(build, *SHARE),
        **layout.common_options(spec, files),
        "gtid_strict_mode": "1",
        "log_slave_updates": "1",
        "symbolic_links": "0",
        "loose_wsrep_on": "0",
        **({"plugin_load_add": iam_logins.LOAD} if iam_logins.has_plugin(build) else {}),
        **replication_options(spec, assignment),
    }


def replication_options(spec: NodeSpec, assignment: Assignment) -> dict[str, str]:
    """What depends on the node's role now."""
    return layout.replication_options(spec, assignment, MARIADB_WORDS) | {
        "slave_parallel_threads": str(layout.APPLIER_THREADS),
        "slave_parallel_mode": "optimistic",
        "slave_parallel_max_queued": str(1 << 20),
        "loose_slave_connections_needed_for_purge": "0",
    }
