"""What a SQL text does to its session beyond its transaction, as far as text can tell.

`effects` never guesses in the dangerous direction: what it does not understand and what could change a session is a
`Pin`. Most statements do nothing to their session, and `suspicious` says so with one search over the raw bytes.
Source of the lexical rules: PostgreSQL documentation 4.1; of what counts as session state: DISCARD, and RDS user guide,
"Avoiding pinning an RDS Proxy".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import msgspec

from mainstay.protocol.postgres.suspicion import suspicious

STATEMENT_BYTES_MAX = 16_384
"""AWS pins on longer statements; so do we when told to be strict."""

JUDGED_BYTES_MAX = 128 * 1024
"""A longer text that could change its session pins it unread: reading it would hold everybody up."""

_BLOCK = re.compile(r"(?:\A|[;'\"$]|\*/|\n|\r|\bbegin|\bthen|\bloop|\belse)\s{0,64}set\b", re.IGNORECASE)
"""SET inside a block of PL/pgSQL; SET of an UPDATE follows other words."""

_LEXICAL = frozenset({"standard_conforming_strings", "client_encoding"})
"""These change how the next text must be read: standard_conforming_strings off, an encoding that hides ASCII bytes."""

READ_BY = frozenset({
    "array_nulls", "client_encoding", "datestyle", "intervalstyle", "lc_monetary", "timezone", "timezone_abbreviations",
    "transform_null_equals", "xmloption",
})  # fmt: skip
"""What a prepared statement means is decided by these when it is parsed: a literal such as '2026-01-02 00:00' is read
then, not when the statement runs."""

_HIDING = frozenset({"BIG5", "GB18030", "GBK", "JOHAB", "SHIFT_JIS_2004", "SJIS", "UHC"})
"""Client encodings in which a byte that is ASCII can be part of another character (PostgreSQL documentation 23.3.1)."""


class Setting(msgspec.Struct, frozen=True):
    """A session parameter gets the value that `sql` gives it; `sql` None: its default comes back."""

    name: str
    sql: bytes | None


class ResetAll(msgspec.Struct, frozen=True):
    """Every session parameter gets its default back."""


class DiscardAll(msgspec.Struct, frozen=True):
    """The session is as new."""


class Pin(msgspec.Struct, frozen=True):
    """The session has state that cannot be moved. `probe`: whether it is still there can be asked of the engine.
    `stains`: DISCARD ALL would leave it."""

    reason: str
    probe: bool = True
    stains: bool = False


class MaybeUnpin(msgspec.Struct, frozen=True):
    """State may have gone; the engine can tell."""


class DeallocateAll(msgspec.Struct, frozen=True):
    """Every prepared statement is gone, also those of the extended protocol."""


class Deallocate(msgspec.Struct, frozen=True):
    """One prepared statement is gone; the name is as the engine folds it."""

    name: str


class LocalSetting(msgspec.Struct, frozen=True):
    """Up to the end of the transaction texts may be read otherwise: one of `READ_BY` may have another value."""


class RollbackTo(msgspec.Struct, frozen=True):
    """The transaction goes back to a savepoint: settings made since are undone."""


Effect = Setting | LocalSetting | ResetAll | DiscardAll | Pin | MaybeUnpin | DeallocateAll | Deallocate | RollbackTo

SETTINGS_CHANGED = "SQL changed session settings that the proxy doesn't track."
PREPARED = "Running a prepared statement."
TEMPORARY = "SQL created a temporary object."
CURSOR = "SQL declared a cursor that outlives its transaction."
LISTENING = "SQL registered the session as a listener."
LOADED = "SQL loaded a library into the session."
SEQUENCE = "SQL used a sequence, whose last value belongs to the session."
LOCKED = "SQL used a session-level advisory lock."
OPAQUE = "SQL ran a block whose effects on the session cannot be seen."
TOO_LONG = "The connection ran a SQL query which exceeded the 16384 byte limit."
CONNECTED = "SQL opened something that belongs to the session."


_UNSEEN = Pin(OPAQUE, probe=False, stains=True)
_SEEDED = Pin(SETTINGS_CHANGED, probe=False, stains=True)


def effects(sql: bytes, *, strict: bool = False) -> tuple[tuple[Effect, ...], ...]:
    """For each statement of the text, in order, what it does to the session. `strict`: as RDS Proxy judges."""
    if len(sql) > JUDGED_BYTES_MAX:
        return ((_UNSEEN,),) if suspicious(sql) else ()
    return tuple(_strict(found, words) if strict else found for words, found in _judged(sql))


def _judged(sql: bytes) -> list[tuple[list[str], tuple[Effect, ...]]]:
    text = sql.decode(errors="surrogateescape")
    judged = []
    for statement, tokens in _statements(text):
        words = [token.upper() if kind == "word" else token for kind, token in tokens]
        judged.append((words, tuple(_effects(statement, tokens, words))))
    return judged


def _strict(found: tuple[Effect, ...], words: list[str]) -> tuple[Effect, ...]:
    """AWS pins on every SET and RESET, on SQL-level prepared statements, DISCARD, DECLARE and on unlocking too."""
    verb = words[0] if words else ""
    if any(isinstance(effect, Pin) for effect in found):
        return tuple(msgspec.structs.replace(e, probe=False) if isinstance(e, Pin) else e for e in found)
    reasons = {
        "SET": SETTINGS_CHANGED, "RESET": SETTINGS_CHANGED, "DISCARD": SETTINGS_CHANGED, "DEALLOCATE": PREPARED,
        "PREPARE": PREPARED, "EXECUTE": PREPARED, "DECLARE": CURSOR,
    }  # fmt: skip
    if verb == "SELECT" and any(isinstance(effect, Setting) for effect in found):
        return (*found, Pin(SETTINGS_CHANGED, probe=False))
    if verb in reasons and words[1:2] not in (["LOCAL"], ["TRANSACTION"], ["CONSTRAINTS"]):
        return (*found, Pin(reasons[verb], probe=False))
    return found


def misleads(parameters: Mapping[str, str]) -> bool:
    """Whether an engine that reports these parameters may read a text otherwise than `effects` does."""
    return parameters.get("standard_conforming_strings") == "off" or parameters.get("client_encoding") in _HIDING


# Which statement does what


def _effects(statement: str, tokens: list[tuple[str, str]], words: list[str]) -> list[Effect]:
    verb = words[0] if words else ""
    found = _VERBS[verb](statement, words) if verb in _VERBS else []
    if verb == "DO" and any(kind == "string" and _changes_session(token) for kind, token in tokens):
        found = [_UNSEEN]
    if verb not in ("CREATE", "INSERT", "MERGE"):
        found = found + _into_temporary(words)
    if "UPDATE" in words and any(_folded(word).lower() == "pg_settings" for word in words):
        found = [*found, Pin(SETTINGS_CHANGED, probe=False)]  # its rule calls set_config
    return found + _functions(tokens, words)


def _changes_session(block: str) -> bool:
    """Whether a block in PL/pgSQL or another language could change its session."""
    return _BLOCK.search(block) is not None or suspicious(block.encode(errors="surrogateescape"))


def _set(statement: str, words: list[str]) -> list[Effect]:
    rest = words[1:]
    if rest[:1] in (["TRANSACTION"], ["CONSTRAINTS"]):
        return []
    if rest[:1] == ["LOCAL"]:
        return _set_local(_setting_name(rest[1:]), words)
    if rest[:1] == ["SESSION"] and rest[1:2] != ["AUTHORIZATION"]:
        if rest[1:2] == ["CHARACTERISTICS"]:
            return _characteristics(rest[2:])
        rest = rest[1:]
    if rest[:2] == ["SESSION", "AUTHORIZATION"]:
        return [Pin(SETTINGS_CHANGED, probe=False)]
    name = _setting_name(rest)
    if name == "seed":
        return [_SEEDED]
    if name is None or (name in _LEXICAL and not _harmless(words)):
        return [Pin(SETTINGS_CHANGED, probe=False)]
    if name in _OF_TRANSACTION:
        return []
    if rest[-1:] == ["DEFAULT"]:
        return [Setting(name, None)]
    if not statement.isascii():  # its bytes mean what client_encoding says now; elsewhere they could mean another value
        return [Pin(SETTINGS_CHANGED, probe=False)]
    sql = statement.encode(errors="surrogateescape")
    if name == "search_path":
        return [Setting(name, sql), Pin(TEMPORARY) if makes_temporary(sql) else MaybeUnpin()]
    return [Setting(name, sql)]


def _set_local(name: str | None, words: list[str]) -> list[Effect]:
    if name == "seed":  # the generator does not go back with the transaction
        return [_SEEDED]
    if name in _LEXICAL and not _harmless(words):
        return [Pin(SETTINGS_CHANGED, probe=False)]
    return [LocalSetting()] if name in READ_BY else []


def makes_temporary(search_path: bytes) -> bool:
    """Whether this SQL could set a search_path in which a table made without a schema is a temporary one."""
    return b"pg_temp" in search_path.lower() or b"\\" in search_path  # a name may be written with escapes


_OF_TRANSACTION = frozenset({"transaction_isolation", "transaction_read_only", "transaction_deferrable"})
"""Every transaction begins with the defaults of these."""

_MODES = {
    "ISOLATION LEVEL SERIALIZABLE": ("default_transaction_isolation", "serializable"),
    "ISOLATION LEVEL REPEATABLE READ": ("default_transaction_isolation", "repeatable read"),
    "ISOLATION LEVEL READ COMMITTED": ("default_transaction_isolation", "read committed"),
    "ISOLATION LEVEL READ UNCOMMITTED": ("default_transaction_isolation", "read uncommitted"),
    "READ ONLY": ("default_transaction_read_only", "on"),
    "READ WRITE": ("default_transaction_read_only", "off"),
    "DEFERRABLE": ("default_transaction_deferrable", "on"),
    "NOT DEFERRABLE": ("default_transaction_deferrable", "off"),
}
"""Transaction modes, and the parameters that make them the session's."""


