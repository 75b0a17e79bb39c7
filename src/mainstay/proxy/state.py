"""What a client session is made of beside its transaction, and whether another server connection can carry it on.

Pure. A session is movable when everything in it can be set again elsewhere: settings by their SQL, prepared statements
by their text. Anything else is a reason to stay, by name, until the engine says that it is gone.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from mainstay.protocol.postgres.effects import (
    READ_BY,
    SETTINGS_CHANGED,
    Deallocate,
    DeallocateAll,
    DiscardAll,
    Effect,
    LocalSetting,
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
        "_reading",
        "_reading_version",
        "_waiting",
        "lasting",
        "may_unpin",
        "pins",
        "probeable",
        "reads_anew",
        "settings",
        "stained",
        "statements",
        "version",
    )

    def __init__(self, settings: Settings) -> None:
        self._initial = settings
        self.settings = settings
        self.version: object = settings
        """Another one with every change of `settings`. Sessions that begin with the very same ones have the same."""

        self._reading = b""
        self._reading_version: object = None
        self.reads_anew = False
        """Whether what has been asked for and is not over yet may change how literals are read."""

        self._waiting: list[Effect] = []
        self.pins: set[str] = set()
        self.lasting = False
        """Whether a pin lasts as long as the session, whatever becomes of its reason."""

        self.probeable = True
        self.may_unpin = False
        self.stained = False
        """Whether its server session cannot be made as new by DISCARD ALL."""

        self.statements: dict[bytes, Statement] = {}

    @property
    def pinned(self) -> bool:
        """Whether the session must stay on its server connection."""
        return bool(self.pins)

    @property
    def waits(self) -> bool:
        """Whether the transaction has changed settings that its end decides about."""
        return len(self._waiting) > 0

    def reading(self) -> bytes:
        """The settings by which literals in this session's texts are read, as SQL; b"" if it has none of its own."""
        if self._reading_version is not self.version:
            self._reading_version = self.version
            self._reading = b";".join([sql for name, sql in self.settings.items() if name.lower() in READ_BY])
        return self._reading

    @property
    def attentive(self) -> bool:
        """Whether the end of a transaction changes anything here."""
        return len(self._waiting) > 0 or len(self.pins) > 0

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
        reasons = []
        for effect in effects:
            if isinstance(effect, Pin):
                self.stained = self.stained or effect.stains
                if self.pin(effect.reason, probe=effect.probe):
                    reasons.append(effect.reason)
            elif isinstance(effect, (LocalSetting, ResetAll, DiscardAll)) or (
                isinstance(effect, Setting) and effect.name in READ_BY
            ):
                self.reads_anew = True
        return reasons

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
            elif not isinstance(effect, (Pin, LocalSetting)):
                self._waiting.append(effect)

    def transaction_ended(self, *, committed: bool) -> list[Effect]:
        """Settings of the transaction count now, or never did. Returns the changes that count."""
        changes, self._waiting = self._waiting if committed else [], []
        if changes:
            self.settings = applied(self.settings, self._initial, changes)
            self.version = self.settings
        if any(isinstance(change, DiscardAll) for change in changes):
            self.statements.clear()
            self.unpin()
        return changes


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


def resets(change: Effect) -> bool:
    """Whether it brings the engine's own value back to a parameter, whatever the initialization query has set."""
    return isinstance(change, (ResetAll, DiscardAll)) or (isinstance(change, Setting) and change.sql is None)


def difference(present: Settings, wanted: Settings, initial: bytes = b"", *, bare: bool = False) -> bytes:
    """SQL that brings a server session from some settings to others, b"" if there is nothing to do. `initial`: what
    each has run when it was new, and runs again when what that set may be gone: if it is `bare`, or by a RESET here.
    """
    bare = bare and bool(initial)
    if not bare and list(present.items()) == list(wanted.items()):
        return b""
    # What came later may depend on what came before (a role, then what that role may set): from the first
    # difference on everything is set again.
    kept = 0
    for one, other in zip(present.items(), wanted.items(), strict=False):
        if one != other or bare:
            break
        kept += 1
    later = list(wanted.items())[kept:]
    gone = [name for name in reversed(list(present)[kept:]) if name not in dict(later) or name == "role"]
    if gone and initial and not bare:
        return difference(present, wanted, initial, bare=True)
    sql = [b"RESET " + _quoted(name) for name in gone] + ([initial + b"\n"] if bare else [])
    return b"; ".join(sql + [text for _name, text in later])


def _quoted(name: str) -> bytes:
    if name == "role":
        return b"ROLE"
    return b".".join(b'"' + part.encode().replace(b'"', b'""') + b'"' for part in name.split("."))


@lru_cache(maxsize=256)
def brought(asked: tuple[tuple[str, str], ...]) -> Settings:
    """The settings of a client that asks for these when it comes. Nothing may change them: others have the same."""
    return {name: setting_sql(name, value) for name, value in asked}


def setting_sql(name: str, value: str) -> bytes:
    """The SQL of a setting that came in the startup packet."""
    escaped = value.replace("'", "''").replace("\\", "\\\\")
    if not value.isascii():  # byte for byte as in a startup packet, whatever client_encoding is
        escaped = "".join(chr(byte) if byte < 128 else f"\\x{byte:02x}" for byte in escaped.encode())
    # Not SET: to that, a list in quotes is one name.
    quoted = name.replace("'", "''")
    return f"SELECT pg_catalog.set_config('{quoted}', {'E' if chr(92) in escaped else ''}'{escaped}', false)".encode()
