"""ClientToken: a repeated request answers as it did the first time (EC2 API reference, "Ensuring idempotency")."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec

from mainstay.model.errors import ApiError, invalid_value
from mainstay.model.records import Record
from mainstay.services.operations import Call, Request, Result

TOKEN_CHARACTERS_MAX = 64
KEPT_S = 24 * 3600.0


class AnsweredRequest(Record, frozen=True, kw_only=True):
    """What a request with a ClientToken was answered. `digest` names its other members."""

    KIND: ClassVar[str] = "ec2-answered-request"

    token: str
    operation: str
    digest: str
    answer: dict[str, Any]
    at: float

    def key(self) -> str:
        return f"{self.operation}:{self.token}"


def once(call: Call, operation: str, request: Request, handler: Callable[[Call, Request], Result]) -> Result:
    """The handler's answer, or the one that the same request with the same token got within the last day.

    Raises `ApiError` IdempotentParameterMismatch for the token of a different request.
    """
    token = str(request.get("ClientToken") or "")
    if not token:
        return handler(call, request)
    if len(token) > TOKEN_CHARACTERS_MAX:
        raise invalid_value(f"ClientToken is longer than {TOKEN_CHARACTERS_MAX} characters.")
    now = call.clock.wall()
    others = {member: value for member, value in request.items() if member != "ClientToken"}
    digest = hashlib.sha256(msgspec.json.encode(others, order="sorted")).hexdigest()
    known = call.tx.get(AnsweredRequest, call.scope, f"{operation}:{token}")
    if known is not None and now - known.at < KEPT_S:
        if known.digest != digest:
            raise ApiError(
                "IdempotentParameterMismatch", "The client token was used before with different request parameters."
            )
        return known.answer
    answer = handler(call, others)
    for old in call.tx.scan(AnsweredRequest, call.scope):
        if now - old.at >= KEPT_S:
            call.tx.delete(old)
    call.tx.insert(
        AnsweredRequest(scope=call.scope, token=token, operation=operation, digest=digest, answer=answer or {}, at=now)
    )
    return answer