def _characteristics(words: list[str]) -> list[Effect]:
    """SET SESSION CHARACTERISTICS AS TRANSACTION, with which JDBC sets a session's isolation level."""
    modes = [word for word in words[2:] if word != ","]
    found: list[Effect] = []
    while words[:2] == ["AS", "TRANSACTION"] and modes:
        count = next((n for n in (4, 3, 2, 1) if " ".join(modes[:n]) in _MODES), 0)
        if not count:
            break
        name, value = _MODES[" ".join(modes[:count])]
        found.append(Setting(name, f"SET {name} TO '{value}'".encode()))
        modes = modes[count:]
    return [Pin(SETTINGS_CHANGED, probe=False)] if modes or not found else found


def _harmless(words: list[str]) -> bool:
    """Whether text is read afterwards as it was before."""
    return words[-1].strip("'\"").upper() in (
        "ON",
        "TRUE",
        "1",
        "UTF8",
        "UTF-8",
        "UNICODE",
        "LATIN1",
        "SQL_ASCII",
        "DEFAULT",
    )


_SPECIAL = {"TIME": "timezone", "NAMES": "client_encoding", "ROLE": "role", "SCHEMA": "search_path", "SEED": "seed",
            "XML": "xmloption"}  # fmt: skip


def _setting_name(words: list[str]) -> str | None:
    """The parameter that SET or RESET names, in lower case; None if it is not one that can be set again elsewhere."""
    if not words:
        return None
    if words[0] in _SPECIAL:
        return _SPECIAL[words[0]]
    name = _folded(words[0])
    position = 1
    while words[position : position + 1] == ["."] and position + 1 < len(words):
        name += "." + _folded(words[position + 1])
        position += 2
    return name.lower() if re.fullmatch(r"[A-Za-z_][\w$]*(\.[A-Za-z_][\w$]*)*", name) else None


