"""Checks parsed parameters against the constraints of the model, in the words of the service.

RDS and EC2 report the first problem as a plain code and sentence; IAM, STS and the JSON services list all of them in
the text of AWS's validation framework ("2 validation errors detected: Value 'x' at 'y' failed to satisfy …").
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from botocore.model import ListShape, MapShape, Shape, StringShape, StructureShape

from mainstay.model.errors import ApiError, invalid_value, missing_parameter
from mainstay.protocol.aws.patterns import compiled
from mainstay.protocol.aws.vocabulary import VALIDATION_ERROR_SERVICES, Protocol

_REPORTED_MAX = 10
_ECHO_CHARACTERS = 256
_HIDDEN = object()


class _Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One broken constraint. `path` has the model's member names; an absent required member has the value None."""

    path: tuple[str, ...]
    value: Any
    constraint: str


def validate(shape: StructureShape, parameters: dict[str, Any], service: str, protocol: Protocol) -> None:
    """Returns if every constraint of the shape holds, else raises the service's `ApiError`."""
    problems: list[_Problem] = []
    for problem in _structure(shape, parameters, ()):
        problems.append(problem)
        if len(problems) == _REPORTED_MAX:
            break
    if not problems:
        return
    if protocol == "json" or service in VALIDATION_ERROR_SERVICES:
        raise _framework_error(problems, "ValidationException" if protocol == "json" else "ValidationError")
    raise _plain_error(problems[0])


def _structure(shape: StructureShape, values: dict[str, Any], path: tuple[str, ...]) -> Iterator[_Problem]:
    for name in shape.required_members:
        if name not in values:
            yield _Problem(path=(*path, name), value=None, constraint="Member must not be null")
    for name, value in values.items():
        yield from _value(shape.members[name], value, (*path, name))


def _value(shape: Shape, value: Any, path: tuple[str, ...]) -> Iterator[_Problem]:
    if isinstance(shape, StructureShape):
        yield from _structure(shape, value, path)
    elif isinstance(shape, ListShape):
        yield from _sized(shape, value, path)
        for number, item in enumerate(value, 1):
            yield from _value(shape.member, item, (*path, str(number), "member"))
    elif isinstance(shape, MapShape):
        yield from _sized(shape, value, path)
        for key, item in value.items():
            yield from _value(shape.key, key, (*path, "key"))
            yield from _value(shape.value, item, (*path, key, "member"))
    elif isinstance(value, str):
        yield from _string(shape, value, path)
    elif isinstance(value, bytes):
        yield from _sized(shape, value, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _ranged(shape, value, path)


def _string(shape: Shape, value: str, path: tuple[str, ...]) -> Iterator[_Problem]:
    too_long = False
    for problem in _sized(shape, value, path):
        too_long = True
        yield problem
    shown = _HIDDEN if shape.metadata.get("sensitive") else value
    pattern = shape.metadata.get("pattern")
    # A value of the wrong length is reported as that alone, and never handed to an expression.
    expression = compiled(pattern) if pattern and not too_long else None
    if expression is not None and expression.fullmatch(value) is None:
        yield _Problem(path=path, value=shown, constraint=f"Member must satisfy regular expression pattern: {pattern}")
    if isinstance(shape, StringShape) and shape.enum and value not in shape.enum:
        yield _Problem(
            path=path, value=shown, constraint=f"Member must satisfy enum value set: [{', '.join(shape.enum)}]"
        )


def _sized(shape: Shape, value: Any, path: tuple[str, ...]) -> Iterator[_Problem]:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    shown = _HIDDEN if shape.metadata.get("sensitive") or not isinstance(value, str) else value
    if low is not None and len(value) < low:
        constraint = f"Member must have length greater than or equal to {low}"
        yield _Problem(path=path, value=shown, constraint=constraint)
    if high is not None and len(value) > high:
        constraint = f"Member must have length less than or equal to {high}"
        yield _Problem(path=path, value=shown, constraint=constraint)


def _ranged(shape: Shape, value: float, path: tuple[str, ...]) -> Iterator[_Problem]:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if low is not None and not value >= low:
        constraint = f"Member must have value greater than or equal to {low}"
        yield _Problem(path=path, value=value, constraint=constraint)
    if high is not None and not value <= high:
        yield _Problem(path=path, value=value, constraint=f"Member must have value less than or equal to {high}")


def _framework_error(problems: list[_Problem], code: str) -> ApiError:
    texts = []
    for problem in problems:
        place = ".".join(part[:1].lower() + part[1:] for part in problem.path)
        if problem.value is None:
            value = "Value null "
        elif problem.value is _HIDDEN:
            value = "Value "
        else:
            value = f"Value '{str(problem.value)[:_ECHO_CHARACTERS]}' "
        texts.append(f"{value}at '{place}' failed to satisfy constraint: {problem.constraint}")
    plural = "s" if len(texts) > 1 else ""
    return ApiError(code, f"{len(texts)} validation error{plural} detected: {'; '.join(texts)}")


def _plain_error(problem: _Problem) -> ApiError:
    name = ".".join(part for part in problem.path if part != "member")
    if problem.value is None:
        return missing_parameter(f"The request must contain the parameter {name}")
    shown = "" if problem.value is _HIDDEN else f"({str(problem.value)[:_ECHO_CHARACTERS]}) "
    return invalid_value(f"Value {shown}for parameter {name} is invalid. {problem.constraint}.")
