"""The old primary is not made unable to do anything more."""

from pathlib import Path

from mainstay.agent import node_engine


async def fence(_volume: Path) -> int:
    """Kills nobody."""
    return 0


node_engine.fence = fence  # type: ignore[attr-defined] # where it is called from