def _reset(statement: str, words: list[str]) -> list[Effect]:
    if words[1:2] == ["ALL"]:
        return [ResetAll()]
    if words[1:2] == ["SESSION"]:
        return [Pin(SETTINGS_CHANGED, probe=False)]
    name = _setting_name(words[1:])
    return [Pin(SETTINGS_CHANGED, probe=False)] if name is None else [Setting(name, None)]


def _prepare(statement: str, words: list[str]) -> list[Effect]:
    return [] if words[1:2] == ["TRANSACTION"] else [Pin(PREPARED)]


def _deallocate(statement: str, words: list[str]) -> list[Effect]:
    rest = words[2:] if words[1:2] == ["PREPARE"] else words[1:]
    if rest[:1] == ["ALL"]:
        return [DeallocateAll(), MaybeUnpin()]
    return [Deallocate(_folded(rest[0])), MaybeUnpin()] if rest else []


def _discard(statement: str, words: list[str]) -> list[Effect]:
    return [DiscardAll()] if words[1:2] == ["ALL"] else [MaybeUnpin()]


def _declare(statement: str, words: list[str]) -> list[Effect]:
    hold = any(words[index : index + 2] == ["WITH", "HOLD"] for index in range(len(words)))
    return [Pin(CURSOR)] if hold else []


