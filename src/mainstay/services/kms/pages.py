"""Pages of lists: `Limit`, `Marker` and `Truncated`. A marker names the last item shown, so items may come and go."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from mainstay.model.errors import ApiError
from mainstay.services.operations import Request

T = TypeVar("T")
_PREFIX = "1:"


def page(
    request: Request, items: Sequence[T], identity: Callable[[T], str], sizes: tuple[int, int]
) -> tuple[list[T], dict[str, Any]]:
    """The page asked for, and the members that tell how to go on. `items` are ordered by `identity`.

    `sizes` are the default size and the largest. Raises `ApiError` InvalidMarkerException, ValidationException.
    """
    default, most = sizes
    size = request.get("Limit", default)
    if not 1 <= size <= most:
        raise ApiError(
            "ValidationException",
            f"1 validation error detected: Value '{size}' at 'limit' failed to satisfy constraint: Member must have"
            f" value between 1 and {most}",
        )
    if marker := request.get("Marker"):
        after = _read(marker)
        items = [item for item in items if identity(item) > after]
    shown = list(items[:size])
    if len(items) <= size:
        return shown, {"Truncated": False}
    return shown, {"Truncated": True, "NextMarker": _write(identity(shown[-1]))}


def _write(identity: str) -> str:
    return base64.urlsafe_b64encode((_PREFIX + identity).encode()).decode()


def _read(marker: str) -> str:
    try:
        text = base64.b64decode(marker.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise _invalid() from error
    if not text.startswith(_PREFIX):
        raise _invalid()
    return text.removeprefix(_PREFIX)


def _invalid() -> ApiError:
    return ApiError("InvalidMarkerException", "The marker is not valid. Start again without one.")
