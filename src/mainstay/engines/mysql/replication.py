"""Copying MySQL followers: a clone, which goes on from where its source was."""

from __future__ import annotations

from pathlib import Path

from mainstay.engines.copy_room import make_room, remove
from mainstay.engines.mysql.physical_copy import copy_running
from mainstay.engines.mysql_family.copy_room import bytes_for_copying
from mainstay.engines.mysql_family.followers import copied, put_in_place
from mainstay.engines.node_files import NodeFiles
from mainstay.host.fencing import fence
from mainstay.host.processes import User
from mainstay.model.assignment import Upstream
from mainstay.model.engine import EngineBuild
from mainstay.model.node import NodeSpec


async def clone(spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User, upstream: Upstream) -> None:
    """A clone into a directory beside, put in place when it is complete and on disk. Raises `Transient`."""
    await copied(lambda: _clone(spec, files, build, user, upstream))


async def _clone(spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User, upstream: Upstream) -> None:
    unfinished = files.volume / "data.cloning"
    await fence(files.volume)  # a copier that an agent has left which was killed
    await remove(unfinished)
    await make_room(files, upstream, bytes_for_copying)
    await copy_running(spec, Path(upstream.host), unfinished, files.sockets, build, user, once=False)
    await put_in_place(unfinished, files, user)