def _create(statement: str, words: list[str]) -> list[Effect]:
    if not any(word in ("TEMP", "TEMPORARY") for word in words[1:5]):
        return []
    gone = any(words[index : index + 3] == ["ON", "COMMIT", "DROP"] for index in range(len(words)))
    return [Pin(TEMPORARY), MaybeUnpin()] if gone else [Pin(TEMPORARY)]


def _into_temporary(words: list[str]) -> list[Effect]:
    """SELECT … INTO TEMP, EXPLAIN ANALYZE CREATE TEMP TABLE … AS."""
    for index, word in enumerate(words):
        if word == "INTO" and any(one in ("TEMP", "TEMPORARY") for one in words[index + 1 : index + 3]):
            return [Pin(TEMPORARY)]
        if word == "CREATE" and any(one in ("TEMP", "TEMPORARY") for one in words[index + 1 : index + 4]):
            return [Pin(TEMPORARY)]
    return []


def _rollback(statement: str, words: list[str]) -> list[Effect]:
    return [RollbackTo()] if "TO" in words[1:4] else []


_VERBS: dict[str, Callable[[str, list[str]], list[Effect]]] = {
    "SET": _set,
    "RESET": _reset,
    "PREPARE": _prepare,
    "DEALLOCATE": _deallocate,
    "DISCARD": _discard,
    "DECLARE": _declare,
    "CREATE": _create,
    "ROLLBACK": _rollback,
    "LISTEN": lambda statement, words: [Pin(LISTENING)],
    "UNLISTEN": lambda statement, words: [MaybeUnpin()],
    "CLOSE": lambda statement, words: [MaybeUnpin()],
    "DROP": lambda statement, words: [MaybeUnpin()],
    "LOAD": lambda statement, words: [Pin(LOADED, probe=False, stains=True)],
}

_FUNCTION_PINS = {
    "NEXTVAL": Pin(SEQUENCE, probe=False), "SETVAL": Pin(SEQUENCE, probe=False), "CURRVAL": Pin(SEQUENCE, probe=False),
    "LASTVAL": Pin(SEQUENCE, probe=False), "SETSEED": _SEEDED, "PG_REPLICATION_ORIGIN_SESSION_SETUP": _SEEDED,
}  # fmt: skip


def _functions(tokens: list[tuple[str, str]], words: list[str]) -> list[Effect]:
    found: list[Effect] = []
    for index, ((kind, _token), word) in enumerate(zip(tokens, words, strict=True)):
        if kind not in ("word", "quoted"):
            continue
        name = (_folded(word) if kind == "quoted" else word).upper()
        if name in _FUNCTION_PINS:
            found.append(_FUNCTION_PINS[name])
        elif name == "SET_CONFIG":
            found += _configured_locally(words[index:]) if _is_local(words[index:]) else _configured(words)
        elif name.startswith(("PG_ADVISORY_UNLOCK", "PG_ADVISORY_XACT", "PG_TRY_ADVISORY_XACT")):
            if "UNLOCK" in name:
                found.append(MaybeUnpin())
        elif name.startswith(("PG_ADVISORY_", "PG_TRY_ADVISORY_")):
            found.append(Pin(LOCKED))
        elif name.startswith("DBLINK_CONNECT"):
            found.append(Pin(CONNECTED, probe=False, stains=True))
        elif name.startswith("PG_TEMP"):
            found.append(Pin(TEMPORARY))
    return found


_CONFIGURED = re.compile(
    r"SELECT (?:PG_CATALOG \. )?SET_CONFIG \( ('[A-Za-z_][\w$.]*') , ('(?:[^'\\]|'')*') , FALSE \)", re.ASCII
)


