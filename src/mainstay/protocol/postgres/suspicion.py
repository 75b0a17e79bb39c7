"""Whether a SQL text could do something to its session: one search over its bytes. Source: see `effects.py`."""

from __future__ import annotations

import re
from typing import Final

UNREAD_BYTES_MIN: Final = 2 * 1024 * 1024
"""From here on a text is not even searched: 50 MB took seconds, in which no other client of the process was served."""

_SUSPICIOUS: Final = re.compile(
    rb"\W(?:(?:reset|prepare|listen|load|lastval|unlisten|close|currval|temp(?:orary)?|nextval"
    rb"|d(?:eallocate|iscard|eclare|rop|o|blink_connect\w*)|set(?:val|_config|seed)"
    rb"|pg_(?:temp\w*|advisory_\w+|try_advisory_\w+|settings|replication_origin_session_setup))\b"
    rb"|(?<=[;\n\r])[ \t\f\v]*set\b|(?<=\*/)[ \t\f\v]*set\b"
    rb"|rollback\b(?!\s*(?:;\s*)?\Z))"
)
"""In lower case: a search that has to fold cases takes twice as long. Every find begins after what is no part of a
word, so that the search runs over words without trying each letter: twice as fast again.
"""

_SHORT_BYTES: Final = 1024
_DIGITS: Final = bytes.maketrans(b"123456789", b"000000000")


def suspicious(sql: bytes) -> bool:
    """Whether `effects` could find anything. False is certain."""
    # Clients send the same texts again and again, with other numbers in them. No digit differs from another here.
    if len(sql) > _SHORT_BYTES:
        return len(sql) >= UNREAD_BYTES_MIN or _search(sql)
    shape = sql.translate(_DIGITS)
    latest = _LATEST
    if shape == latest.shape:  # comparing two is less than finding one among thousands
        return latest.suspicious
    known = _KNOWN.get(shape)
    if known is None:
        if len(_KNOWN) >= 4096:
            _KNOWN.clear()
        known = _KNOWN[shape] = _search(sql)
    latest.shape, latest.suspicious = shape, known
    return known


def _search(sql: bytes) -> bool:
    return _SUSPICIOUS.search(b"\n" + sql.lower()) is not None


_KNOWN: Final[dict[bytes, bool]] = {}


class _Judged:
    """A shape, and what was found of it."""

    __slots__ = ("shape", "suspicious")

    def __init__(self) -> None:
        self.shape = b""
        self.suspicious = False


_LATEST: Final = _Judged()
