"""Reads a JSON body by a shape, for the json 1.0 and 1.1 protocols."""

from __future__ import annotations

from typing import Any

import msgspec
from botocore.model import ListShape, MapShape, Shape, StructureShape

from mainstay.model.errors import ApiError
from mainstay.protocol.aws import limits, scalars
from mainstay.protocol.aws.vocabulary import bad_value, malformed


class JsonReader:
    """One request's reader. `path` is the member's place, for error messages."""

    def __init__(self, service: str) -> None:
        self._service = service

    def read(self, shape: StructureShape | None, body: bytes) -> dict[str, Any]:
        """The members of the body that the shape knows; an empty body is an empty object."""
        if not body.strip():
            return {}
        try:
            document = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise malformed("json", "The request body is not valid JSON.") from error
        if not isinstance(document, dict):
            raise malformed("json", "The request body must be a JSON object.")
        return {} if shape is None else self._structure(shape, document, "", 1)

    def _structure(self, shape: StructureShape, document: Any, path: str, depth: int) -> dict[str, Any]:
        if not isinstance(document, dict):
            raise self._bad(path, "an object")
        values: dict[str, Any] = {}
        for name, member in shape.members.items():
            key = str(member.serialization.get("name", name))
            given = document.get(key)
            if given is not None:  # null means absent
                values[name] = self._value(member, given, f"{path}.{key}" if path else key, depth + 1)
        return values

    def _value(self, shape: Shape, given: Any, path: str, depth: int) -> Any:
        if depth > limits.NESTING_DEPTH_MAX:
            raise malformed("json", f"The request body is nested deeper than {limits.NESTING_DEPTH_MAX} levels.")
        if isinstance(shape, StructureShape):
            return self._structure(shape, given, path, depth)
        if isinstance(shape, ListShape):
            return self._list(shape, given, path, depth)
        if isinstance(shape, MapShape):
            if not isinstance(given, dict):
                raise self._bad(path, "an object")
            return {
                key: self._value(shape.value, value, f"{path}.{key}", depth + 1)
                for key, value in given.items()
                if value is not None
            }
        try:
            return _scalar(shape.type_name, given)
        except ValueError:
            raise self._bad(path, shape.type_name) from None

    def _list(self, shape: ListShape, given: Any, path: str, depth: int) -> list[Any]:
        if not isinstance(given, list):
            raise self._bad(path, "a list")
        if len(given) > limits.JSON_LIST_ITEMS_MAX:
            raise malformed("json", f"{path[:200]} must not have more than {limits.JSON_LIST_ITEMS_MAX} items.")
        return [self._value(shape.member, item, f"{path}.{n}", depth + 1) for n, item in enumerate(given, 1)]

    def _bad(self, path: str, wanted: str) -> ApiError:
        return bad_value(self._service, "json", f"Invalid value at '{path[:200]}': expected {wanted}.")


def _scalar(type_name: str, given: Any) -> Any:
    """One JSON value as the type that the model names; ValueError if it is another kind of value."""
    if type_name in ("string", "character", "blob"):
        if not isinstance(given, str) or len(given) > limits.STRING_CHARACTERS_MAX:
            raise ValueError("not a string of acceptable length")
        return scalars.blob_from_text(given) if type_name == "blob" else given
    if type_name == "boolean":
        if not isinstance(given, bool):
            raise ValueError("not a boolean")
        return given
    if type_name == "timestamp" and isinstance(given, str):
        return scalars.timestamp_from_text(given)
    if type_name in ("float", "double") and isinstance(given, str):
        return scalars.float_from_text(given)
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise ValueError("not a number")
    if type_name == "timestamp":
        return scalars.timestamp_from_number(given)
    if type_name in scalars.INTEGER_RANGES:
        if given != (whole := int(given)):
            raise ValueError("not an integer")
        return scalars.checked_integer(whole, type_name)
    return float(given)
