"""How a database comes in from elsewhere as a dump: what an engine's folder provides for `mainstay backups load`.

A dump is a program that somebody else wrote. Whatever is in it, what is run of it is SQL, by the engine, with the
rights of the user who was named; nothing of it runs on this host as anybody.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from mainstay.model.engine import EngineBuild
from mainstay.model.login_place import LoginPlace
from mainstay.model.secret import Secret


class LoadOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Where a dump is to go, and as whom.

    `build` is what takes archives apart; `scratch` a directory of ours on the disk, which may take a copy of the dump;
    `script_bytes_max` how much SQL and data the dump may come to; `without_owners` and `without_privileges` leave out
    who owns the objects there, and who may use them.
    """

    place: LoginPlace
    user: str
    password: Secret
    build: EngineBuild
    scratch: Path
    script_bytes_max: int
    timeout_s: float
    without_owners: bool = False
    without_privileges: bool = False


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """What was committed: SQL statements, and rows that came as data between them."""

    statements: int
    rows: int


class EngineDumps(Protocol):
    """Dumps of one engine. `default_database` is where one goes when nobody names a database."""

    default_database: str

    def load(self, dump: Path, order: LoadOrder, note: Callable[[int, int], None]) -> Loaded:
        """Brings the dump into the database, in one transaction. `note` is told bytes read, and in all or 0.

        Nothing is changed if it raises: `Permanent` says where in the dump and why, `Transient` that the engine went
        away. Only if it goes away while it commits it is not known what became of it, and that is said.
        """
