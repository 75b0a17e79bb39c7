"""Every point at which a process can die: before and after each effect, who had it and who had not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from simulation.effects import Decision, Moment, kill_at
from simulation.loop import Lifetime
from simulation.world import World

Victim = Callable[[World], Callable[[Lifetime], Lifetime]]
MOMENTS: tuple[Moment, ...] = ("before", "after")


def owner_itself(_world: World) -> Callable[[Lifetime], Lifetime]:
    """The process whose effect it is."""
    return lambda owner: owner


def other(world: World) -> Callable[[Lifetime], Lifetime]:
    """The agent where control has the effect, and control where the agent has."""
    return lambda owner: world.living("agent" if owner.name == "control" else "control")


class KillPoint(msgspec.Struct, frozen=True):
    """One of them."""

    number: int
    moment: Moment
    victim: Victim

    def decision(self, world: World) -> Decision:
        """Kills there."""
        return kill_at(self.number, self.moment, self.victim(world))

    def __str__(self) -> str:
        return f"{self.victim.__name__} killed {self.moment} effect {self.number}"

    def in_(self, world: World) -> str:
        """The same, with the effects up to there."""
        return f"{self}: {world.effects.trace[: self.number + 1]}"


def kill_points(effects: int, moments: Sequence[Moment] = MOMENTS) -> Iterator[KillPoint]:
    """All of a scenario with so many effects."""
    for number in range(effects):
        for moment in moments:
            for victim in (owner_itself, other):
                yield KillPoint(number, moment, victim)
