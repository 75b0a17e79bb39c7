"""Pages of lists: `MaxItems`, `Marker`, `IsTruncated`. A marker names the last item shown, so pages survive changes."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from mainstay.model.errors import ApiError
from mainstay.services.iam.limits import PAGE_SIZE, PAGE_SIZE_MAX
from mainstay.services.operations import Request

T = TypeVar("T")


def page(request: Request, items: Iterable[T], key: Callable[[T], str]) -> tuple[list[T], dict[str, Any]]:
    """The items of the page asked for, in order of `key`, and the members of the answer that tell how to go on."""
    size = request.get("MaxItems", PAGE_SIZE)
    if not 1 <= size <= PAGE_SIZE_MAX:
        raise ApiError(
            "ValidationError",
            f"1 validation error detected: Value '{size}' at 'maxItems' failed to satisfy constraint: Member must have"
            f" value between 1 and {PAGE_SIZE_MAX}",
        )
    after = _read_marker(request["Marker"]) if request.get("Marker") else ""
    rest = sorted((item for item in items if key(item) > after), key=key)
    shown = rest[:size]
    if len(shown) == len(rest):
        return shown, {"IsTruncated": False}
    return shown, {"IsTruncated": True, "Marker": base64.urlsafe_b64encode(key(shown[-1]).encode()).decode()}


def _read_marker(marker: str) -> str:
    try:
        return base64.b64decode(marker.encode(), altchars=b"-_", validate=True).decode()
    except ValueError as error:
        raise ApiError("ValidationError", "Invalid Marker.") from error
