"""The files that a MariaDB node reads, as pure functions of its spec.

Settings that belong to Mainstay come last in my.cnf, so that no user parameter can override them.
"""

from __future__ import annotations

from mainstay.engines.mariadb.bootstrap import SHARE, startup_script
from mainstay.engines.mariadb.catalogue import OPTION_NAMES
from mainstay.engines.mariadb.words import MARIADB_WORDS
from mainstay.engines.mysql_family import layout
from mainstay.engines.mysql_family.option_file import render as render_options
from mainstay.engines.node_files import NodeFiles
from mainstay.model.assignment import Assignment
from mainstay.model.engine import EngineBuild
from mainstay.model.node import NodeSpec

OURS = frozenset(
    """binlog_expire_logs_seconds expire_logs_days gtid_binlog_state gtid_slave_pos read_only general_log_file
    gtid_strict_mode init_file log_error log_slave_updates secure_file_priv server_id slow_query_log_file""".split()
)
"""Variables that `own_options` sets, or `startup_script`: a change of the parameters leaves them alone."""


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
    options = render_options("mariadbd", user_options(spec), own)
    return layout.files_of(spec, options, startup_script(operators), follow)


def user_options(spec: NodeSpec) -> dict[str, str]:
    """What the DB parameter group says, under the names that options have."""
    return {OPTION_NAMES.get(name, name): value for name, value in sorted(spec.parameters.items())}


def own_options(spec: NodeSpec, files: NodeFiles, build: EngineBuild) -> dict[str, str]:
    """What no DB parameter group decides."""
    return {
        **layout.place_options(build, *SHARE),
        **layout.common_options(spec, files),
        "gtid_strict_mode": "1",
        "log_slave_updates": "1",
        "symbolic_links": "0",
        "loose_wsrep_on": "0",
    }


def replication_options(spec: NodeSpec, assignment: Assignment) -> dict[str, str]:
    """What depends on the node's role now."""
    return layout.replication_options(spec, assignment, MARIADB_WORDS) | {
        "slave_parallel_threads": str(layout.APPLIER_THREADS),
        "slave_parallel_mode": "optimistic",
        "slave_parallel_max_queued": str(1 << 20),
        "loose_slave_connections_needed_for_purge": "0",
    }
