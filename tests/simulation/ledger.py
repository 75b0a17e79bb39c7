"""What clients of a simulated pair were told, and whether it was true: the invariants of the two-node rule.

I1 never two servers that can acknowledge; a former primary is dead before the next one is recorded.
I2 nothing acknowledged or read is ever missing, nothing is there twice.
I3 whoever can acknowledge and whoever can win have a node in common: with a standby on record, nothing is acknowledged
   or shown that it does not have.
I5 only the node that the record named IN_SYNC is ever promoted; or, before that has led, the one it was to lead after.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mainstay.model.pair import PairRecord
from simulation.database import Disk, Server
from simulation.twins import Engine

if TYPE_CHECKING:
    from simulation.pair_world import Client, PairWorld


class Violation(Exception):
    """An invariant does not hold."""


class Ledger:
    """See the module."""

    def __init__(self, world: PairWorld) -> None:
        self._world = world
        self.attempted: set[int] = set()
        self.acked: set[int] = set()
        self.shown: set[int] = set()
        self._broken: str | None = None

    def _violated(self, what: str) -> None:
        self._world.note(f"VIOLATION {what}")
        self._broken = self._broken or what
        if self._broken == what:
            self._world.host.violations.insert(0, what)

    def check(self) -> None:
        """Raises the first violation."""
        if self._broken is not None:
            raise Violation(self._broken)

    def acknowledge(self, value: int, client: Client) -> None:
        """A client was told that its commit is safe."""
        self.acked.add(value)
        self._may_answer(client.server)
        self._is_safe(value, client.server, "acknowledged")

    def read(self, client: Client) -> None:
        """A client reads everything."""
        self._may_answer(client.server)
        new = [value for value in client.server.visible[client.seen :] if value not in self.shown]
        client.seen = len(client.server.visible)
        for value in new:
            self.shown.add(value)
            self._is_safe(value, client.server, "shown")

    def _may_answer(self, server: Server) -> None:
        record = self._world.record()
        if record is not None and record.primary != server.node_id:
            self._violated(f"I1: {server.node_id} answers clients, but {record.primary} leads")

    def _is_safe(self, value: int, server: Server, how: str) -> None:
        record = self._world.record()
        if record is None or not record.standby:
            return
        disk = self._disk(record.standby)
        if disk is not None and not disk.holds(value):  # who has lost all of its data cannot win either
            self._violated(f"I3: {value} was {how} by {server.node_id}; {record.standby} may win and does not have it")

    def _disk(self, node_id: str) -> Disk | None:
        data = self._world.directory / "nodes" / node_id / "volume" / "data"
        return self._world.host.disk(data) if (data / "VERSION").exists() else None

    def came_up(self, engine: Engine) -> None:
        """A server leads from now on: after its recovery, or after its promotion."""
        server = engine.server
        for other in self._world.host.engines.values():
            if other is not engine and not other.server.follows:
                self._violated(f"I1: {server.node_id} comes up beside {other.server.node_id}, which can still write")
        record = self._world.record()
        if record is None or record.primary != server.node_id:
            if server.promotions:
                self._violated(f"I5: {server.node_id} was promoted; on record is {record}")
            return
        there = set(server.visible)
        lost = (self.acked | self.shown) - there
        if lost:
            self._violated(f"I2: {server.node_id} leads without {sorted(lost)[:5]} ({len(lost)})")

    def record_changed(self, before: PairRecord | None, record: PairRecord) -> None:
        """The record on disk is another one."""
        if before is None:
            return
        if record.primary != before.primary:
            if before.standby != record.primary and not _taken_back(before, record):
                self._violated(f"I5: {record.primary} takes over; the record named {before.standby or 'nobody'}")
            if record.epoch != before.epoch + 1 or record.standby:
                self._violated(f"I5: after a takeover the record is {record}")
            old = self._world.host.engines.get(before.primary)
            if old is not None and not old.server.follows:
                self._violated(f"I1: {record.primary} takes over from {before.primary}, which is not fenced")
        if record.standby and not before.standby:
            disk = self._disk(record.standby)
            missing = [value for value in self.acked | self.shown if disk is None or not disk.holds(value)]
            if missing:
                self._violated(f"I3: {record.standby} recorded IN_SYNC without {missing[:5]}")

    def check_all(self, server: Server) -> None:
        """The end: all of it, once."""
        self.check()
        values = [entry.value for entry in server.disk.wal]
        if len(values) != len(set(values)):
            raise Violation("I2: a commit is there twice")
        lost = (self.acked | self.shown) - set(values)
        if lost:
            raise Violation(f"I2: {sorted(lost)[:5]} ({len(lost)}) of {len(self.acked)} acknowledged are gone")
        if set(values) - self.attempted:
            raise Violation("there is something that nobody wrote")


def _taken_back(before: PairRecord, record: PairRecord) -> bool:
    """Whether the node leads again that led before a takeover that was never completed."""
    if not before.failovers or before.standby or not before.standby_incarnation:
        return False
    return record.failovers[-1].row == "taken-back" and before.failovers[-1].old_primary == record.primary
