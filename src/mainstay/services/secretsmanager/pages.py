"""Pages of lists: `MaxResults` and `NextToken`, which names the last item shown."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from mainstay.model.errors import ApiError
from mainstay.services.operations import Request
from mainstay.services.secretsmanager.limits import PAGE_SIZE

T = TypeVar("T")
_TOKEN_BYTES = 24


def page(
    request: Request, items: Sequence[T], identity: Callable[[T], str], *, size: int = PAGE_SIZE
) -> tuple[list[T], dict[str, Any]]:
    """The page asked for of items in order, and the member that tells how to go on.

    Raises `ApiError` InvalidNextTokenException for a token that no present item has given.
    """
    size = min(request.get("MaxResults", size), size)
    start = 0
    if token := request.get("NextToken"):
        places = [place for place, item in enumerate(items) if _token(identity(item)) == token]
        if not places:
            raise ApiError("InvalidNextTokenException", "The NextToken is not valid. Start again without one.")
        start = places[0] + 1
    shown = list(items[start : start + size])
    if start + size >= len(items):
        return shown, {}
    return shown, {"NextToken": _token(identity(shown[-1]))}


def _token(identity: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(identity.encode()).digest()[:_TOKEN_BYTES]).decode()
