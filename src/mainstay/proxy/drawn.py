"""Random bytes of the kernel's, drawn many at a time: by themselves the few that a login needs, twice, cost as much as
one of its messages.
"""

from __future__ import annotations

import os
from typing import Final

DRAWN_BYTES: Final = 4096


class _Drawn:
    """What is there, and how much of it was given away."""

    def __init__(self) -> None:
        self.there = b""
        self.given = 0


_drawn: Final = _Drawn()


def random_bytes(count: int) -> bytes:
    """So many, at most `DRAWN_BYTES`, that nobody can know and nobody else gets. For processes of one thread that do
    not fork.
    """
    end = _drawn.given + count
    if end > len(_drawn.there):
        _drawn.there, end = os.urandom(DRAWN_BYTES), count
    _drawn.given = end
    return _drawn.there[end - count : end]
