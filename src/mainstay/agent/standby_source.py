"""The standby of a Multi-AZ instance as the source of a backup: the reads of its files cost the primary nothing."""

from __future__ import annotations

from mainstay.agent.keeper import Keeper
from mainstay.engines.node_files import NodeFiles
from mainstay.model.engine import EngineBuild
from mainstay.model.node import NodeRole


class StandbySource:
    """`engines.backups.Standby`: one process of a standby, as it follows one leader."""

    def __init__(self, leader: Keeper, standby: Keeper) -> None:
        self._leader = leader
        self._standby = standby
        self._process = standby.hands.engine.process
        self.node_id = standby.spec.node_id
        self.files: NodeFiles = standby.hands.files
        self.build: EngineBuild = standby.hands.build(standby.spec)

    def unchanged(self) -> bool:
        """See `Standby`. The data directory is made anew only while no process runs."""
        upstream = self._standby.assignment.upstream
        return (
            self._standby.hands.engine.process == self._process
            and self._standby.assignment.role is NodeRole.STANDBY
            and upstream is not None
            and upstream.node_id == self._leader.spec.node_id
            and self._leader.assignment.role is NodeRole.PRIMARY
        )

    def configure(self, name: str, content: str) -> None:
        """See `Standby`."""
        self._standby.hands.configure(name, content)


def standby_source(leader: Keeper, standby: Keeper) -> StandbySource | None:
    """None while the standby has not got every commit, or does not receive: then the primary is the source."""
    engine = standby.hands.engine
    runs = engine.process is not None and engine.stopping is None and standby.following.streams
    if not runs or leader.assignment.synchronous_standby != standby.spec.node_id:
        return None
    source = StandbySource(leader, standby)
    return source if source.unchanged() else None
