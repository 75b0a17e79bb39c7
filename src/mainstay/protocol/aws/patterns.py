"""The `pattern` traits of AWS's models as Python regular expressions that match in linear time.

AWS's patterns are Java's: `\\w` is ASCII, `\\p{L}` names a Unicode category, and a match must cover the whole value.
A pattern that repeats a group that itself ends in a repetition may take exponential time on a hostile value, so it is
used only if it was looked at: it stands in `_REVIEWED`, as it is or as an equivalent that is linear.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from functools import cache, lru_cache

_CATEGORY = re.compile(r"\\p\{([LMNPSZ])\}")
_NESTED_REPEAT = re.compile(r"[+*}]\??\)(?:[+*]|\{)")

_REVIEWED: dict[str, str | None] = {
    # "-?" may be absent, so the original splits a run of letters in 2^n ways. One character per round is the same set.
    r"[a-zA-Z](?:-?[a-zA-Z0-9]+)*": r"[a-zA-Z](?:-?[a-zA-Z0-9])*",
    # Each round must begin with a separator that its body cannot hold, so there is one way to match.
    r"arn:aws[a-z\-]*:rds(-[a-z]*)?:[a-z0-9\-]*:[0-9]*:(cluster|db):[a-z][a-z0-9]*(-[a-z0-9]+)*": (
        r"arn:aws[a-z\-]*:rds(-[a-z]*)?:[a-z0-9\-]*:[0-9]*:(cluster|db):[a-z][a-z0-9]*(-[a-z0-9]+)*"
    ),
    r"((/[A-Za-z0-9\.,\+@=_-]+)*)/": r"((/[A-Za-z0-9\.,\+@=_-]+)*)/",
    # The model's "^" in the middle can never match, so obeying it would refuse every value.
    r"^arn:aws([a-z-]+)?:ec2:[a-z\d-]+:\d{12}:placement-group/^.{1,255}$": None,
}


@cache
def compiled(pattern: str) -> re.Pattern[str] | None:
    """The expression to be used with `fullmatch`, or None if this pattern cannot be checked safely."""
    if pattern in _REVIEWED:
        replacement = _REVIEWED[pattern]
        if replacement is None:
            return None
        pattern = replacement
    elif _NESTED_REPEAT.search(pattern):
        return None
    try:
        return re.compile(_CATEGORY.sub(lambda found: _category_ranges(found[1]), pattern), re.ASCII)
    except re.error:
        return None


@lru_cache(maxsize=8)
def _category_ranges(category: str) -> str:
    """All characters of a Unicode category as the inside of a character class; built when first needed (0.1 s)."""
    ranges: list[str] = []
    start: int | None = None
    for code in range(sys.maxunicode + 2):
        inside = code <= sys.maxunicode and unicodedata.category(chr(code))[0] == category
        if inside and start is None:
            start = code
        elif not inside and start is not None:
            ranges.append(f"\\U{start:08x}-\\U{code - 1:08x}")
            start = None
    return "".join(ranges)
