"""Where a user of an engine logs in."""

from __future__ import annotations

from pathlib import Path

import msgspec


class LoginPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where a node listens, and how to be sure that it is this one: its certificate names `host`.

    `database` "": nobody has named one.
    """

    address: str
    host: str
    port: int
    database: str = ""
    authorities: Path
