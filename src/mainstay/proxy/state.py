"""What a client session is made of beside its transaction, and whether another server connection can carry it on.

Pure. A session is movable when everything in it can be set again elsewhere: settings by their SQL, prepared statements
by their text. Anything else is a reason to stay, by name, until the engine says that it is gone.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from mainstay.protocol.postgres.effects import (
    SETTINGS_CHANGED,
    Deallocate,
    DeallocateAll,
    DiscardAll,
    Effect,
    MaybeUnpin,
    Pin,
    ResetAll,
    RollbackTo,
    Setting,
)
from mainstay.proxy.statements import Statement

Settings = dict[str, bytes]
"""Parameter -> the SQL that sets it, in the order in which they were set."""

# Names and operators are qualified: search_path is the client's.
STATE_LEFT = b"""SELECT (SELECT pg_catalog.count(*) FROM pg_catalog.pg_locks
 WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid())
 OPERATOR(pg_catalog.+) (SELECT pg_catalog.count(*) FROM pg_catalog.pg_class
 WHERE relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema())
 OPERATOR(pg_catalog.+) (SELECT pg_catalog.count(*) FROM pg_catalog.pg_proc
 WHERE pronamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema())
 OPERATOR(pg_catalog.+) (SELECT pg_catalog.count(*) FROM pg_catalog.pg_listening_channels())
 OPERATOR(pg_catalog.+) (SELECT pg_catalog.count(*) FROM pg_catalog.pg_cursors WHERE is_holdable)
 OPERATOR(pg_catalog.+) (SELECT pg_catalog.count(*) FROM pg_catalog.pg_prepared_statements WHERE from_sql)
 OPERATOR(pg_catalog.+) pg_catalog.strpos(pg_catalog.current_setting('search_path'), 'pg_temp')"""
"""How much of what can be asked for is still there in a server session; 0: nothing pins it any more."""


class SessionState:
    """The state of one client's session that outlives its transactions."""

    __slots__ = (
        "_initial",
        "_waiting",
        "lasting",
        "may_unpin",
        "pins",
        "probeable",
        "settings",
        "statements",
        "version",
    )

    def __init__(self, settings: Settings) -> None:
        self._initial = settings
        self.settings = settings
        self.version = _version_of(tuple(settings.items()))
        """Changes with every change of `settings`. Sessions that begin with equal ones have the same."""

        self._waiting: list[Effect] = []
        self.pins: set[str] = set()
        self.lasting = False
        """Whether a pin lasts as long as the session, whatever becomes of its reason."""

        self.probeable = True
        self.may_unpin = False
        self.statements: dict[bytes, Statement] = {}

    @property
    def pinned(self) -> bool:
        """Whether the session must stay on its server connection."""
        return bool(self.pins)

    @property
    def waits(self) -> bool:
        """Whether the transaction has changed settings that its end decides about."""
        return bool(self._waiting)

    @property
    def attentive(self) -> bool:
        """Whether the end of a transaction changes anything here."""
        return bool(self._waiting or self.pins)

    def pin(self, reason: str, *, probe: bool) -> bool:
        """Adds a reason to stay; returns whether it is a new one."""
        self.probeable = self.probeable and probe
        if reason in self.pins:
            return False
        if not self.pins:
            self.may_unpin = False
        self.pins.add(reason)
        return True

    def unpin(self) -> None:
        """Nothing is left of what pinned it."""
        if self.lasting:
            return
        self.pins.clear()
        self.probeable, self.may_unpin = True, False

    def started(self, effects: Iterable[Effect]) -> list[str]:
        """A statement is about to run: pins count from now on. Returns the new reasons."""
        return [e.reason for e in effects if isinstance(e, Pin) and self.pin(e.reason, probe=e.probe)]

    def done(self, effects: Iterable[Effect]) -> None:
        """A statement has run; what it set counts when its transaction commits."""
        for effect in effects:
            if isinstance(effect, RollbackTo):
                if self._waiting:
                    self.pin(SETTINGS_CHANGED, probe=False)
            elif isinstance(effect, MaybeUnpin):
                self.may_unpin = True
            elif isinstance(effect, Deallocate):
                self.statements.pop(effect.name.encode(errors="surrogateescape"), None)
            elif isinstance(effect, DeallocateAll):
                self.statements.clear()
            elif not isinstance(effect, Pin):
                self._waiting.append(effect)

    def transaction_ended(self, *, committed: bool) -> list[Effect]:
        """Settings of the transaction count now, or never did. Returns the changes that count."""
        changes, self._waiting = self._waiting if committed else [], []
        if changes:
            self.settings = applied(self.settings, self._initial, changes)
            self.version = object()
        if any(isinstance(change, DiscardAll) for change in changes):
            self.statements.clear()
            self.unpin()
        return changes


@lru_cache(maxsize=1024)
def _version_of(_settings: tuple[tuple[str, bytes], ...]) -> object:
    return object()


def applied(settings: Settings, defaults: Settings, changes: Iterable[Effect]) -> Settings:
    """The settings after some changes. `defaults` is what RESET brings back."""
    for change in changes:
        if isinstance(change, Setting):
            settings = {name: sql for name, sql in settings.items() if name != change.name}
            sql = defaults.get(change.name) if change.sql is None else change.sql
            if sql is not None:
                settings[change.name] = sql
        elif isinstance(change, ResetAll):  # that leaves the role as it is
            role = {name: sql for name, sql in settings.items() if name == "role"}
            settings = role | {name: sql for name, sql in defaults.items() if name != "role"}
        elif isinstance(change, DiscardAll):
            settings = dict(defaults)
    return settings


def difference(present: Settings, wanted: Settings) -> bytes:
    """SQL that brings a server session from some settings to others, b"" if there is nothing to do."""
    if list(present.items()) == list(wanted.items()):
        return b""
    # What came later may depend on what came before (a role, then what that role may set): from the first
    # difference on everything is set again.
    kept = 0
    for one, other in zip(present.items(), wanted.items(), strict=False):
        if one != other:
            break
        kept += 1
    later = list(wanted.items())[kept:]
    gone = [name for name in reversed(list(present)[kept:]) if name not in dict(later) or name == "role"]
    sql = [b"RESET " + _quoted(name) for name in gone] + [text for _name, text in later]
    return b"; ".join(sql)


def _quoted(name: str) -> bytes:
    if name == "role":
        return b"ROLE"
    return b".".join(b'"' + part.encode().replace(b'"', b'""') + b'"' for part in name.split("."))


def setting_sql(name: str, value: str) -> bytes:
    """The SQL of a setting that came in the startup packet."""
    escaped = value.replace("'", "''").replace("\\", "\\\\")
    if not value.isascii():  # byte for byte as in a startup packet, whatever client_encoding is
        escaped = "".join(chr(byte) if byte < 128 else f"\\x{byte:02x}" for byte in escaped.encode())
    # Not SET: to that, a list in quotes is one name.
    quoted = name.replace("'", "''")
    return f"SELECT pg_catalog.set_config('{quoted}', {'E' if chr(92) in escaped else ''}'{escaped}', false)".encode()
