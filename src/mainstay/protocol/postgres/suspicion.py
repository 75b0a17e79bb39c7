"""Whether a SQL text could do something to its session: one search over its bytes. Source: see `effects.py`."""

from __future__ import annotations

import re
from typing import Final

_SUSPICIOUS: Final = re.compile(
    rb"(?:\A|;|\*/|\n|\r)[ \t\f\v]*set\b"
    rb"|\b(?:reset|prepare|deallocate|discard|listen|unlisten|declare|close|temp|temporary|pg_temp\w*|load|nextval|setval"
    rb"|currval|lastval|set_config|pg_advisory_\w+|pg_try_advisory_\w+|drop|do|setseed|dblink_connect\w*|pg_settings|pg_replication_origin_session_setup)\b"
    rb"|\brollback\b(?!\s*(?:;\s*)?\Z)"
)
"""In lower case: a search that has to fold cases takes twice as long."""

_SHORT_BYTES: Final = 1024
_DIGITS: Final = bytes.maketrans(b"123456789", b"000000000")


def suspicious(sql: bytes) -> bool:
    """Whether `effects` could find anything. False is certain."""
    # Clients send the same texts again and again, with other numbers in them. No digit differs from another here.
    if len(sql) > _SHORT_BYTES:
        return _search(sql)
    shape = sql.translate(_DIGITS)
    known = _KNOWN.get(shape)
    if known is None:
        if len(_KNOWN) >= 4096:
            _KNOWN.clear()
        known = _KNOWN[shape] = _search(sql)
    return known


def _search(sql: bytes) -> bool:
    return _SUSPICIOUS.search(sql.lower()) is not None


_KNOWN: Final[dict[bytes, bool]] = {}
