"""Pages of Describe operations.

A marker holds the key of the last item shown, not a position: items that come or go between two pages neither shift
the rest nor make it repeat.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from mainstay.model.errors import invalid_value
from mainstay.services.operations import Request

T = TypeVar("T")

LEAST_RECORDS = 20
MOST_RECORDS = 100
DEFAULT_RECORDS = 100
MARKER_LENGTH = 1024

# Distinguishes our markers from base64 text that happens to decode.
_MARK = "after:"


def page(
    items: Iterable[T], key: Callable[[T], str], request: Request, *, most: int = MOST_RECORDS
) -> tuple[list[T], dict[str, Any]]:
    """One page of the items, ordered by `key` (unique), and {"Marker": …} if more follow, else {}.

    Raises `ApiError` InvalidParameterValue for a MaxRecords out of 20 to `most`, or a Marker that we did not make.
    """
    size = _size(request.get("MaxRecords"), most)
    after = _read(str(request["Marker"])) if request.get("Marker") else None
    keyed = sorted(((key(item), item) for item in items), key=lambda pair: pair[0])
    rest = [pair for pair in keyed if after is None or pair[0] > after]
    shown = rest[:size]
    more = {"Marker": _marker(shown[-1][0])} if len(rest) > size else {}
    return [item for _, item in shown], more


def stored_page(
    scan: Callable[[str, int], list[T]], key: Callable[[T], str], request: Request
) -> tuple[list[T], dict[str, Any]]:
    """As `page`, for records read in the order of `key` by `scan(after, limit)`: only this page of them is read."""
    size = _size(request.get("MaxRecords"), MOST_RECORDS)
    after = _read(str(request["Marker"])) if request.get("Marker") else ""
    found = scan(after, size + 1)
    more = {"Marker": _marker(key(found[size - 1]))} if len(found) > size else {}
    return found[:size], more


def sortable(text: str) -> str:
    """Text whose order is the order of the numbers in it: "17.10" comes after "17.9"."""
    return "".join(part.rjust(8, "0") if part.isdecimal() else part for part in _digit_runs(text))


def _digit_runs(text: str) -> list[str]:
    runs: list[str] = []
    for character in text:
        if runs and runs[-1].isdecimal() == character.isdecimal():
            runs[-1] += character
        else:
            runs.append(character)
    return runs


def _size(asked: int | None, most: int) -> int:
    if asked is None:
        return DEFAULT_RECORDS
    if not LEAST_RECORDS <= asked <= most:
        raise invalid_value(f"Invalid value {asked} for MaxRecords. Must be between {LEAST_RECORDS} and {most}")
    return asked


def _marker(key: str) -> str:
    return base64.urlsafe_b64encode((_MARK + key).encode()).decode()


def _read(marker: str) -> str:
    try:
        if len(marker) > MARKER_LENGTH:
            raise ValueError("longer than any marker of ours")
        text = base64.b64decode(marker, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise _invalid(marker) from error
    if not text.startswith(_MARK):
        raise _invalid(marker)
    return text.removeprefix(_MARK)


def _invalid(marker: str) -> Exception:
    return invalid_value(f"Invalid Marker: {marker[:64]}")
