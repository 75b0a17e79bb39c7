"""The four error families of the whole program. Foreign exceptions are mapped to one of them once, at the border.

`ApiError`   the caller's request cannot be served; becomes an AWS error answer.
`Transient`  the effect may succeed if repeated later; workflows retry it.
`Permanent`  the effect can never succeed as asked; workflows stop and tell a person.
Protocol errors live with their codecs in `mainstay.protocol`.
"""

from __future__ import annotations


class MainstayError(Exception):
    """Base of all our errors. `hint` tells a person what to do and may be empty."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ApiError(MainstayError):
    """An AWS error answer.

    `shape` is the exception shape of the service model ("DBInstanceNotFoundFault") or, for codes that the model does
    not list ("InvalidParameterValue"), the wire code itself. The serializer derives the wire code and the HTTP status
    from the model; `status` (default 400) is used only for codes the model does not know.
    """

    def __init__(self, shape: str, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.shape = shape
        self.status = status

    def __str__(self) -> str:
        return f"{self.shape}: {self.message}"


def invalid_value(message: str) -> ApiError:
    """`InvalidParameterValue`: one parameter is wrong by itself."""
    return ApiError("InvalidParameterValue", message)


def invalid_combination(message: str) -> ApiError:
    """`InvalidParameterCombination`: each parameter is right, together they are not."""
    return ApiError("InvalidParameterCombination", message)


def missing_parameter(message: str) -> ApiError:
    """`MissingParameter`: a member that this request needs is absent."""
    return ApiError("MissingParameter", message)


class Transient(MainstayError):
    """The effect failed in a way that time may heal. `retry_after_s` is the least wait before the next try."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class Refused(Transient):
    """An engine that runs answers a session of our own with an error: as it is, it cannot be operated."""


class Answered(Transient):
    """An engine answers one step with an error, of which nothing is known but its words.

    It says nothing of whether the engine can be operated. Whoever repeats the step does so less and less often
    (`agent/patience.py`).
    """


class CannotLead(Transient):
    """A follower that is to lead cannot apply what it has received, or no longer has it. Whoever led before has it."""


class Permanent(MainstayError):
    """The effect cannot succeed as asked; repeating it is useless."""
