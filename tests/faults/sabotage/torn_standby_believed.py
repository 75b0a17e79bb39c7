"""A standby goes on from what a power cut has left of it (MariaDB, MySQL)."""

from mainstay.engines.mysql_family import unforced
from mainstay.engines.node_files import NodeFiles


def is_torn(_files: NodeFiles) -> bool:
    """Never."""
    return False


unforced.is_torn = is_torn
