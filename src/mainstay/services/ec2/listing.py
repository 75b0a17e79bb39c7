"""Describe operations: filters with wildcards, pages, and the shape of the answer."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeVar

from mainstay.model.ec2 import Resource
from mainstay.model.errors import ApiError, invalid_value
from mainstay.services.operations import Request

T = TypeVar("T")

Column = Callable[[T], Iterable[str]]

LEAST_PAGE = 5
LARGEST_PAGE = 1000
FILTER_VALUES_LIMIT = 200

NOTHING: tuple[str, ...] = ()


def never(_item: object) -> Iterable[str]:
    """The column of something that none of our resources has: no value matches it."""
    return NOTHING


def flag(value: bool) -> tuple[str]:
    """A boolean as filters spell it."""
    return ("true" if value else "false",)


@dataclass(frozen=True, kw_only=True)
class Listing(Generic[T]):
    """How one Describe operation selects, orders and shows items.

    `columns` gives the values that each filter compares; an item passes a filter when any of its values matches any
    of the filter's. `tags` finds the tags for `tag:<key>` and `tag-key`; None where the operation has no such filters.
    """

    member: str
    key: Callable[[T], str]
    columns: Mapping[str, Column[T]]
    show: Callable[[T], dict[str, Any]]
    tags: Callable[[T], Mapping[str, str]] | None = None

    def answer(self, items: Iterable[T], request: Request, *, filters: str = "Filters") -> dict[str, Any]:
        """The operation's output: the items that pass all filters, one page of them, ordered by key."""
        passing = sorted(self.select(items, request.get(filters) or ()), key=self.key)
        page, token = _page([self.key(item) for item in passing], request)
        shown: dict[str, Any] = {self.member: [self.show(passing[position]) for position in page]}
        return shown | ({"NextToken": token} if token else {})

    def select(self, items: Iterable[T], filters: Iterable[Mapping[str, Any]]) -> list[T]:
        """The items that pass all of the request's filters."""
        selected = list(items)
        for one in filters:
            column = self._column(str(one.get("Name", "")))
            values = [str(value) for value in one.get("Values") or ()]
            if len(values) > FILTER_VALUES_LIMIT:
                raise ApiError(
                    "FilterLimitExceeded",
                    f"The maximum number of filter values specified on a single call is {FILTER_VALUES_LIMIT}",
                )
            patterns = [_pattern(value) for value in values]
            selected = [
                item
                for item in selected
                if any(pattern.fullmatch(value) for value in column(item) for pattern in patterns)
            ]
        return selected

    def _column(self, name: str) -> Column[T]:
        tags = self.tags
        if name in self.columns:
            return self.columns[name]
        if tags is not None and name == "tag-key":
            return lambda item: tags(item).keys()
        if tags is not None and name == "tag-value":
            return lambda item: tags(item).values()
        if tags is not None and name.startswith("tag:"):
            key = name.removeprefix("tag:")
            return lambda item: [tags(item)[key]] if key in tags(item) else NOTHING
        raise invalid_value(f"The filter '{name}' is invalid")


def tags_of(resource: Resource) -> Mapping[str, str]:
    """The tags of a plain resource, for `Listing.tags`."""
    return resource.tags


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Tags as answers show them."""
    return [{"Key": key, "Value": value} for key, value in sorted(tags.items())]


@lru_cache(maxsize=1024)
def _pattern(text: str) -> re.Pattern[str]:
    """A filter value: `*` is any text, `?` any one character, a backslash takes the next character literally."""
    segments = [""]
    characters = iter(text)
    for character in characters:
        if character == "*":
            segments.append("")
        elif character == "?":
            segments[-1] += "."
        else:
            segments[-1] += re.escape(next(characters, "\\") if character == "\\" else character)
    first, *others = segments
    if not others:
        return re.compile(first, re.DOTALL)
    # The leftmost place of each inner segment is always good enough. Atomic groups keep the matcher from trying the
    # others, which would take time exponential in the number of stars.
    inner = "".join(f"(?>.*?{segment})" for segment in others[:-1] if segment)
    return re.compile(f"{first}{inner}.*{others[-1]}", re.DOTALL)


def _page(keys: list[str], request: Request) -> tuple[range, str]:
    """The positions to show, and the token of the page after them (empty at the end)."""
    size = request.get("MaxResults")
    if size is None:
        size = LARGEST_PAGE
    elif not LEAST_PAGE <= size <= LARGEST_PAGE:
        bound = (
            f"greater than or equal to {LEAST_PAGE}" if size < LEAST_PAGE else f"less than or equal to {LARGEST_PAGE}"
        )
        raise invalid_value(f"Value ( {size} ) for parameter maxResults is invalid. Expecting a value {bound}.")
    start = 0
    if token := request.get("NextToken"):
        # The token holds a key, not a position, so that pages stay right while resources come and go.
        after = _decode(str(token))
        start = sum(1 for key in keys if key <= after)
    end = min(start + size, len(keys))
    return range(start, end), _encode(keys[end - 1]) if end < len(keys) else ""


def _encode(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).decode()


def _decode(token: str) -> str:
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise ApiError("InvalidNextToken", "The specified NextToken is not valid.") from error
