"""The settings of a MariaDB node that are Mainstay's own, as pure functions of its spec."""

from __future__ import annotations

from mainstay.engines.mariadb import audit
from mainstay.engines.mariadb.bootstrap import SHARE
from mainstay.engines.mariadb.words import MARIADB_WORDS
from mainstay.engines.mysql_family import iam_logins, layout
from mainstay.engines.node_files import NodeFiles
from mainstay.model.assignment import Assignment
from mainstay.model.engine import EngineBuild
from mainstay.model.node import NodeSpec

OURS = frozenset(
    """binlog_expire_logs_seconds binlog_space_limit expire_logs_days gtid_binlog_state gtid_slave_pos read_only
    general_log_file gtid_strict_mode init_file log_error log_slave_updates secure_file_priv server_id
    slow_query_log_file""".split()
)
"""Variables that `own_options` sets, or `startup_script`: a change of the parameters leaves them alone."""

LOGIN_PLUGINS = ("auth_ed25519.so", "auth_parsec.so")
"""Ways to log in that clients know, as far as the build has them. What users load themselves (INSTALL SONAME) is not
replicated: after a failover those who log in by it would be shut out."""


def own_options(spec: NodeSpec, assignment: Assignment, files: NodeFiles, build: EngineBuild) -> dict[str, str]:
    """What no DB parameter group decides."""
    return {
        **layout.place_options(build, *SHARE),
        **layout.common_options(spec, files),
        "gtid_strict_mode": "1",
        "log_slave_updates": "1",
        "symbolic_links": "0",
        "loose_wsrep_on": "0",
        **_plugins(spec, build),
        **(audit.own_options(spec.parameters, files) if audit.is_wanted(spec.parameters) else {}),
        **replication_options(spec, assignment),
    }


def _plugins(spec: NodeSpec, build: EngineBuild) -> dict[str, str]:
    found = [library for library in LOGIN_PLUGINS if (build.library_directory / library).exists()]
    if audit.is_wanted(spec.parameters):
        found.append(audit.LIBRARY)
    if iam_logins.has_plugin(build):
        found.append(iam_logins.LOAD)
    return {"plugin_load_add": ";".join(found)} if found else {}


def replication_options(spec: NodeSpec, assignment: Assignment) -> dict[str, str]:
    """What depends on the node's role now."""
    return layout.replication_options(spec, assignment, MARIADB_WORDS) | {
        "slave_parallel_threads": str(layout.APPLIER_THREADS),
        "slave_parallel_mode": "optimistic",
        "slave_parallel_max_queued": str(1 << 20),
        "loose_slave_connections_needed_for_purge": "0",
        "loose_max_binlog_total_size": "0",  # a group from before it was ours may have another
    }
