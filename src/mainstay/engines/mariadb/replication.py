"""Copying MariaDB followers: mariadb-backup, whose copy goes on from where it has its source's binary log."""

from __future__ import annotations

from pathlib import Path

from mainstay.engines.copy_room import make_room
from mainstay.engines.mariadb.physical_copy import copy_running
from mainstay.engines.mysql_family.copy_room import bytes_for_copying
from mainstay.engines.mysql_family.followers import copied, empty_directory, put_in_place
from mainstay.engines.node_files import NodeFiles
from mainstay.host.processes import User
from mainstay.model.assignment import Upstream
from mainstay.model.engine import EngineBuild


async def clone(files: NodeFiles, build: EngineBuild, user: User, upstream: Upstream) -> None:
    """mariadb-backup into a directory beside, put in place when it is complete and on disk. Raises `Transient`."""
    await copied(lambda: _clone(files, build, user, upstream))


async def _clone(files: NodeFiles, build: EngineBuild, user: User, upstream: Upstream) -> None:
    unfinished = files.volume / "data.cloning"
    await empty_directory(unfinished, user)
    await make_room(files, upstream, bytes_for_copying)
    await copy_running(Path(upstream.host), unfinished, build, user)
    await put_in_place(unfinished, files, user)
