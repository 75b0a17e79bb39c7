"""The Filters member of Describe operations: an item passes if, for each filter, one of its values is one asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from mainstay.model.errors import invalid_value
from mainstay.services.operations import Request

T = TypeVar("T")

VALUES_LIMIT = 200

NO_FILTERS: Mapping[str, Callable[[object], Iterable[str]]] = {}


def select(items: Iterable[T], request: Request, columns: Mapping[str, Callable[[T], Iterable[str]]]) -> list[T]:
    """The items that pass all filters of the request. `columns` gives, per filter name, the values an item has.

    Identifiers are compared without regard to case, as they are stored in lower case. Raises `ApiError`
    InvalidParameterValue for a filter that is none of `columns`, has no values or too many.
    """
    selected = list(items)
    for one in request.get("Filters") or ():
        name = str(one.get("Name", ""))
        column = columns.get(name)
        if column is None:
            raise invalid_value(f"Unrecognized filter name: {name}")
        values = {str(value).lower() for value in one.get("Values") or ()}
        if not values:
            raise invalid_value(f"The filter {name} must have at least one value.")
        if len(values) > VALUES_LIMIT:
            raise invalid_value(f"The filter {name} has more than {VALUES_LIMIT} values.")
        selected = [item for item in selected if not values.isdisjoint(value.lower() for value in column(item))]
    return selected
