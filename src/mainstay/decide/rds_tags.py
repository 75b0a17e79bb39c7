"""Tags of RDS resources (RDS API reference, "Tag"): up to 50, keys unique, some prefixes reserved."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mainstay.model.errors import invalid_value

TAGS_PER_RESOURCE = 50
KEY_LENGTH = 128
VALUE_LENGTH = 256
RESERVED_PREFIXES = ("aws:", "rds:")

# \w is Unicode letters, digits and the underscore; \s is white space.
_ALLOWED = re.compile(r"[\w\s.:/=+\-@]*")


def with_tags(present: Mapping[str, str], added: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """`present` with `added` ({"Key", "Value"}) written over it; adding the same tags again changes nothing.

    Raises `ApiError` InvalidParameterValue when a tag is not allowed or the result would have too many.
    """
    new: dict[str, str] = {}
    for tag in added:
        key, value = str(tag.get("Key") or ""), str(tag.get("Value") or "")
        _check(key, value)
        if key in new:
            raise invalid_value(f"Tag keys must be unique. The key {key} is specified more than once.")
        new[key] = value
    merged = {**present, **new}
    if len(merged) > TAGS_PER_RESOURCE:
        raise invalid_value(f"A resource can have at most {TAGS_PER_RESOURCE} tags.")
    return merged


def without_tags(present: Mapping[str, str], keys: Iterable[str]) -> dict[str, str]:
    """`present` without `keys`; removing what is not there changes nothing."""
    removed = frozenset(keys)
    return {key: value for key, value in present.items() if key not in removed}


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Tags as answers show them, ordered by key."""
    return [{"Key": key, "Value": value} for key, value in sorted(tags.items())]


def _check(key: str, value: str) -> None:
    if not 1 <= len(key) <= KEY_LENGTH:
        raise invalid_value(f"Tag keys must be between 1 and {KEY_LENGTH} characters long.")
    if len(value) > VALUE_LENGTH:
        raise invalid_value(f"The value of tag {key} is longer than {VALUE_LENGTH} characters.")
    for text in (key, value):
        if text.lower().startswith(RESERVED_PREFIXES):
            raise invalid_value(f"Tag keys and values must not begin with {' or '.join(RESERVED_PREFIXES)}: {text}")
        if not _ALLOWED.fullmatch(text):
            raise invalid_value(
                "Tag keys and values may contain only letters, digits, white space and the characters _.:/=+-@:"
                f" {text!r}"
            )
