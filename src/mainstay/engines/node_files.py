"""Where one node keeps its things on its host."""

from __future__ import annotations

from pathlib import Path

import msgspec

from mainstay.host.volumes.base import SEEDED


class NodeFiles(msgspec.Struct, frozen=True):
    """Where one node keeps its things. `root` is the agent's, the volume, the logs and the socket are the engine's.

    `logs_on_volume`: of a node whose volume is encrypted, because an engine's messages quote statements and values.
    """

    root: Path
    sockets: Path
    logs_on_volume: bool = False

    def of(self, node_id: str) -> NodeFiles:
        """Those of another node of this host."""
        return NodeFiles(self.root.with_name(node_id), self.sockets.with_name(node_id), self.logs_on_volume)

    @property
    def volume(self) -> Path:
        """The mount point or directory that is the node's volume."""
        return self.root / "volume"

    @property
    def data(self) -> Path:
        """The engine's data directory, on the volume."""
        return self.volume / "data"

    @property
    def cloned(self) -> Path:
        """What another node's volume held, on a volume that began as a clone of that."""
        return self.volume / SEEDED

    @property
    def cloned_data(self) -> Path:
        """The other node's data directory in there."""
        return self.cloned / self.data.name

    @property
    def restoring(self) -> Path:
        """Where a recovering engine asks for its log, on the volume."""
        return self.volume / "restoring"

    @property
    def login_socket(self) -> Path:
        """Where an engine asks the agent about IAM logins, if it cannot ask control itself."""
        return self.sockets / "login.sock"

    @property
    def configuration(self) -> Path:
        """Configuration files, written by the agent, read by the engine."""
        return self.root / "conf"

    @property
    def logs(self) -> Path:
        """What DescribeDBLogFiles lists."""
        return self.volume / "log" if self.logs_on_volume else self.root / "log"

    @property
    def output(self) -> Path:
        """Standard output and error of the engine process: what it says before its own log is open."""
        return self.root / "startup.log"

    @property
    def writable(self) -> tuple[Path, ...]:
        """What the engine writes of it; that it can write nothing else is what keeps instances apart."""
        return (self.volume, self.logs, self.sockets)
