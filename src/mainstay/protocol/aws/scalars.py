"""Text and JSON numbers to Python values. Every function raises ValueError, and nothing else, on bad input."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from datetime import UTC, datetime

from mainstay.protocol.aws import limits

INTEGER_RANGES = {"integer": (-(2**31), 2**31 - 1), "long": (-(2**63), 2**63 - 1)}
_INTEGER = re.compile(rf"[+-]?[0-9]{{1,{limits.INTEGER_DIGITS_MAX}}}", re.ASCII)
_FLOAT = re.compile(r"[+-]?([0-9]{1,40}(\.[0-9]{0,40})?|\.[0-9]{1,40})([eE][+-]?[0-9]{1,4})?", re.ASCII)
_SPECIAL_FLOATS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
_BOOLEANS = {"true": True, "false": False}


def integer_from_text(text: str, type_name: str) -> int:
    """Decimal digits with an optional sign, within 32 or 64 bits."""
    if _INTEGER.fullmatch(text) is None:
        raise ValueError("not an integer")
    return checked_integer(int(text), type_name)


def checked_integer(value: int, type_name: str) -> int:
    """The same integer, if the type can hold it."""
    low, high = INTEGER_RANGES[type_name]
    if not low <= value <= high:
        raise ValueError("out of range")
    return value


def float_from_text(text: str) -> float:
    """A decimal number, or one of NaN, Infinity, -Infinity."""
    if text in _SPECIAL_FLOATS:
        return _SPECIAL_FLOATS[text]
    if _FLOAT.fullmatch(text) is None:
        raise ValueError("not a number")
    return float(text)


def boolean_from_text(text: str) -> bool:
    """ "true" or "false", in any case: hand-written clients send Python's and Ruby's spellings."""
    try:
        return _BOOLEANS[text.lower()]
    except KeyError:
        raise ValueError("not a boolean") from None


def timestamp_from_text(text: str) -> datetime:
    """ISO 8601; without an offset it is UTC, as AWS reads it."""
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("out of range") from error


def timestamp_from_number(number: float) -> datetime:
    """Epoch seconds."""
    try:
        return datetime.fromtimestamp(number, UTC)
    except (OverflowError, OSError) as error:
        raise ValueError("out of range") from error


def blob_from_text(text: str) -> bytes:
    """Base64, strictly: a typing error must not become other bytes."""
    try:
        return b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
