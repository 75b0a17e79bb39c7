"""Results as JSON, for the json 1.0 and 1.1 protocols: values are turned by shape, msgspec writes the text."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
from botocore.model import ListShape, MapShape, Shape, StructureShape

from mainstay.protocol.aws.xml_encoder import to_datetime

Turner = Callable[[Any], Any]

_SURROGATES = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """Text without lone surrogates, which UTF-8 cannot carry."""
    return _SURROGATES.sub("\ufffd", text)


def encode_json(value: Any) -> bytes:
    """The bytes of a value made of dicts, lists, strings, numbers and booleans."""
    return msgspec.json.encode(value)


def _epoch_seconds(value: datetime | float) -> int | float:
    seconds = round(to_datetime(value).timestamp(), 3)
    return int(seconds) if seconds == int(seconds) else seconds


def _number(value: float) -> float | str:
    text = repr(float(value))
    return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(text, value)


class JsonCompiler:
    """Compiles the shapes of one service, each once."""

    def __init__(self) -> None:
        self._scalars: dict[str, Turner] = {
            "timestamp": _epoch_seconds,
            "blob": lambda value: b64encode(value).decode("ascii"),
            "float": _number,
            "double": _number,
            "integer": lambda value: value,
            "long": lambda value: value,
            "boolean": bool,
        }
        self._compiled: dict[str, Turner] = {}

    def turner(self, shape: Shape) -> Turner:
        """The function that turns a value of this shape into what JSON can hold."""
        found = self._compiled.get(shape.name)
        if found is not None:
            return found
        self._compiled[shape.name] = lambda value: self._compiled[shape.name](value)
        turner = self._compiled[shape.name] = self._compile(shape)
        return turner

    def _compile(self, shape: Shape) -> Turner:
        if isinstance(shape, StructureShape):
            return self._compile_structure(shape)
        if isinstance(shape, ListShape):
            item = self.turner(shape.member)
            return lambda values: [item(value) for value in values]
        if isinstance(shape, MapShape):
            inner = self.turner(shape.value)
            return lambda values: {clean(key): inner(value) for key, value in values.items() if value is not None}
        return self._scalars.get(shape.type_name, clean)

    def _compile_structure(self, shape: StructureShape) -> Turner:
        table = {
            name: (str(member.serialization.get("name", name)), self.turner(member))
            for name, member in shape.members.items()
        }

        def turn(values: dict[str, Any]) -> dict[str, Any]:
            turned: dict[str, Any] = {}
            for name, value in values.items():
                key, inner = table[name]
                if value is not None:
                    turned[key] = inner(value)
            return turned

        return turn