def _configured(words: list[str]) -> list[Effect]:
    """What a call of set_config for the session does: Django sets its time zone by SELECT set_config('…', '…', false)
    and nothing else, which can be done again elsewhere."""
    match = _CONFIGURED.fullmatch(" ".join(words))
    name = match.group(1)[1:-1].lower() if match else ""
    if any(word.lower() == "'seed'" for word in words):
        return [_SEEDED]
    if match is None or name in _LEXICAL | _OF_TRANSACTION | {"session_authorization"} or not match.group(2).isascii():
        return [Pin(SETTINGS_CHANGED, probe=False)]
    sql = f"SELECT pg_catalog.set_config({match.group(1)}, {match.group(2)}, false)".encode()
    temporary = name == "search_path" and makes_temporary(sql)
    return [Setting(name, sql), Pin(TEMPORARY)] if temporary else [Setting(name, sql)]


def _configured_locally(words: list[str]) -> list[Effect]:
    """What a call of set_config for the transaction does; its first argument may be anything."""
    name = words[2] if words[2:3] and words[3:4] == [","] else ""
    if name.lower() == "'seed'":
        return [_SEEDED]
    other = re.fullmatch(r"'[A-Za-z_][\w$.]*'", name, re.ASCII) and name[1:-1].lower() not in READ_BY
    return [] if other else [LocalSetting()]


def _is_local(words: list[str]) -> bool:
    """Whether a call of set_config ends with `, true)`: then it ends with the transaction."""
    depth = 0
    for index, word in enumerate(words[1:], start=1):
        depth += (word == "(") - (word == ")")
        if depth == 0:
            return [one.upper() for one in words[index - 2 : index]] == [",", "TRUE"]
    return False


def _folded(word: str) -> str:
    return word[1:-1].replace('""', '"') if word.startswith('"') else word.lower()


# Words and statements

_TOKEN = re.compile(
    r"""(?P<space>\s+|--[^\n\r]*)
      | (?P<comment>/\*)
      | (?P<escape>[eE]'(?:[^'\\]|''|\\.)*'(?:[ \t\f\v]*[\n\r]\s*'(?:[^'\\]|''|\\.)*')*)
      | (?P<string>(?:[bBxXnN]|[uU]&)?'(?:[^']|'')*')
      | (?P<dollar>\$(?:[A-Za-z_\x80-\U0010ffff][\w\x80-\U0010ffff]*)?\$)
      | (?P<quoted>(?:[uU]&)?"(?:[^"]|"")*")
      | (?P<word>[A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*)
      | (?P<number>[0-9][\w.]*|\.[0-9]\w*)
      | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)


_COMMENT = re.compile(r"/\*|\*/")
_SILENT = frozenset({"space", "comment"})
_STRINGS = frozenset({"string", "escape", "dollar"})


def _statements(text: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """(text, tokens) of every statement that is not empty. A token is (kind, text): word, quoted, string or other."""
    found: list[tuple[str, list[tuple[str, str]]]] = []
    tokens: list[tuple[str, str]] = []
    position = start = end = depth = 0
    while (match := _TOKEN.match(text, position)) is not None:
        kind = str(match.lastgroup)
        position = _comment_end(text, match.end()) if kind == "comment" else match.end()
        if kind == "dollar":
            closing = text.find(match.group(), position)
            position = len(text) if closing < 0 else closing + len(match.group())
        lexeme = text[match.start() : position]
        if kind in _SILENT:
            continue
        depth += (lexeme == "(") - (lexeme == ")")
        if lexeme == ";" and kind == "other" and depth <= 0:
            if tokens:
                found.append((text[start:end], tokens))
            tokens = []
        else:
            start, end = (start if tokens else match.start()), position
            tokens.append(("string" if kind in _STRINGS else kind, lexeme))
    if tokens:
        found.append((text[start:end], tokens))
    return found


def _comment_end(text: str, position: int) -> int:
    """Comments nest (4.1.5); one that is not closed reaches to the end."""
    depth = 1
    for match in _COMMENT.finditer(text, position):
        depth += 1 if match.group() == "/*" else -1
        if depth == 0:
            return match.end()
    return len(text)
